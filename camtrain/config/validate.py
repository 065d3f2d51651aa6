"""Checks that a schema of types cannot make: ranges, keys that a task needs, keys that belong to a finished run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from omegaconf import MISSING

from camtrain.config.options import AUTO, EVALUATION_ONLY, TRAINABLE, Task
from camtrain.config.schema import DATASETS, Config, DatasetConfig, FolderConfig, PublishedConfig, keys
from camtrain.errors import UserError

NEEDED = {Task.evaluate: ("run",), Task.explain: ("run", "images"), Task.report: ("runs",)}
"""Keys without which a task has nothing to do."""


TAKEN = {
    Task.evaluate: (
        *("task", "run", "seed", "evaluate.", "report.", "dataset", "hydra."),
        *("trainer.batch_size", "trainer.device", "trainer.threads", "trainer.workers"),
    ),
    Task.explain: (
        *("task", "run", "images", "class_name", "hydra."),
        *("trainer.batch_size", "trainer.device", "trainer.threads", "trainer.workers"),
    ),
    Task.report: ("task", "runs", "report.", "hydra."),
}
"""Keys that a task on finished runs takes from the command line, or what they begin with; the rest is the runs'."""


def check_taken(task: Task, chosen: Iterable[str]) -> None:
    """Raise :class:`UserError` for the first key that was set and that the task takes from its run."""
    for key in sorted(chosen):
        if task in TAKEN and not key.startswith(TAKEN[task]):
            raise UserError(f"{key}: task={task.value} takes it from the run, or has no use for it; leave it out")


def check(config: Config) -> None:
    """Raise :class:`UserError` for the first value that is missing or out of its range."""
    for key, value, entry in keys(config):
        if value == MISSING or (key == "dataset.root" and not value):
            raise UserError(f"{key} is not set: give it as {key}=VALUE")
        if "low" in entry.metadata and value is not None:
            low, high, above = (entry.metadata[name] for name in ("low", "high", "above"))
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str):
                    if item == AUTO:
                        continue
                    raise UserError(f"{key}: {item} does not fit; it must be a number or {AUTO}")
                if not math.isfinite(item) or not (low < item <= high if above else low <= item <= high):
                    bounds = f"above {low}" if above else f"at least {low}"
                    bounds += f" and at most {high}" if high < math.inf else " and finite" * math.isinf(item)
                    shown = item if isinstance(item, int) else f"{item:g}"
                    raise UserError(f"{key}={shown} is out of range: it must be {bounds}")
    for key in NEEDED.get(config.task, ()):
        if not getattr(config, key):
            raise UserError(f"{key} is not set: give it as {key}={'FOLDER' if key.startswith('run') else 'PATH'}")
        if key == "run" and not Path(str(config.run)).expanduser().is_dir():
            raise UserError(f"run={config.run}: there is no such folder")
    crop_range(config.dataset)
    if config.cam.variant in EVALUATION_ONLY:
        name = config.cam.variant.value
        raise UserError(
            f"cam.variant={name} can be measured, by evaluate.maps=[{name}], but not trained through; use one of"
            f" {', '.join(variant.value for variant in TRAINABLE)}"
        )
    if not isinstance(config.dataset, DATASETS[config.dataset.name]):
        raise UserError(
            f"dataset.name={config.dataset.name.value}: choose the data set with dataset={config.dataset.name.value}"
        )
    if isinstance(config.dataset, FolderConfig | PublishedConfig):
        download = isinstance(config.dataset, PublishedConfig) and config.dataset.download
        if not download and not Path(config.dataset.root).expanduser().is_dir():
            raise UserError(f"dataset.root={config.dataset.root}: there is no such folder")


def crop_range(dataset: DatasetConfig) -> tuple[float, float]:
    """Smallest and largest share of the image that a training crop covers."""
    if len(dataset.crop_scale) != 2 or dataset.crop_scale[0] > dataset.crop_scale[1]:
        raise UserError(f"dataset.crop_scale={dataset.crop_scale} must be two shares, the smaller one first: [0.4, 1]")
    return dataset.crop_scale[0], dataset.crop_scale[1]
