"""The configuration as typed dataclasses: every key, its type, default, range and meaning.

The files under ``conf/`` choose values; these classes say which keys exist and what they may hold. They are the schema
that Hydra checks every override against. Ranges, which Hydra does not know, are checked by :func:`check`.

torch is not imported here, so that ``camtrain --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from camtrain.config.options import (
    AUTO,
    TRAINABLE,
    BatchNorm,
    CamVariant,
    Conflict,
    DatasetName,
    Device,
    EntropyUnit,
    GradientPath,
    LrSchedule,
    OnError,
    Optimiser,
    Precision,
    Score,
    Stem,
    Task,
    Term,
)


def _ranged(default: Any, low: float = -math.inf, high: float = math.inf, above: bool = False) -> Any:
    """A field whose value (or each item of its list) lies in low..high; `above` leaves low itself out."""
    metadata = {"low": low, "high": high, "above": above}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DatasetConfig:
    """What every data set has."""

    name: DatasetName = MISSING
    image_size: int = _ranged(64, 8, 2048)  # pixels, height and width of what the network sees
    crop_scale: list[float] = _ranged([1.0, 1.0], 0, 1, above=True)  # share of the image a training crop covers
    flip: bool = True  # mirror half of the training images
    brightness: float = _ranged(0.0, 0, 1)  # of training images, varied by a factor of 1 - so much to 1 + so much
    contrast: float = _ranged(0.0, 0, 1)
    saturation: float = _ranged(0.0, 0, 1)
    hue: float = _ranged(0.0, 0, 0.5)  # turned by up to so many whole turns either way
    erase: float = _ranged(0.0, 0, 1)  # share of training images in which a rectangle is hidden
    cache: str | None = AUTO  # folder of decoded images; auto: in the user's cache folder; null: decode every time
    on_error: OnError = OnError.fail  # what an image that cannot be read does: stop the run, or be left out and listed


@dataclass
class ShapesConfig(DatasetConfig):
    """Generated images of geometric objects in clutter."""

    objects: int = _ranged(1, 1, 4)  # most objects in an image; above 1 each has 1 to so many, of different classes
    train: int = _ranged(4000, 8)
    val: int = _ranged(1000, 8)


@dataclass
class FakeConfig(DatasetConfig):
    """Coloured noise with a box on it, for tests."""

    classes: int = _ranged(3, 2)
    train: int = _ranged(32, 2)
    val: int = _ranged(16, 2)


@dataclass
class FolderConfig(DatasetConfig):
    """A person's own images: root/[images/]{train,val}/CLASS/*, masks and boxes optional."""

    root: str = MISSING
    train_split: str = "train"
    val_split: str = "val"
    boxes: str | None = "boxes.csv"  # relative to root; read if it is there
    void: int | None = _ranged(255, 1, 255)  # mask value that is left out of every score; null: none


@dataclass
class PublishedConfig(DatasetConfig):
    """A set that people publish and torchvision reads."""

    root: str = MISSING
    download: bool = False  # fetch it into root, if nothing is there
    mirror: str | None = None  # address of a folder with the archives, instead of where they are published


@dataclass
class ModelConfig:
    name: str = MISSING  # small_resnet, or any torchvision classifier
    weights: str | None = None  # null or none, a torchvision weights name (IMAGENET1K_V1), or a file
    layer: str | None = None  # target layer of the map; null: the last one with a grid
    stem: Stem = Stem.auto  # auto: lower the strides of the stem until the map has 4 x 4 cells
    batch_norm: BatchNorm = BatchNorm.batch  # frozen: keep the statistics of the pretrained weights


@dataclass
class CamConfig:
    variant: CamVariant = field(default=CamVariant.gradcam, metadata={"choices": TRAINABLE})
    score: Score = Score.centred
    term: Term = Term.entropy  # what is asked of the map, see camtrain.loss.terms
    weight: int | float | str = _ranged(AUTO, 0)  # of the term in the loss; auto: holds its share of the effort
    # Of the effort, times the mean confidence; null: see camtrain.loss.balance.default_share
    share: float | None = _ranged(None, 0, 0.99, above=True)
    confidence_exponent: float = _ranged(2.0, 0)  # a map's term counts by p^exponent, p of its class; 0: fully
    conflict: Conflict = Conflict.project  # take out of the term's gradient what opposes classification; or keep it
    unit: EntropyUnit = EntropyUnit.normalised  # entropy divided by ln(cells), or in nats
    start: float = _ranged(0.0, 0)  # epochs before the term comes in
    ramp: float = _ranged(0.0, 0)  # epochs over which its weight rises linearly to full
    path: GradientPath = GradientPath.auto  # auto: closed form where a probe finds it exact


@dataclass
class OptimConfig:
    name: Optimiser = Optimiser.adamw
    lr: float | None = _ranged(None, 0, above=True)  # null: see camtrain.training.optim.default_learning_rate
    weight_decay: float = _ranged(0.01, 0)
    momentum: float = _ranged(0.9, 0, 1)  # sgd only
    schedule: LrSchedule = LrSchedule.cosine
    warmup: float = _ranged(0.0, 0)  # epochs over which the learning rate rises linearly


@dataclass
class TrainerConfig:
    epochs: int = _ranged(20, 1)
    batch_size: int = _ranged(32, 2)
    max_steps: int | None = _ranged(None, 1)  # stop after so many steps
    device: Device = Device.auto
    threads: int | None = _ranged(None, 1)  # of the CPU; null: as torch finds best
    workers: int | None = _ranged(None, 1)  # threads that make batches; null: as many as trainer.threads, or CPUs
    channels_last: bool = True  # memory layout; faster for most networks
    precision: Precision = Precision.float32  # of the network; bfloat16 by autocast, maps and losses stay in float32
    compile: bool = False  # torch.compile of what can be compiled


@dataclass
class EvaluateConfig:
    max_images: int = _ranged(2000, 1)  # validation images whose maps are measured, a fixed random choice
    images: int = _ranged(8, 0, 64)  # validation images whose maps are drawn
    # Maps that are measured after the last epoch beside the trained one: witnesses that were not trained on
    maps: list[CamVariant] = field(
        default_factory=lambda: [CamVariant.gradcam, CamVariant.gradcampp, CamVariant.layercam, CamVariant.eigencam]
    )
    faithfulness_images: int = _ranged(64, 0)  # after the last epoch; some 35 forward passes for each map
    road_images: int = _ranged(32, 0)  # of these, how many for ROAD; 9 forward passes, and as many images repaired
    sanity_images: int = _ranged(32, 0)  # whose maps are made again with fresh weights
    scorecam_images: int = _ranged(32, 1)  # images for scorecam: a forward pass for every channel of each
    image_epochs: list[int] | None = _ranged(None, 1)  # null: 1, 2, 4, 8, ... and the last


@dataclass
class ReportConfig:
    """What "not worse" means in the verdict; see :mod:`camtrain.analysis.verdict`."""

    accuracy_margin: float = _ranged(0.01, 0, 1)  # accuracy, or mean average precision, that may be lost
    faithfulness_margin: float = _ranged(0.02, 0, 1)  # probability, of the areas under deletion and insertion
    health_margin: float = _ranged(0.01, 0, 1)  # by which dead rate and mass at the border may rise


@dataclass
class Config:
    dataset: DatasetConfig = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    cam: CamConfig = field(default_factory=CamConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = _ranged(0, 0, 2**31 - 1)
    # Instead of training, layers lists those of the network, data says what is in the data set, evaluate measures a
    # finished run again, explain draws its maps over other images, report compares runs over seeds and settings
    task: Task = Task.train
    run: str | None = None  # folder of the finished run, for evaluate and explain
    runs: str | None = None  # folder that holds finished runs, for report
    images: str | None = None  # images to explain: a file, a folder, or a pattern such as "photos/*.jpg"
    class_name: str | None = None  # whose map explain draws, on the command line also class=NAME; null: the predicted


DATASETS = dict.fromkeys(DatasetName, PublishedConfig) | {
    DatasetName.shapes: ShapesConfig,
    DatasetName.folder: FolderConfig,
    DatasetName.fake: FakeConfig,
}


def keys(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every leaf of a configuration as (dotted key, value, field)."""
    for entry in dataclasses.fields(node):
        value = getattr(node, entry.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value, entry


def plain(value: Any) -> str | float | bool:
    """A configuration value as TensorBoard's hyperparameters take it."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if value is None:
        return "null"
    return value if isinstance(value, bool | int | float | str) else str(value)
