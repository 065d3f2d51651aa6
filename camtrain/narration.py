"""What a run says about itself: facts for programs, lines for people."""

from __future__ import annotations

import enum
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path as FilePath
from typing import Any

import torch

from camtrain import machine
from camtrain.arm import BASELINE, REGULARISED
from camtrain.comparison import short
from camtrain.config import (
    CamConfig,
    Config,
    Conflict,
    EntropyUnit,
    FolderConfig,
    Precision,
    ShapesConfig,
    Term,
    TrainerConfig,
)
from camtrain.data.pictures import Pictures
from camtrain.head import Path, Paths
from camtrain.layers import Layer
from camtrain.model import Built
from camtrain.performance import measure
from camtrain.score import is_multilabel


def facts(
    config: Config,
    train: Pictures,
    val: Pictures,
    built: Built,
    paths: Paths,
    rate: float,
    share: float | None,
    device: torch.device,
) -> dict[str, Any]:
    """What a reader of the result needs to know about data, network and machine."""
    return {
        "data": {
            "name": data_name(config),
            "classes": list(train.classes),
            "train": len(train.targets),
            "val": len(val.targets),
            "val_with_region": val.with_region,
            "middle_side": int(train.sizes.amin(1).median()),
            "multilabel": is_multilabel(train.targets),
            "skipped": {
                split: [entry._asdict() for entry in pictures.skipped]
                for split, pictures in (("train", train), ("val", val))
            },
        },
        "model": {
            "name": config.model.name,
            "layer": built.layer,
            "grid": list(built.grid),
            "channels": built.channels,
            "stem_strides_lowered": list(built.stem),
            "relu_left_out": built.relu_left_out,
            "parameters": sum(parameter.numel() for parameter in built.classifier.parameters()),
            "gradient_path": {
                "training": paths.training.value,
                "evaluation": paths.evaluation.value,
            },
        },
        "learning_rate": rate,
        "cam_share": share,
        "environment": environment(device, config.trainer),
    }


def environment(device: torch.device, trainer: TrainerConfig) -> dict[str, str]:
    """Versions, and what is computed on."""
    emulated = machine.emulates(trainer, device)
    threads = torch.get_num_threads()
    return {
        "camtrain": version("camtrain"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{threads} CPU thread{'s' * (threads > 1)}",
        **({trainer.precision.value: "emulated"} if emulated else {}),
    }


def data_name(config: Config) -> str:
    """The data set's name, a folder's own for pictures of one's own."""
    if isinstance(config.dataset, FolderConfig):
        return FilePath(config.dataset.root).expanduser().resolve().name
    name = config.dataset.name.value
    if isinstance(config.dataset, ShapesConfig) and config.dataset.objects > 1:
        return f"{name}, 1 to {config.dataset.objects} objects"
    return name


def term(cam: CamConfig, share: float | None) -> str:
    """The CAM term in words."""
    unit = " / ln N" if cam.unit is EntropyUnit.normalised else " in nats"
    what = f"{cam.variant.value} {cam.term.value.replace('_', ' ')}{unit if cam.term is Term.entropy else ''}"
    confidence = f" x confidence^{cam.confidence_exponent:g}" if cam.confidence_exponent else ""
    start = f", from epoch {cam.start:g}" if cam.start else ""
    ramp = f", ramped over {cam.ramp:g}" if cam.ramp else ""
    weight = f" x {cam.weight:g}" if share is None else f", weight for {share:.0%} of the effort"
    if share is not None and cam.confidence_exponent:
        weight += " x mean confidence"
    weight += ", conflict taken out" if cam.conflict is Conflict.project else ""
    return f"{what}{confidence}{weight}, score {cam.score.value}{start}{ramp}"


def layers(config: Config, chosen: str, found: Mapping[str, tuple[Layer, Paths]]) -> str:
    """The layers of a network as a table; an arrow stands before the one that the map is made of."""
    lines = [("", "layer", "channels", "grid", "training", "evaluation")]
    for name, (layer, paths) in found.items():
        mark = "->" if name == chosen else ""
        words = (PATHS.get(paths.training, paths.training.value), paths.evaluation.value)
        lines.append((mark, name, str(layer.channels), f"{layer.height} x {layer.width}", *words))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [f"{config.model.name} at {config.dataset.image_size} x {config.dataset.image_size} pixels", "", *table]
    )


PATHS = {Path.mixed: "model.batch_norm=frozen only"}


def title(config: Config) -> str:
    return f"{data_name(config)}, {config.model.name}, seed {config.seed}"


SPLITS = {"train": "training", "val": "validation"}


def introduction(told: Mapping[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """A few labelled lines that say what is about to be trained."""
    data, model, environment = told["data"], told["model"], told["environment"]
    regions = {0: "none", data["val"]: "all"}.get(data["val_with_region"], str(data["val_with_region"]))
    trained = "" if data["train"] is None else f"{data['train']} training pictures, "
    yield (
        "data",
        f"{data['name']}: {trained}{data['val']} for"
        f" validation ({regions} of these with masks or boxes), {len(data['classes'])} classes,"
        f" {config.dataset.image_size} px",
    )
    if data["val"] > config.evaluate.max_pictures:
        yield "", f"maps of {config.evaluate.max_pictures} of the validation pictures are measured, a random choice"
    if 2 * data["middle_side"] <= config.dataset.image_size:
        yield "", f"most are enlarged from about {data['middle_side']} px: dataset.image_size sets what to train at"
    for split, left_out in data["skipped"].items():
        if left_out:
            many = f"{len(left_out)} {SPLITS[split]} picture{'s' * (len(left_out) > 1)}"
            yield "left out", f"{many}, listed in result.json; the first: {left_out[0]['reason']}"
    stem = f", stride 1 at {' and '.join(model['stem_strides_lowered'])}" if model["stem_strides_lowered"] else ""
    relu = f", without its last ReLU ({model['relu_left_out']})" if model["relu_left_out"] else ""
    yield (
        "network",
        f"{model['name']}, {model['parameters']:,} weights; map of {model['layer']}:"
        f" {model['grid'][0]} x {model['grid'][1]} cells, {model['gradient_path']['training']}{stem}{relu}",
    )
    yield "CAM term", term(config.cam, told["cam_share"])
    optim, trainer = config.optim, config.trainer
    batch = min(trainer.batch_size, data["train"] or trainer.batch_size)
    yield (
        "training",
        f"{trainer.epochs} epoch{'s' * (trainer.epochs > 1)} in batches of {batch}, {optim.name.value} at"
        f" {told['learning_rate']:g}, {optim.schedule.value}"
        + (f"; stopped after {trainer.max_steps} steps at the latest" if trainer.max_steps else ""),
    )
    lower = f", {trainer.precision.value}" if trainer.precision is not Precision.float32 else ""
    if trainer.precision.value in environment:
        lower += ", for which this CPU has no instructions: float32 is many times faster here"
    yield "machine", f"{environment['device']}, torch {environment['torch']}{lower}"


MAIN = {"cam/entropy": "entropy", "cam/energy_in_mask": "energy in mask", "cam/dead_rate": "dead rate"}
"""What is printed of every epoch, beside accuracy or average precision."""


def epoch_heading(multilabel: bool) -> str:
    """Two lines over those of :func:`epoch_line`."""
    names = (measure(multilabel).replace("_", " "), *MAIN.values())
    top = "".join(f"  {name:^17}" for name in names).rstrip()
    return f"\n{'':>5}{top}\n{'epoch':>5}" + f"  {'base':>8} {'regul.':>8}" * len(names)


def epoch_line(epoch: int, figures: Mapping[str, Mapping[str, float]], multilabel: bool) -> str:
    """Both arms' main figures after an epoch."""
    tags = (f"{measure(multilabel)}/val", *MAIN)
    pairs = ((figures[BASELINE][tag], figures[REGULARISED][tag]) for tag in tags)
    return f"{epoch:>5}" + "".join(f"  {short(first):>8} {short(second):>8}" for first, second in pairs)


def plain(value: Any) -> str | float | bool:
    """A configuration value as TensorBoard's hyperparameters take it."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if value is None:
        return "null"
    return value if isinstance(value, bool | int | float | str) else str(value)
