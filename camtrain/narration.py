"""What a run says about itself: facts for programs, lines for people."""

from __future__ import annotations

import enum
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from camtrain.arm import BASELINE, REGULARISED, Paths
from camtrain.config import CamConfig, Config, EntropyUnit, FolderConfig
from camtrain.data.pictures import Pictures
from camtrain.model import Built


def facts(
    config: Config, train: Pictures, val: Pictures, built: Built, paths: Paths, rate: float, device: torch.device
) -> dict[str, Any]:
    """What a reader of the result needs to know about data, network and machine."""
    return {
        "data": {
            "name": data_name(config),
            "classes": list(train.classes),
            "train": len(train.targets),
            "val": len(val.targets),
            "val_with_region": val.with_region,
        },
        "model": {
            "name": config.model.name,
            "layer": built.layer,
            "grid": list(built.grid),
            "channels": built.channels,
            "stem_strides_lowered": list(built.stem),
            "parameters": sum(parameter.numel() for parameter in built.classifier.parameters()),
            "gradient_path": {
                "training": "closed form" if paths.training else "autograd",
                "evaluation": "closed form" if paths.evaluation else "autograd",
            },
        },
        "learning_rate": rate,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{torch.get_num_threads()} CPU threads",
        },
    }


def data_name(config: Config) -> str:
    """The data set's name, a folder's own for pictures of one's own."""
    if isinstance(config.dataset, FolderConfig):
        return Path(config.dataset.root).expanduser().resolve().name
    return config.dataset.name.value


def term(cam: CamConfig) -> str:
    """The CAM term in words."""
    unit = "/ ln N" if cam.unit is EntropyUnit.normalised else "in nats"
    confidence = f" x confidence^{cam.confidence_exponent:g}" if cam.confidence_exponent else ""
    start = f", from epoch {cam.start:g}" if cam.start else ""
    ramp = f", ramped over {cam.ramp:g}" if cam.ramp else ""
    return f"{cam.weight:g} x {cam.variant.value} entropy {unit}{confidence}, score {cam.score.value}{start}{ramp}"


def title(config: Config) -> str:
    return f"{data_name(config)}, {config.model.name}, seed {config.seed}"


def introduction(told: Mapping[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """A few labelled lines that say what is about to be trained."""
    data, model, environment = told["data"], told["model"], told["environment"]
    regions = {0: "none", data["val"]: "all"}.get(data["val_with_region"], str(data["val_with_region"]))
    yield (
        "data",
        f"{data['name']}: {data['train']} training pictures, {data['val']} for validation ({regions} of these with"
        f" masks or boxes), {len(data['classes'])} classes, {config.dataset.image_size} px",
    )
    stem = f", stride 1 at {' and '.join(model['stem_strides_lowered'])}" if model["stem_strides_lowered"] else ""
    yield (
        "network",
        f"{model['name']}, {model['parameters']:,} weights; map of {model['layer']}:"
        f" {model['grid'][0]} x {model['grid'][1]} cells, {model['gradient_path']['training']}{stem}",
    )
    yield "CAM term", term(config.cam)
    optim, trainer = config.optim, config.trainer
    yield (
        "training",
        f"{trainer.epochs} epoch{'s' * (trainer.epochs > 1)} in batches of {trainer.batch_size}, {optim.name.value} at"
        f" {told['learning_rate']:g}, {optim.schedule.value}",
    )
    yield "machine", f"{environment['device']}, torch {environment['torch']}"


EPOCH_HEADING = (
    f"\n{'':>5}  {'accuracy':^15}  {'entropy':^15}  {'energy in mask':^15}  {'dead rate':>12}\n{'epoch':>5}"
    + (f"  {'base':>7} {'regul.':>7}" * 4)
)


def epoch_line(epoch: int, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Both arms' main figures after an epoch, under :data:`EPOCH_HEADING`."""
    tags = ("accuracy/val", "cam/entropy", "cam/energy_in_mask", "cam/dead_rate")
    pairs = ((figures[BASELINE][tag], figures[REGULARISED][tag]) for tag in tags)
    return f"{epoch:>5}" + "".join(f"  {first:>7.3f} {second:>7.3f}" for first, second in pairs)


def plain(value: Any) -> str | float | bool:
    """A configuration value as TensorBoard's hyperparameters take it."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    return value if isinstance(value, bool | int | float | str) else str(value)
