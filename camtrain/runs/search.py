"""Runs that broke off or were completed, found by what their files say; without torch, so that it takes no time."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import NamedTuple

from camtrain.config.hydra_store import from_tree
from camtrain.config.schema import Config
from camtrain.config.validate import MAY_CHANGE
from camtrain.errors import MALFORMED, UserError
from camtrain.runs import lock
from camtrain.runs.settings import changes, check_same, signature

RESULT = "result.json"  # camtrain.runs.result.NAME, which would import torch


class Begun(NamedTuple):
    """What the folder of a run says of it."""

    config: Config
    status: str
    version: str  # of camtrain
    images: str | None  # their fingerprint; None where it is not known


def begun(folder: Path) -> Begun | None:
    """The run in a folder; None if there is none that can be read."""
    try:
        tree = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        images = tree["data"].get("fingerprint")
        version = tree["environment"]["camtrain"]
        return Begun(from_tree(tree["config"]), tree["status"], version, images and str(images))
    except (OSError, *MALFORMED):
        return None


def unfinished_run(folder: Path, config: Config) -> Path | None:
    """The newest of the runs in a folder that broke off and has this signature; None if there is none."""
    wanted, found = signature(config), []
    for path in folder.glob(f"*/{RESULT}"):
        run = begun(path.parent)
        if run and run.status in UNFINISHED and run.version == version() and signature(run.config) == wanted:
            found.append((path.stat().st_mtime_ns, path.parent))
    return next((run for _, run in sorted(found, reverse=True) if not lock.is_held(run)), None)


def completed_run(folder: Path, config: Config) -> Begun | None:
    """The completed run of this signature in a folder; None if there is none. Its images are not looked at.

    Raises:
        UserError: it holds a run that cannot go on by this configuration, or a completed one of another version.
    """
    run = begun(folder)
    if run is None:
        return None
    check_same(folder, changes(run.config, config), MAY_CHANGE)
    if run.status == COMPLETED and run.version != version():
        raise UserError(f"{folder} holds a run of camtrain {run.version}, this is {version()}: choose another folder")
    return run if run.status == COMPLETED and signature(run.config) == signature(config) else None


COMPLETED = "completed"

UNFINISHED = ("running", "interrupted", "failed")
"""Statuses of a run that can go on; of one that was killed the first."""


def version() -> str:
    return importlib.metadata.version("camtrain")
