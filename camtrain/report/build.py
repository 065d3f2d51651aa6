"""report.html: one page without network access that says whether the network became more interpretable, and shows it.

The verdict comes first, then images, tables with intervals, curves, and how it was made. A single run, several seeds
and a sweep give the same page; a sweep begins with an overview and its Pareto fronts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from camtrain.analysis.over_seeds import Summary
from camtrain.analysis.over_seeds import notes as notes_on
from camtrain.files import write_text
from camtrain.report import setting, sweep
from camtrain.report.page import render

NAME = "report.html"


class Setting(NamedTuple):
    number: int
    label: str
    counted: str
    view: setting.SettingView
    warnings: Sequence[str]  # of its own, where there are several settings


def write(path: Path, title: str, summaries: Sequence[Summary], notes: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        path: of the file.
        title: heading.
        summaries: one for each setting.
        notes: sentences that stand below the verdict.
    """
    several = len(summaries) > 1
    settings = [
        Setting(number, one.label, one.counted, setting.view(one), notes_on(one) if several else ())
        for number, one in enumerate(summaries, start=1)
    ]
    overview = sweep.view(summaries) if several else None
    write_text(path, render("page.html", title=title, settings=settings, sweep=overview, warnings=notes))
