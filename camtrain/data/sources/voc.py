"""PASCAL VOC (Everingham et al. 2010): photographs of 20 classes, several in an image, with boxes and some masks.

A class is present where one of its objects is not marked difficult: the challenge does not score difficult objects, and
in a region made of boxes they are void. The region of an image is its segmentation mask, or its boxes where it has
none. Coordinates in the annotations count from 1 and include the maximum.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torchvision.datasets import VOCDetection

from camtrain.data.download import Archive
from camtrain.data.listing import Box, Listing, Mask, Region
from camtrain.errors import UserError
from camtrain.regions import VOID

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In the order of the masks' values, which begin at 1."""

_PUBLISHED = "https://thor.robots.ox.ac.uk/pascal/VOC"

ARCHIVES = {
    "2007": (
        Archive(f"{_PUBLISHED}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        Archive(f"{_PUBLISHED}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ),
    "2012": (Archive(f"{_PUBLISHED}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
}

SPLITS = {"2007": ("trainval", "test"), "2012": ("train", "val")}
"""For training and validation; the images of VOC 2012's test set have no published annotations."""


def list_voc(root: Path, year: str) -> tuple[Listing, Listing]:
    """Training and validation split.

    Raises:
        UserError: an annotation is malformed.
    """
    train, val = (_list(VOCDetection(root, year=year, image_set=split)) for split in SPLITS[year])
    return train, val


def _list(found: VOCDetection) -> Listing:
    paths = [Path(path) for path in found.images]
    targets = torch.zeros(len(paths), len(CLASSES), dtype=torch.int64)
    regions: list[Region] = []
    for row, (path, annotation) in enumerate(zip(paths, found.annotations, strict=True)):
        boxes = _boxes(Path(annotation))
        for box in boxes:
            if box.value != VOID:
                targets[row, box.value - 1] = 1
        mask = path.parent.parent / "SegmentationClass" / f"{path.stem}.png"
        regions.append(Mask(mask) if mask.is_file() else boxes or None)
    meaning = np.zeros(256, np.uint8)
    meaning[: len(CLASSES) + 1] = np.arange(len(CLASSES) + 1)
    meaning[255] = VOID
    return Listing(CLASSES, paths, targets, regions, meaning)


def _boxes(annotation: Path) -> tuple[Box, ...]:
    boxes = []
    try:
        for number, entry in enumerate(ElementTree.parse(annotation).getroot().findall("object"), 1):
            left, top, right, bottom = (
                float(entry.findtext(f"bndbox/{edge}") or "") for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            value = CLASSES.index(entry.findtext("name") or "") + 1
            if entry.findtext("difficult") == "1":
                value = VOID
            boxes.append(Box(left - 1, top - 1, right, bottom, value, f"{annotation}, object {number}"))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{annotation}: not an annotation of VOC ({error})") from error
    return tuple(boxes)
