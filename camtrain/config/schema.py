"""The configuration as typed dataclasses: every key, its type, default, range and meaning.

The files under ``conf/`` choose values; these classes say which keys exist and what they may hold, and Hydra checks
every override against them. What Hydra does not know, such as ranges, is checked by
:func:`camtrain.config.validate.check`. The meanings are printed by :mod:`camtrain.config.reference`.

Neither torch nor Hydra is imported here.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from camtrain.arms import BASELINE, REGULARISED
from camtrain.config.options import (
    AUTO,
    BatchNorm,
    CamVariant,
    DatasetName,
    Device,
    ExportFormat,
    Fit,
    LrSchedule,
    Objective,
    OnError,
    Optimiser,
    Precision,
    Resume,
    Score,
    Stem,
    Task,
    setting,
)
from camtrain.config.options import CamConfig as CamConfig

MISSING = "???"
"""What OmegaConf takes for a value that must be given."""

ARMS: dict[str, Any] = {BASELINE: {"cam": {"weight": 0}}, REGULARISED: {}}
"""The arms of the default experiment, each by the settings in which it differs."""

OF_THE_MACHINE = (
    *("trainer.device", "trainer.processes", "trainer.threads", "trainer.workers", "trainer.checkpoint_every"),
    *("dataset.cache", "dataset.download", "dataset.mirror", "trainer.baselines"),
)
"""Keys that change no figure."""

RENAMED = {
    "evaluate.pictures": "evaluate.images",
    "evaluate.max_pictures": "evaluate.max_images",
    "evaluate.faithfulness_pictures": "evaluate.faithfulness_images",
    "evaluate.road_pictures": "evaluate.road_images",
    "evaluate.sanity_pictures": "evaluate.sanity_images",
    "evaluate.scorecam_pictures": "evaluate.scorecam_images",
    "evaluate.picture_epochs": "evaluate.image_epochs",
    "dataset.boxes": "dataset.annotations",
}
"""Former names of keys, which are still accepted."""


@dataclass
class DatasetConfig:
    """The data set. These keys exist for all of them."""

    name: DatasetName = setting(MISSING, "the data set; `dataset=NAME` sets it")
    image_size: Any = setting(
        64,
        "height and width in pixels of the network's input: one number for both, or [HEIGHT,WIDTH]",
        low=8,
        high=2048,
        accepts="a whole number or a list of two",
    )
    fit: Fit = setting(
        Fit.crop,
        "how images of another aspect become that; crop: their central part; pad: all of it, with void around it;"
        " stretch: all of it, distorted",
    )
    channels: int = setting(3, "channels of an image; 3: red, green and blue; 1: grey", low=1, high=1024)
    crop_scale: list[float] = setting(
        [1.0, 1.0],
        "smallest and largest share of the image's area that a training crop covers",
        low=0,
        high=1,
        above=True,
    )
    flip: bool = setting(True, "mirror half of the training images")
    brightness: float = setting(
        0.0, "b: the brightness of training images varies by a factor of 1 - b to 1 + b", low=0, high=1
    )
    contrast: float = setting(0.0, "the same for contrast", low=0, high=1)
    saturation: float = setting(0.0, "the same for saturation", low=0, high=1)
    hue: float = setting(0.0, "largest rotation of the hue of training images, in turns, either way", low=0, high=0.5)
    erase: float = setting(0.0, "share of training images in which a random rectangle is erased", low=0, high=1)
    cache: str | None = setting(
        AUTO, "folder for decoded images; auto: within the user's cache folder; null: decode in every epoch"
    )
    intensity_range: list[float] | None = setting(
        None,
        "values that become black and white in images of more than 8 bits; null: 0 and the smallest power of two above"
        " all values of the training images",
    )
    fold: str | None = setting(
        None,
        "k/n: divide all images, of both splits together, into n folds, validate on fold k (from 0) and train on the"
        " others; a sweep `dataset.fold=0/5,1/5,2/5,3/5,4/5` validates every image once; null: the splits as they are",
        accepts="k/n with 0 <= k < n, or null",
    )
    on_error: OnError = setting(
        OnError.fail, "an image file that cannot be read; fail: stops the run; skip: is left out and listed"
    )


@dataclass
class ShapesConfig(DatasetConfig):
    """Generated images of geometric objects in clutter."""

    objects: int = setting(
        1,
        "largest number of objects in an image; above 1, an image has 1 to that many, of different classes",
        low=1,
        high=4,
    )
    train: int = setting(4000, "number of training images", low=8)
    val: int = setting(1000, "number of validation images", low=8)


@dataclass
class FakeConfig(DatasetConfig):
    """Coloured noise with a box on it, for tests."""

    classes: int = setting(3, "number of classes", low=2)
    train: int = setting(32, "number of training images", low=2)
    val: int = setting(16, "number of validation images", low=2)


@dataclass
class FolderConfig(DatasetConfig):
    """Your own images, in ROOT/[images/]{train,val}/CLASS/; masks and annotations are optional."""

    root: str = setting(MISSING, "the folder ROOT")
    train_split: str = setting("train", "name of the folder of training images")
    val_split: str = setting("val", "name of the folder of validation images")
    annotations: Any = setting(
        AUTO,
        "file or folder of annotations (boxes, outlines), relative to ROOT, or a list of them; auto: boxes.csv, else"
        " what is found by looking; null: none",
    )
    void: int | str | None = setting(
        AUTO,
        "mask value of pixels that are excluded from every metric; auto: 255 where it is a thin rim; null: none are",
        low=1,
        high=255,
    )


@dataclass
class PythonConfig(DatasetConfig):
    """Your own torch data sets; what their items are: docs/data.md."""

    source: str = setting(
        MISSING, "package.module:function, which returns the data sets for training and for validation"
    )
    options: dict[str, Any] = setting({}, "arguments of the function: `+dataset.options.KEY=VALUE`")
    classes: list[str] | None = setting(None, "names of the classes; null: as the data sets name them, else numbers")


@dataclass
class PublishedConfig(DatasetConfig):
    """Published data sets."""

    root: str = setting(MISSING, "folder that holds the data set")
    download: bool = setting(False, "download the data set into `dataset.root`, unless it is already there")
    mirror: str | None = setting(
        None, "address of a folder with the archives, to download them from there; null: from where they are published"
    )


@dataclass
class ModelConfig:
    """The network."""

    name: str = setting(
        MISSING,
        "small_resnet, any classifier of torchvision, timm/NAME, or package.module:function, your own function, which"
        " is called with num_classes; `model=NAME` sets it",
    )
    options: dict[str, Any] = setting(
        {}, "further arguments of the network's function; `+model.options.width=32` adds one"
    )
    weights: str | None = setting(
        None, "pretrained weights: a file, or a name of torchvision such as IMAGENET1K_V1; null or none: from scratch"
    )
    layer: str | None = setting(
        None, "target layer of the map, as listed by `task=layers`; null: the last layer that has a grid"
    )
    stem: Stem = setting(Stem.auto, "auto: reduce the strides of the stem until the map has 4 x 4 cells; keep: do not")
    batch_norm: BatchNorm = setting(
        BatchNorm.auto,
        "batch: normalise by the batch's statistics; frozen: keep those of the pretrained weights; auto: frozen where"
        " there are such, else batch",
    )
    mean: list[float] | None = setting(
        None, "mean of each channel (0..1) that is subtracted from images; null: as the pretrained weights expect it"
    )
    std: list[float] | None = setting(
        None, "standard deviation of each channel that images are divided by; null: likewise", low=0, above=True
    )


@dataclass
class NetworkConfig:
    """A network as it is, for `task=compare`; on the command line `reference=NETWORK` and `treatment=NETWORK` are short
    for `reference.network=` and `treatment.network=`."""

    network: str | None = setting(
        None,
        "RUN/ARM, an arm of a finished run; NAME, a classifier of torchvision or timm/NAME with its published weights;"
        " NAME@FILE, with the weights in a file, or NAME@none, without; NAME may also be small_resnet or"
        " package.module:function",
    )
    options: dict[str, Any] = setting(
        {}, "further arguments of the function of NAME; `+reference.options.width=32` adds one"
    )
    layer: str | None = setting(
        None, "target layer of the map; null: the run's, of NAME the last layer that has a grid"
    )
    cam: CamVariant | None = setting(None, "the map that is measured; null: the run's, of NAME gradcam")
    mean: list[float] | None = setting(None, "as `model.mean`, of NAME")
    std: list[float] | None = setting(None, "as `model.std`, of NAME", low=0, above=True)
    classes: str | None = setting(
        None,
        "file, YAML or CSV, that says which of the network's classes each class of the data set is; null: those of the"
        " same name",
    )


@dataclass
class OptimConfig:
    """The optimiser."""

    name: Optimiser = setting(Optimiser.adamw, "the optimiser; `optim=NAME` sets it")
    lr: float | None = setting(
        None,
        "learning rate; null: 0.002 (sgd: 0.05), a twentieth of it with pretrained weights, else a tenth for"
        " transformers and for networks without normalisation layers",
        low=0,
        above=True,
    )
    head_lr_factor: float | None = setting(
        None,
        "the learning rate of the last layer is this times `optim.lr`; null: 10 where it is fresh behind pretrained"
        " weights, else 1",
        low=0,
        above=True,
    )
    weight_decay: float = setting(0.01, "weight decay", low=0)
    momentum: float = setting(0.9, "momentum, of sgd only", low=0, high=1)
    schedule: LrSchedule = setting(LrSchedule.cosine, "of the learning rate: constant, or half a cosine to zero")
    warmup: float = setting(0.0, "epochs over which the learning rate rises linearly", low=0)


@dataclass
class TrainerConfig:
    """Training, and the machine."""

    epochs: int = setting(20, "number of epochs", low=1)
    fork: int | None = setting(
        None,
        "epochs over which all arms are one network, trained as the first one, which must have cam.weight=0; then each"
        " goes on from there by its own settings; null: arms differ from the start",
        low=1,
    )
    batch_size: int = setting(32, "images in a batch", low=2)
    max_steps: int | None = setting(None, "stop after so many steps; null: after all epochs", low=1)
    device: Device = setting(Device.auto, "auto: a CUDA device if there is one, else the CPU")
    processes: int | None = setting(
        None,
        "processes on this machine that train together, each on its part of every batch and on a GPU of its own where"
        " there are some; null: one, or as many as torchrun has started",
        low=1,
    )
    threads: int | None = setting(
        None, "CPU threads of torch in each process; null: torch's own choice, divided among processes", low=1
    )
    workers: int | None = setting(
        None, "threads that prepare batches; null: `trainer.threads`, or as many as there are CPUs", low=1
    )
    channels_last: bool = setting(True, "store images with the channels last, which most networks compute faster with")
    precision: Precision = setting(
        Precision.float32,
        "of the network; bfloat16: by autocast, while maps and losses stay in float32; float64: all of it, to tell an"
        " error from rounding",
    )
    checkpoint_every: Any = setting(
        "10min",
        "how often training is saved within an epoch, beside after each: a number of steps, minutes such as 10min, or a"
        " list of both; null: only after each epoch",
        accepts="a number of steps, minutes such as 10min, a list of both, or null",
    )
    compile: bool = setting(False, "compile with torch.compile as much of the network as can be compiled")
    baselines: str | None = setting(
        "auto",
        "folder of trained reference arms: a run takes its own from there instead of training it, if one of the same"
        " settings, images, weights, versions and threads is there, and else leaves it there; auto: in a sweep of which"
        " jobs have one in common, baselines/ in its folder, otherwise none; null: none",
    )


@dataclass
class EvaluateConfig:
    """What is measured and drawn."""

    max_images: int = setting(
        2000,
        "validation images whose maps are measured, a random choice, stratified by class, that stays the same in every"
        " epoch",
        low=1,
    )
    images: int = setting(8, "validation images whose maps are drawn", low=0, high=64)
    registered: bool = setting(
        True,
        "maps are stretched to the image from where the centres of their cells lie; false: as other tools do, as if"
        " the cells were equal tiles of the image",
    )
    maps: list[CamVariant] = setting(
        [CamVariant.gradcam, CamVariant.gradcampp, CamVariant.layercam, CamVariant.eigencam],
        "held-out maps: class activation maps that are measured after the last epoch without being trained through",
    )
    faithfulness_images: int | None = setting(
        None,
        "images on which faithfulness is measured, after the last epoch: about 300 forward passes for each; null: all,"
        " or as many as cost a third of the training, but at least 64; 500 where nothing is trained",
        low=0,
    )
    road_images: int = setting(
        32, "of these, images for ROAD: 9 forward passes for each map, and as many imputed images", low=0
    )
    sanity_images: int = setting(
        32, "images for the randomisation test, whose maps are computed again with untrained weights", low=0
    )
    scorecam_images: int = setting(32, "images for scorecam: a forward pass for each channel of each image", low=1)
    image_epochs: list[int] | None = setting(
        None, "epochs after which maps are drawn; null: 1, 2, 4, 8 and so on; always after the last", low=1
    )


@dataclass
class ReportConfig:
    """What "nothing lost" means in the verdict, and the page."""

    accuracy_margin: float = setting(0.01, "accuracy, or mean average precision, that may be lost", low=0, high=1)
    faithfulness_margin: float = setting(
        0.02, "faithfulness (gain over random square blocks, normalised) that may be lost", low=0, high=1
    )
    stability_margin: float = setting(
        0.02,
        "by which the correlation of the maps of an image and of the mirrored or moved one may fall",
        low=0,
        high=1,
    )
    health_margin: float = setting(0.01, "by which dead rate and border mass may rise", low=0, high=1)
    open: bool = setting(False, "show the report in the browser when it is written, where there is one")


@dataclass
class SweepConfig:
    """Sweeps, `camtrain -m`."""

    jobs: int = setting(
        1,
        "jobs that run at the same time; they share the CPUs, unless `trainer.threads` is given, and the devices that"
        " CUDA_VISIBLE_DEVICES lists",
        low=1,
    )
    fail_fast: bool = setting(
        False,
        "stop after the first job that is not completed; the others wait for `resume=auto hydra.sweep.dir=FOLDER`",
    )
    objectives: list[Objective] = setting(
        [Objective.accuracy],
        "what a sweeper that optimises, such as `hydra/sweeper=optuna`, is told of the first treatment; accuracy: on"
        " the validation images, or mean average precision; gain: energy in mask beyond the sharpened baseline. Of two"
        " it looks for the Pareto front",
    )


@dataclass
class ExportConfig:
    """What `task=export` writes."""

    format: ExportFormat = setting(
        ExportFormat.onnx,
        "onnx: for ONNX Runtime and others; executorch: .pte, for phones and small boards; torch: .pt2; web: a folder"
        " with a page that runs it in a browser",
    )
    arm: str | None = setting(None, "whose network; null: the last arm of the run; all: a file for each arm")
    all_classes: bool = setting(
        False, "maps of all classes in place of that of the predicted class, or of `class=NAME`"
    )
    score: Score = setting(
        Score.logit, "whose gradient makes the maps; logit: as `task=explain` and all figures of a run have it"
    )
    bytes: bool = setting(True, "the network takes images as bytes, 0..255; false: as floats, 0..1")
    batch: int | None = setting(
        None, "images in a batch; null: any number, for format=executorch one", low=1, high=1024
    )
    int8: bool = setting(
        False,
        "also write a network of whole numbers of 8 bits, and measure what that does to accuracy and maps; for"
        " format=onnx",
    )
    calibration: int = setting(128, "training images by which its numbers are scaled", low=1)
    runtime: str | None = setting(
        None, "for format=web, the file that `npm pack onnxruntime-web` leaves; null: npm fetches it"
    )
    output: str | None = setting(
        None, "file to write, for format=web a folder; null: ARM.onnx and so on in the folder of the call"
    )


@dataclass
class Config:
    """Keys without a section."""

    dataset: DatasetConfig = field(default=MISSING)  # type: ignore[assignment]
    model: ModelConfig = field(default_factory=ModelConfig)
    cam: CamConfig = field(default_factory=CamConfig)
    arms: dict[str, Any] = setting(
        ARMS,
        "arms by name, each with the settings in which it differs from `cam.*`; the first one is the reference that the"
        " others are compared with; `+arms.area.cam.term=area` adds one called area",
    )
    arms_by: dict[str, Any] = setting(
        {},
        "an arm for each value of a key of `cam`, in place of `regularised`: `arms_by.share=[0.2,0.3,0.5]`; of several"
        " keys, for each combination",
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    reference: NetworkConfig = field(default_factory=NetworkConfig)
    treatment: NetworkConfig = field(default_factory=NetworkConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    seed: int = setting(
        0, "seed of initial weights, order of images, augmentation and generated images", low=0, high=2**31 - 1
    )
    task: Task = setting(
        Task.train,
        "train: train the arms and compare them; layers: list the network's layers; data: show what the data set holds;"
        " evaluate: measure a finished run again; compare: measure any two networks, or one; explain: draw a run's maps"
        " of other images; report: compare finished runs over seeds and settings; resume: go on with a run that broke"
        " off; baselines: list the trained reference arms that runs share; plan: say what the command would cost, from"
        " a few steps; export: write a finished run's network and its map as one file for other runtimes",
    )
    run: str | None = setting(
        None, "folder of the finished run, for evaluate, explain and export, or of one that broke off, for resume"
    )
    runs: str | None = setting(None, "folder that contains finished runs, for report")
    resume: Resume | None = setting(
        None,
        "auto: go on with the run in `hydra.run.dir`, or with the newest one of the same settings that was not"
        " completed, if there is one; in a sweep with the jobs in `hydra.sweep.dir` that are not complete; null: begin"
        " anew",
    )
    prune: float | None = setting(
        None, "task=baselines removes those that no run has used for so many days; 0: all; null: none", low=0
    )
    images: Any = setting(
        None, 'images to explain: a file, a folder, a pattern such as "photos/*.jpg", or a list [a.jpg,b.png] of these'
    )
    class_name: str | None = setting(
        None,
        "class whose maps explain draws and export gives, on the command line also `class=NAME`; if not given, the"
        " predicted class",
    )


DATASETS = dict.fromkeys(DatasetName, PublishedConfig) | {
    DatasetName.shapes: ShapesConfig,
    DatasetName.folder: FolderConfig,
    DatasetName.python: PythonConfig,
    DatasetName.fake: FakeConfig,
}


def keys(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every leaf of a configuration as (dotted key, value, field).

    Of the arms only what differs from the default ones, so that an experiment with these has the keys that it had
    before arms could be configured; likewise of networks that are compared those that there are.
    """
    for entry in dataclasses.fields(node):
        value = getattr(node, entry.name)
        if isinstance(value, NetworkConfig) and value == NetworkConfig():
            continue
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{entry.name}.")
        elif isinstance(value, dict):
            options = _leaves(value, f"{prefix}{entry.name}") if value else ()
            yield from ((key, leaf, entry) for key, leaf in (arm_leaves(value) if entry.name == "arms" else options))
        else:
            yield prefix + entry.name, value, entry


def arm_leaves(arms: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings of all arms that are not as in :data:`ARMS`, as (dotted key, value).

    Where default arms are missing or in another order, `arms` itself comes first with all names.
    """
    if [*arms][: len(ARMS)] != [*ARMS]:
        yield "arms", " > ".join(arms)
    for name, difference in arms.items():
        if name not in ARMS or difference != ARMS[name]:
            yield from _leaves(difference, f"arms.{name}")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{key}.{name}")


def plain(value: Any) -> str | float | bool:
    """A configuration value as TensorBoard's hyperparameters take it."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if value is None:
        return "null"
    return value if isinstance(value, bool | int | float | str) else str(value)
