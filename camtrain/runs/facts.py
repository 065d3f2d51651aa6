"""What a run records about its data, network and machine."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from camtrain.cam.routes import Routes
from camtrain.cam.targets import is_multilabel
from camtrain.config.schema import DatasetConfig, FolderConfig, PythonConfig, ShapesConfig, TrainerConfig
from camtrain.config.validate import image_shape
from camtrain.data.images import ImageSet
from camtrain.device import emulates_precision
from camtrain.distributed.environment import world_size
from camtrain.metrics.classification import images_per_class
from camtrain.networks.build import Built
from camtrain.runs.result import DataFacts, ModelFacts


def data_facts(name: str, train: ImageSet, val: ImageSet) -> DataFacts:
    """What both splits hold.

    Args:
        name: of the data set, see :func:`data_name`.
        train: training images.
        val: validation images.
    """
    return DataFacts(
        name,
        list(train.classes),
        len(train.targets),
        len(val.targets),
        int(val.has_region.sum()),
        int(train.sizes.amin(1).median()),
        is_multilabel(train.targets),
        {"train": list(train.skipped), "val": list(val.skipped)},
        {"train": notes(train), "val": notes(val)},
        next((images.depth.span for images in (train, val) if images.depth is not None), None),
        images_per_class(val.targets, len(train.classes)).tolist(),
        fingerprint(train, val),
    )


def fingerprint(*splits: ImageSet) -> str:
    """A name for the images of a data set: what they are called, how large they are and what they show.

    Wherever their folder lies. That the pixels of a file changed, and not its size, is not seen.
    """
    digest = hashlib.sha256()
    for images in splits:
        names = [path.name for path in images.files]
        digest.update(json.dumps([list(images.classes), list(images.shape), names]).encode())
        for part in (images.targets, images.sizes, images.has_region):
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def notes(images: ImageSet) -> list[str]:
    """What a user should know of how a split's files were understood, a line each."""
    return [*images.notes, *([images.depth.words()] if images.depth is not None else [])]


def data_facts_of_evaluation(name: str, classes: list[str], val: ImageSet) -> DataFacts:
    """As :func:`data_facts` where nothing is trained; the classes are those of the networks."""
    side = int(val.sizes.amin(1).median())
    return DataFacts(
        name,
        classes,
        None,
        len(val.targets),
        int(val.has_region.sum()),
        side,
        is_multilabel(val.targets),
        {"train": [], "val": list(val.skipped)},
        {"train": [], "val": notes(val)},
        None if val.depth is None else val.depth.span,
        images_per_class(val.targets, len(classes)).tolist(),
    )


def model_facts(name: str, built: Built, routes: Routes, shape: tuple[int, int, int]) -> ModelFacts:
    """What was built under a network's name for such images, and how the gradient reaches its target layer."""
    network = built.classifier
    like = next(network.parameters())
    return ModelFacts(
        name,
        built.layer,
        built.output.grid,
        built.output.channels,
        list(built.stem),
        built.relu_left_out,
        sum(parameter.numel() for parameter in network.parameters()),
        routes,
        network.cells(torch.zeros(1, *shape, device=like.device, dtype=like.dtype)),
    )


def environment(device: torch.device, trainer: TrainerConfig) -> dict[str, str]:
    """Versions, and what is computed on."""
    emulated = emulates_precision(trainer, device)
    threads, processes = torch.get_num_threads(), world_size() or 1
    return {
        "camtrain": version("camtrain"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "device": f"{processes} x " * (processes > 1)
        + (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{threads} CPU thread{'s' * (threads > 1)}"
        ),
        **({trainer.precision.value: "emulated"} if emulated else {}),
    }


def data_name(dataset: DatasetConfig) -> str:
    """The data set's name; for a folder of images, the folder's; with the fold, if it is divided into some."""
    if dataset.fold is None:
        return _name(dataset)
    return f"{_name(dataset)}, fold{'s' * (not dataset.fold.partition('/')[0].isdecimal())} {dataset.fold}"


def _name(dataset: DatasetConfig) -> str:
    if isinstance(dataset, FolderConfig):
        return Path(dataset.root).expanduser().resolve().name
    if isinstance(dataset, PythonConfig):
        return dataset.source
    name = dataset.name.value
    if isinstance(dataset, ShapesConfig) and dataset.objects > 1:
        return f"{name}, 1 to {dataset.objects} objects"
    return name


def pixels(dataset: DatasetConfig) -> str:
    """Size and, if they are not three, channels of the network's input."""
    channels, height, width = image_shape(dataset)
    size = f"{height} px" if height == width else f"{height} x {width} px"
    return size if channels == 3 else f"{size}, {channels} channel{'s' * (channels > 1)}"


def title(dataset: DatasetConfig, network: str, seed: int) -> str:
    """Of a run's report."""
    return f"{data_name(dataset)}, {network}, seed {seed}"
