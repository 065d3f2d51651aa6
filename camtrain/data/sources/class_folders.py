"""Published sets in the layout of one folder per class, without masks or boxes, read by torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import EuroSAT, ImageFolder, Imagenette

from camtrain.data.download import Archive
from camtrain.data.listing import Listing

IMAGENETTE_ARCHIVES = (
    Archive("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3"),
)

EUROSAT_ARCHIVES = (
    Archive(
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "c8fa014336c82ac7804f0398fcb19387",
        "eurosat",
    ),
)

EUROSAT_VALIDATION = 5
"""One image in so many is for validation, because the set has no published split."""


def list_imagenette(root: Path) -> tuple[Listing, Listing]:
    """Ten easy classes of ImageNet at 320 pixels."""
    train, val = (Imagenette(root, split=split, size="320px") for split in ("train", "val"))
    names = [names[0] for names in train.classes]
    return _listing(names, train._samples), _listing(names, val._samples)


def list_imagenet(root: Path) -> tuple[Listing, Listing]:
    """ImageNet, unpacked: ROOT/train/WNID/*.JPEG and ROOT/val/WNID/*.JPEG."""
    train, val = ImageFolder(root / "train"), ImageFolder(root / "val")
    if val.classes != train.classes:
        odd = sorted(set(val.classes) ^ set(train.classes))
        raise RuntimeError(f"{odd[0]} is in one of train/ and val/ only")
    return _listing(train.classes, train.samples), _listing(train.classes, val.samples)


def list_eurosat(root: Path) -> tuple[Listing, Listing]:
    """Ten kinds of land seen from above (Helber et al. 2019), split by a digest of the file name."""
    found = EuroSAT(root)

    def for_validation(path: str) -> bool:
        return int(hashlib.sha256(Path(path).name.encode()).hexdigest(), 16) % EUROSAT_VALIDATION == 0

    train, val = (
        [sample for sample in found.samples if for_validation(sample[0]) is wanted] for wanted in (False, True)
    )
    return _listing(found.classes, train), _listing(found.classes, val)


def _listing(classes: Sequence[str], samples: Sequence[tuple[str, int]]) -> Listing:
    return Listing(
        classes,
        [Path(path) for path, _ in samples],
        torch.tensor([class_number for _, class_number in samples]),
        [None] * len(samples),
        np.zeros(256, np.uint8),
    )
