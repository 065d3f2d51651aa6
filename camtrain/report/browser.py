"""The report in the user's browser."""

from __future__ import annotations

import logging
import webbrowser
from pathlib import Path

log = logging.getLogger("camtrain")


def show(page: Path) -> None:
    """Open a page; where there is no browser that is said, and nothing else happens."""
    try:
        shown = webbrowser.open(page.absolute().as_uri())
    except (webbrowser.Error, OSError, ValueError):  # of the browser, of its start, of a name that is no address
        shown = False
    if not shown:
        log.warning("Note: report.open: there is no browser here; open %s yourself", page)
