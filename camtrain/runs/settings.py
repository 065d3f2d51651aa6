"""The settings by which experiments are told apart: every key but those that change no figure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from camtrain.config.hydra_store import cam_of_arms
from camtrain.config.schema import OF_THE_MACHINE, Config, ExportConfig, PythonConfig, keys, plain
from camtrain.errors import UserError

Values = tuple[str | float | bool, str | float | bool]
"""Of a setting: as it was, and as it is now."""

NOT_OF_A_RUN = (
    *("task", "run", "runs", "resume", "prune", "images", "class_name"),
    *("sweep.fail_fast", "sweep.jobs", "sweep.objectives", "report.open"),
    *(f"export.{entry.name}" for entry in dataclasses.fields(ExportConfig)),
)
"""Keys that say what a command does, and nothing of the run."""

NO_SETTINGS = (
    *(key for key in NOT_OF_A_RUN if key != "task"),  # what was only measured again stands apart
    *("seed", "evaluate.images", "evaluate.image_epochs"),
    *OF_THE_MACHINE,
)
"""Keys in which runs may differ and still be the same experiment."""


def settings(config: Config) -> dict[str, str | float | bool]:
    """Every key that makes another experiment, with its value."""
    return {
        key: f"[{','.join(str(plain(part)) for part in value)}]" if isinstance(value, list) else plain(value)
        for key, value, _ in keys(config)
        if key not in NO_SETTINGS and not key.startswith("report.")
    }


def signature(config: Config) -> str:
    """A name for what a run computes: a hash of every key but those of the machine and of the command."""
    kept = {key: plain(value) for key, value, _ in keys(config) if key not in (*NOT_OF_A_RUN, *OF_THE_MACHINE)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


OF_TREATMENTS = (
    *("share", "balance", "conflict", "consistency", "keep", "masked_kl", "saliency_guided", "start", "ramp", "anchor"),
)
"""Of the section `cam`, what an arm with `cam.weight=0` does not use."""

MEASURED_LAST = (
    *("evaluate.images", "evaluate.image_epochs", "evaluate.maps", "evaluate.faithfulness_images"),
    *("evaluate.road_images", "evaluate.sanity_images", "evaluate.scorecam_images", "report.", "sweep."),
)
"""Beginnings of keys that training does not know."""


def of_reference(config: Config) -> str | None:
    """Every setting that the reference arm uses, as text, but for what is looked at beside it: images and initial
    weights. None where it cannot be told what it becomes, or not without the others: it trains a term, arms fork from
    it, or the network or the data are a function of the user's.
    """
    cam = next(iter(cam_of_arms(config).values()))
    own = ":" in config.model.name or isinstance(config.dataset, PythonConfig)
    if cam.weight != 0 or config.trainer.fork is not None or own:
        return None
    left_out = (*NOT_OF_A_RUN, *OF_THE_MACHINE, "dataset.root", "model.weights")
    kept = {
        key: plain(value)
        for key, value, _ in keys(config)
        if key not in left_out and not key.startswith(("arms", "cam.", *MEASURED_LAST))
    }
    of_batches = {
        f"cam.{name}": plain(getattr(config.cam, name)) for name in ("variant", "score", "views", "views_share")
    }
    of_arm = {name: plain(value) for name, value in vars(cam).items() if name not in OF_TREATMENTS}
    return json.dumps([kept, of_batches, of_arm, next(iter(config.arms))], sort_keys=True)


def changes(former: Config, present: Config) -> dict[str, Values]:
    """Settings of a run that differ when it goes on, by key."""
    before, now = ({key: plain(value) for key, value, _ in keys(config)} for config in (former, present))
    return {
        key: (before.get(key, "null"), now.get(key, "null"))
        for key in dict.fromkeys([*before, *now])
        if key not in NOT_OF_A_RUN and before.get(key, "null") != now.get(key, "null")
    }


def check_same(folder: Path, different: Mapping[str, Values], allowed: Collection[str], advice: str = "") -> None:
    """Raise :class:`UserError` for settings with which the run in a folder cannot go on.

    Args:
        folder: of the run.
        different: what :func:`changes` found.
        allowed: keys that may change.
        advice: stands in the message.
    """
    refused = [in_words(key, values) for key, values in different.items() if key not in allowed]
    if refused:
        raise UserError(f"{folder}: a run goes on with its own settings{advice}; {'; '.join(refused)}")


def in_words(key: str, values: Values) -> str:
    before, now = (json.dumps(value) if isinstance(value, bool) else value for value in values)
    return f"{key} was {before}, is {now}"
