"""Caltech-UCSD Birds-200-2011 (Wah et al. 2011): 200 species, with a box for each image and, in another archive, masks.

A mask's values count the people, out of five, who marked the pixel as bird; where most of them did it is the object.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from camtrain.data.download import Archive
from camtrain.data.listing import Box, Listing, Mask, Region
from camtrain.errors import UserError

_PUBLISHED = "https://data.caltech.edu/records"

ARCHIVES = (
    Archive(f"{_PUBLISHED}/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    Archive(f"{_PUBLISHED}/w9d68-gec53/files/segmentations.tgz", "4d47ba1228eae64f2fa547c47bc65255"),
)


def list_cub200(root: Path) -> tuple[Listing, Listing]:
    """The published training and test images.

    Raises:
        UserError: one of the set's tables is malformed.
    """
    try:
        return _lists(root)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{root / 'CUB_200_2011'}: the tables do not fit one another ({error})") from error


def _lists(root: Path) -> tuple[Listing, Listing]:
    base = root / "CUB_200_2011"
    files = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
    names, class_names, labels, is_training, boxes = (_table(base / name) for name in files)
    order = sorted(class_names, key=int)
    classes = [class_names[number][0].partition(".")[2].replace("_", " ") for number in order]
    meaning = np.zeros(256, np.uint8)
    meaning[128:] = 1
    folders = [folder for folder in (root / "segmentations", base / "segmentations") if folder.is_dir()]

    def region(number: str) -> Region:
        for folder in folders:
            mask = (folder / names[number][0]).with_suffix(".png")
            if mask.is_file():
                return Mask(mask)
        left, top, width, height = (float(value) for value in boxes[number])
        return (Box(left, top, left + width, top + height, where=f"{base / 'bounding_boxes.txt'}, image {number}"),)

    def listed(flag: str) -> Listing:
        numbers = [number for number, (chosen,) in is_training.items() if chosen == flag]
        return Listing(
            classes,
            [base / "images" / names[number][0] for number in numbers],
            torch.tensor([order.index(labels[number][0]) for number in numbers]),
            [region(number) for number in numbers],
            meaning,
        )

    return listed("1"), listed("0")


def _table(path: Path) -> dict[str, list[str]]:
    """From the first column of each line to the others."""
    rows = (line.split() for line in path.read_text().splitlines() if line.strip())
    return {row[0]: row[1:] for row in rows}
