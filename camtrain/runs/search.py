"""Runs that broke off, found by what their files say; without torch, so that it takes no time."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from camtrain.config.hydra_store import from_tree
from camtrain.config.schema import Config
from camtrain.runs import lock
from camtrain.runs.settings import signature

RESULT = "result.json"  # camtrain.runs.result.NAME, which would import torch


def unfinished_run(folder: Path, config: Config) -> Path | None:
    """The newest of the runs in a folder that broke off and has this signature; None if there is none."""
    wanted, found = signature(config), []
    for path in folder.glob(f"*/{RESULT}"):
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            same = signature(from_tree(tree["config"])) == wanted
            if same and tree["status"] in UNFINISHED and tree["environment"]["camtrain"] == version():
                found.append((path.stat().st_mtime_ns, path.parent))
        except (OSError, LookupError, TypeError, ValueError, AttributeError):
            continue
    return next((run for _, run in sorted(found, reverse=True) if not lock.is_held(run)), None)


UNFINISHED = ("running", "interrupted", "failed")
"""Statuses of a run that can go on; of one that was killed the first."""


def version() -> str:
    return importlib.metadata.version("camtrain")
