"""What a run records about its data, network and machine."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path as FilePath
from typing import Any

import torch

from camtrain.cam.routes import Routes
from camtrain.cam.targets import is_multilabel
from camtrain.config.schema import Config, FolderConfig, ShapesConfig, TrainerConfig
from camtrain.data.images import ImageSet
from camtrain.device import emulates_precision
from camtrain.networks.build import Built


def facts(
    config: Config,
    train: ImageSet,
    val: ImageSet,
    built: Built,
    paths: Routes,
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
                split: [entry._asdict() for entry in images.skipped]
                for split, images in (("train", train), ("val", val))
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
    emulated = emulates_precision(trainer, device)
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
    """The data set's name, a folder's own for images of one's own."""
    if isinstance(config.dataset, FolderConfig):
        return FilePath(config.dataset.root).expanduser().resolve().name
    name = config.dataset.name.value
    if isinstance(config.dataset, ShapesConfig) and config.dataset.objects > 1:
        return f"{name}, 1 to {config.dataset.objects} objects"
    return name


def title(config: Config) -> str:
    return f"{data_name(config)}, {config.model.name}, seed {config.seed}"
