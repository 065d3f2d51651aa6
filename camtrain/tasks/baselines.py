"""`task=baselines`: list the trained reference arms that runs share, and remove those that no run needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from camtrain.config.options import AUTO
from camtrain.config.schema import Config
from camtrain.errors import MALFORMED, UserError
from camtrain.report.tables import aligned
from camtrain.runs import baselines
from camtrain.runs.lock import Lock

EVERYWHERE = "sweeps/*/baselines"
"""Where sweeps keep them, in the folder of outputs."""

DAY = 24 * 60 * 60


def list_baselines(config: Config) -> str:
    """A table of the trained arms in a folder, or of those of all sweeps, and what was removed.

    Raises:
        UserError: there is no such folder.
    """
    if config.trainer.baselines in (None, AUTO):
        folders = sorted(Path("outputs").glob(EVERYWHERE))
    elif Path(str(config.trainer.baselines)).is_dir():
        folders = [Path(str(config.trainer.baselines))]
    else:
        raise UserError(f"trainer.baselines={config.trainer.baselines}: no such folder")
    rows = [row for folder in folders for row in _rows(folder, config.prune)]
    if not rows:
        where = config.trainer.baselines if config.trainer.baselines not in (None, AUTO) else f"outputs/{EVERYWHERE}"
        return f"no trained baselines in {where}"
    heading = ["baseline", "what", "epochs", "MB", "days unused", ""]
    return aligned([heading, *rows])


def _rows(folder: Path, prune: float | None) -> Iterator[list[str]]:
    for path, tree in baselines.kept(folder):
        try:
            about = path.stat()
        except FileNotFoundError:  # another process has removed it meanwhile
            continue
        days = (time.time() - about.st_mtime) / DAY
        try:
            what, epochs = str(tree["about"]), str(len(tree["history"]))
        except MALFORMED:
            what, epochs = "damaged", "-"
        removed = prune is not None and days >= prune and _remove(path)
        yield [str(path), what, epochs, f"{about.st_size / 2**20:.1f}", f"{days:.1f}", "removed" if removed else ""]


def _remove(path: Path) -> bool:
    """Whether it was removed: not while a run trains it anew."""
    lock = Lock(path.with_suffix(".lock"))
    try:
        lock.acquire(0)
    except Timeout:
        return False
    path.unlink(missing_ok=True)
    lock.release()
    path.with_suffix(".lock").unlink(missing_ok=True)
    return True
