"""Checks that a schema of types cannot make: ranges, arms, what a task needs, what belongs to a finished run."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Mapping
from typing import Any

from camtrain.arms import CONTROL, CONTROL_AREA
from camtrain.config.options import (
    EVALUATION_ONLY,
    TRAINABLE,
    CamConfig,
    DatasetName,
    Task,
    ViewKind,
    check_range,
    second_pass_terms,
    trains_maps,
)
from camtrain.config.schema import (
    DATASETS,
    MISSING,
    OF_THE_MACHINE,
    Config,
    DatasetConfig,
    FolderConfig,
    NetworkConfig,
    PublishedConfig,
    TrainerConfig,
    keys,
)
from camtrain.errors import UserError
from camtrain.files import expanded

MAY_CHANGE = (*OF_THE_MACHINE, "dataset.root", "model.weights")
"""Keys of the machine and of places, which may change when a run that broke off goes on."""

NEEDED = {
    Task.evaluate: ("run",),
    Task.explain: ("run", "images"),
    Task.export: ("run",),
    Task.report: ("runs",),
    Task.resume: ("run",),
}
"""Keys that a task cannot do without."""

TAKEN = {
    Task.evaluate: (
        *("task", "run", "model.name", "seed", "evaluate.", "report.", "dataset", "hydra."),
        *("trainer.batch_size", "trainer.device", "trainer.threads", "trainer.workers"),
    ),
    Task.compare: (
        *("task", "reference", "treatment", "model.name", "seed", "evaluate.", "report.", "dataset", "hydra."),
        *("trainer.batch_size", "trainer.device", "trainer.threads", "trainer.workers"),
    ),
    Task.explain: (
        *("task", "run", "model.name", "images", "class_name", "hydra."),
        *("trainer.batch_size", "trainer.device", "trainer.threads", "trainer.workers"),
    ),
    Task.report: ("task", "runs", "report.", "hydra."),
    Task.resume: ("task", "run", "trainer.epochs", "model.name", "dataset.source", "report.open", *MAY_CHANGE),
    Task.export: (
        *("task", "run", "model.name", "dataset.source", "dataset.root", "class_name", "export.", "hydra."),
        *("trainer.threads", "trainer.workers"),
    ),
    Task.baselines: ("task", "trainer.baselines", "prune", "hydra."),
}
"""Keys, or beginnings of keys, that a task on finished runs takes from the command line; the rest is the runs'."""

OF_OTHERS = {
    "run": "evaluate, explain, export or resume",
    "runs": "report",
    "reference": "compare",
    "treatment": "compare",
    "images": "explain",
    "class_name": "explain or export",
    "prune": "baselines",
    "export": "export",
}
"""Keys for which training has no use, with the tasks that have one."""

ARM_NAME = re.compile(r"[a-z][a-z0-9_]*")

RESERVED = (
    *(CONTROL, CONTROL_AREA, "pictures", "tb", "uniform", "size", "from", "to", "file", "why", "picture", "truth"),
    *("difference", "margin_95", "p", "p_holm", "both_right", "verdict"),
)
"""Names that stand beside those of arms, in the run folder or among the figures of its files."""

WITHOUT_UP = (DatasetName.shapes, DatasetName.eurosat)
"""Data sets whose images may be turned and mirrored in any way."""

EXAMPLE = "+arms.area.cam.term=area"


def check_taken(task: Task, chosen: Iterable[str]) -> None:
    """Raise :class:`UserError` for the first key that was set although the task takes it from its run, or has no use
    for it: to train instead would be a surprise of minutes."""
    for key in sorted(chosen):
        if task not in TAKEN and (others := OF_OTHERS.get(key.partition(".")[0])):
            raise UserError(f"{key} is for task={others}, not for task={task.value}: name one, or leave it out")
        if task in TAKEN and not key.startswith(("sweep.", *TAKEN[task])):
            raise UserError(f"{key}: task={task.value} takes it from the run, or has no use for it; leave it out")


def check(config: Config) -> None:
    """Raise :class:`UserError` for the first value that is missing, out of its range or at odds with others."""
    image_shape(config.dataset)
    check_values(config)
    check_needed(config)
    crop_range(config.dataset)
    intensity_range(config.dataset)
    fold_of(config.dataset)
    saving_intervals(config.trainer)
    check_processes(config.trainer)
    check_trainable(config.cam, "cam.")
    check_dataset(config.dataset)
    check_arms(config.arms)
    asked = config.sweep.objectives
    if not asked or len(set(asked)) < len(asked):
        raise UserError(f"sweep.objectives=[{','.join(one.value for one in asked)}]: name one or more, each once")


def check_processes(trainer: TrainerConfig) -> None:
    """Raise :class:`UserError` for more processes than a batch has images."""
    count, images = trainer.processes or 1, trainer.batch_size
    if count > images:
        raise UserError(f"trainer.processes={count}: trainer.batch_size={images} leaves some without an image")


def check_values(node: Any, prefix: str = "") -> None:
    """Raise :class:`UserError` for the first leaf of a configuration that is missing or out of its range.

    Args:
        node: a dataclass of the schema.
        prefix: begins its keys.
    """
    for key, value, entry in keys(node, prefix):
        if value == MISSING or (key == "dataset.root" and not value):
            raise UserError(f"{key} is not set: give it as {key}=VALUE")
        if str(entry.type).startswith("list[") and value is not None:
            check_list(key, value, entry)
        bounds = entry.metadata["range"]
        if bounds is not None and value is not None:
            for item in value if isinstance(value, list) else [value]:
                check_range(key, item, bounds)


def check_list(key: str, value: Any, entry: dataclasses.Field[Any]) -> None:
    """Raise :class:`UserError` for what is no list, or one of other values than the key holds: OmegaConf lets lists in
    lists and what an interpolation stands for pass."""
    item = str(entry.type).partition("[")[2].partition("]")[0]
    kinds = {"float": (int, float), "int": (int,), "str": (str,)}.get(item, (enum.Enum,))
    if not isinstance(value, list) or not all(isinstance(part, kinds) for part in value):
        raise UserError(f"{key}={value} does not fit; it must be a list of single values, such as [A,B]")


def check_needed(config: Config) -> None:
    """Raise :class:`UserError` for the first key that the task needs and that is not set."""
    for key in NEEDED.get(config.task, ()):
        if not getattr(config, key):
            raise UserError(f"{key} is not set: give it as {key}={'FOLDER' if key.startswith('run') else 'PATH'}")
        if key == "run":
            check_folder(key, str(config.run))
    if config.task is Task.compare:
        for key, node in (("reference", config.reference), ("treatment", config.treatment)):
            if not node.network and (key == "reference" or node != NetworkConfig()):
                raise UserError(f"{key} is not set: give it as {key}=NETWORK, such as {key}=RUN/ARM or {key}=NAME@FILE")


def check_trainable(cam: CamConfig, prefix: str) -> None:
    """Raise :class:`UserError` for a map that cannot be trained through."""
    if cam.variant in EVALUATION_ONLY:
        name = cam.variant.value
        raise UserError(
            f"{prefix}variant={name} can be measured, by evaluate.maps=[{name}], but not trained through; use one of"
            f" {', '.join(variant.value for variant in TRAINABLE)}"
        )


def views_of(config: Config) -> ViewKind:
    """What `cam.views` stands for: of auto, turned views of images without an up, of others, with which it has not been
    shown to help, none."""
    dataset = config.dataset
    if config.cam.views is not ViewKind.auto:
        return config.cam.views
    _, height, width = image_shape(dataset)
    if dataset.name in WITHOUT_UP and dataset.flip and height == width:
        return ViewKind.symmetries
    return ViewKind.none


def check_views(cam: CamConfig, config: Config, prefix: str) -> None:
    """Raise :class:`UserError` where views of images cannot be, or an arm asks for others than the run has.

    Args:
        cam: of one arm.
        config: of the run; the views of its `cam` are what batches hold.
        prefix: of the arm's keys.
    """
    ours = config.cam
    if cam.views is not ViewKind.none and (cam.views, cam.views_share) != (ours.views, ours.views_share):
        raise UserError(
            f"{prefix}views={cam.views.value}: all arms get the same batches; set cam.views, and in arms only none"
        )
    if cam.weight == 0:
        return
    without = cam.views is ViewKind.none
    if cam.contrastive and without:
        raise UserError(f"{prefix}contrastive={cam.contrastive:g} needs views: set cam.views=mirror")
    if cam.contrastive and round(ours.views_share * config.trainer.batch_size) < 2:
        raise UserError(
            f"{prefix}contrastive={cam.contrastive:g} needs two views in a batch: raise cam.views_share"
            f" ({ours.views_share:g}) or trainer.batch_size ({config.trainer.batch_size})"
        )
    if not (trains_maps(cam, not without) or second_pass_terms(cam)):
        raise UserError(
            f"{prefix}term=none leaves nothing to minimise: set {prefix}consistency and cam.views, or {prefix}weight=0"
        )


def check_fork(cams: Mapping[str, CamConfig], trainer: TrainerConfig) -> None:
    """Raise :class:`UserError` where arms cannot begin as one network, or one is held to a network that is not there.

    Args:
        cams: of each arm, by name; the first one is what all are until the fork.
        trainer: says when they part.
    """
    if trainer.fork is None:
        for name, cam in cams.items():
            if cam.anchor and cam.weight != 0:
                raise UserError(
                    f"arms.{name}.cam.anchor={cam.anchor:g} needs the network of an epoch to hold on to: set"
                    " trainer.fork"
                )
        return
    first = next(iter(cams))
    if cams[first].weight != 0:
        raise UserError(
            f"trainer.fork={trainer.fork}: until then all arms are the first one, which must be plain: set"
            f" arms.{first}.cam.weight=0"
        )
    if trainer.fork >= trainer.epochs:
        raise UserError(
            f"trainer.fork={trainer.fork} leaves no epoch in which arms differ: it must be below trainer.epochs"
            f" ({trainer.epochs})"
        )


def check_dataset(dataset: DatasetConfig) -> None:
    """Raise :class:`UserError` for keys that are at odds with each other, or a folder that does not exist."""
    if not isinstance(dataset, DATASETS[dataset.name]):
        raise UserError(f"dataset.name={dataset.name.value}: choose the data set with dataset={dataset.name.value}")
    if dataset.cache == "":
        raise UserError("dataset.cache is empty: give a folder, auto, or null for none")
    if dataset.channels != 3:
        for key in ("saturation", "hue"):
            if getattr(dataset, key):
                raise UserError(f"dataset.{key}={getattr(dataset, key):g}: only images of three channels have colours")
    if isinstance(dataset, FolderConfig | PublishedConfig):
        if dataset.channels not in (1, 3):
            raise UserError(f"dataset.channels={dataset.channels}: image files have 1 (grey) or 3")
        download = isinstance(dataset, PublishedConfig) and dataset.download
        if not download:
            check_folder("dataset.root", dataset.root)
    if isinstance(dataset, FolderConfig):
        named = dataset.annotations if isinstance(dataset.annotations, list) else [dataset.annotations]
        if not all(isinstance(name, str) for name in named if name is not None):
            raise UserError(f"dataset.annotations={dataset.annotations}: it must be a file, a folder, a list or null")


def check_folder(key: str, path: str) -> None:
    """Raise :class:`UserError` for a path that is not that of a folder."""
    place = expanded(path)
    if not place.is_dir():
        archive = place.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
        remedy = "unpack it, and give the folder" if archive else "give a folder"
        problem = f"this is a file; {remedy}" if place.exists() else "there is no such folder"
        raise UserError(f"{key}={path}: {problem}")


def image_shape(dataset: DatasetConfig) -> tuple[int, int, int]:
    """Channels, height and width of the network's input."""
    size = dataset.image_size
    edges = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(edges) != 2 or not all(type(edge) is int for edge in edges):
        raise UserError(
            f"dataset.image_size={size} does not fit; it must be a whole number, or a height and a width: [160,224]"
        )
    return dataset.channels, edges[0], edges[1]


def crop_range(dataset: DatasetConfig) -> tuple[float, float]:
    """Smallest and largest share of the image that a training crop covers."""
    if len(dataset.crop_scale) != 2 or dataset.crop_scale[0] > dataset.crop_scale[1]:
        raise UserError(f"dataset.crop_scale={dataset.crop_scale} must be two shares, the smaller one first: [0.4,1]")
    return dataset.crop_scale[0], dataset.crop_scale[1]


def intensity_range(dataset: DatasetConfig) -> tuple[float, float] | None:
    """Values that become black and white in images of more than 8 bits; None: they are found from the images."""
    given = dataset.intensity_range
    if given is None:
        return None
    if len(given) != 2 or not given[0] < given[1]:
        raise UserError(f"dataset.intensity_range={given} must be two values, black first: [0, 4096]")
    return given[0], given[1]


def fold_of(dataset: DatasetConfig) -> tuple[int, int] | None:
    """k and n of `dataset.fold=k/n`; None where there are no folds."""
    if dataset.fold is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", dataset.fold, re.ASCII)
    if found is None or not int(found[1]) < int(found[2]) >= 2:
        raise UserError(f"dataset.fold={dataset.fold}: give k/n with 0 <= k < n and n of 2 or more, such as 0/5")
    return int(found[1]), int(found[2])


def saving_intervals(trainer: TrainerConfig) -> tuple[int | None, float | None]:
    """Steps and seconds after which training is saved within an epoch; None: not by these."""
    steps, seconds = None, None
    given = trainer.checkpoint_every
    for part in given if isinstance(given, list) else [] if given is None else [given]:
        minutes = re.fullmatch(r"(\d+(?:\.\d+)?) ?min", part) if isinstance(part, str) else None
        if minutes and float(minutes[1]) > 0 and seconds is None:
            seconds = 60 * float(minutes[1])
        elif type(part) is int and part > 0 and steps is None:
            steps = part
        else:
            raise UserError(
                f"trainer.checkpoint_every={given}: give a number of steps, minutes such as 10min, a list of both such"
                " as [500,10min], or null"
            )
    return steps, seconds


def check_arms(arms: Mapping[str, Any], least: int = 2) -> None:
    """Raise :class:`UserError` for too few arms, a name that cannot be used, or a difference outside `cam`.

    What is within `cam` is checked by :func:`camtrain.config.hydra_store.cam_of_arms`.
    """
    for name, difference in arms.items():
        if not ARM_NAME.fullmatch(name):
            raise UserError(f"arms.{name}: an arm is named in lower-case letters, digits and _, such as {EXAMPLE}")
        if name in RESERVED:
            raise UserError(f"arms.{name}: this name is taken; give the arm another one")
        if not isinstance(difference, Mapping):
            raise UserError(
                f"arms.{name}: {difference} does not fit; an arm is given by its settings, such as {EXAMPLE}"
            )
        for section in difference:
            if section != "cam":
                raise UserError(f"arms.{name}.{section}: arms may differ in cam only, such as {EXAMPLE}")
        if not isinstance(difference.get("cam", {}), Mapping):
            raise UserError(f"arms.{name}.cam: set one of its keys, such as {EXAMPLE}")
    if len(arms) < least:
        raise UserError(f"arms: a comparison needs at least two, not {len(arms)}; add one, such as {EXAMPLE}")
