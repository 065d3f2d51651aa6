"""A split of a data set while it is still files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from camtrain.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")

# Pillow warns of large images and refuses gigantic ones: the refusal is enough. Set for the process: threads read.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class BadImage(UserError):
    """An image, its mask or its boxes cannot be used; `dataset.on_error` says what follows."""


class Box(NamedTuple):
    """Pixels of the image as displayed; right and bottom exclusive."""

    left: float
    top: float
    right: float
    bottom: float
    value: int = 1  # of the region inside it
    where: str = ""  # file and line that said so
    outline: tuple[tuple[float, ...], ...] = ()  # polygons x, y, x, y, ... inside the box; none: the box is the object


@dataclass(frozen=True)
class Mask:
    """A file of one channel that says of each pixel what it shows."""

    path: Path


Region = Mask | tuple[Box, ...] | None
"""Where the object is: a mask, boxes, or not known."""


@dataclass
class Listing:
    """The files of one split.

    Args:
        classes: names.
        paths: of the images.
        targets: (images,) int64 class numbers, or (images, classes) int64 of 0 and 1.
        regions: of each image.
        meaning: (256,) uint8, what a mask's value stands for: 0 background, 255 void, other values the object, in a
            multi-label set its class number plus 1.
    """

    classes: Sequence[str]
    paths: list[Path]
    targets: Tensor
    regions: list[Region]
    meaning: np.ndarray

    def of(self, kept: Sequence[int]) -> Listing:
        """The listing with only these images."""
        return Listing(
            self.classes,
            [self.paths[number] for number in kept],
            self.targets[list(kept)],
            [self.regions[number] for number in kept],
            self.meaning,
        )

    def without_regions(self) -> Listing:
        """The listing as if nothing were known about where the objects are."""
        return Listing(self.classes, self.paths, self.targets, [None] * len(self.paths), self.meaning)


class Rule(NamedTuple):
    """How an image becomes a square of `side` pixels: its middle square, or the whole of it, stretched."""

    side: int
    whole: bool


class Skipped(NamedTuple):
    """An image that was left out."""

    path: str
    reason: str
