"""A split of a data set as a list of files, before any is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from camtrain.errors import UserError

# Pillow warns of large images and refuses gigantic ones: the refusal is enough. Set once, because threads decode.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class BadImage(UserError):
    """An image, its mask or its boxes cannot be used; `dataset.on_error` decides what follows."""


class Box(NamedTuple):
    """Pixels of the image as displayed; right and bottom exclusive."""

    left: float
    top: float
    right: float
    bottom: float
    value: int = 1  # of the region inside it
    where: str = ""  # file and line that it was read from
    outline: tuple[tuple[float, ...], ...] = ()  # polygons x, y, x, y, ... in the box; none: all of it


@dataclass(frozen=True)
class Mask:
    """An image file whose values say what each pixel shows.

    Args:
        path: of the file.
        stored: the values are those that the file stores, in one channel; else the levels that it shows, see
            :func:`camtrain.data.masks.levels`.
    """

    path: Path
    stored: bool = True


Region = Mask | tuple[Box, ...] | None
"""Where the object is: a mask, boxes, or None where it is not known."""


@dataclass
class Listing:
    """The files of one split.

    Args:
        classes: their names.
        paths: of the images.
        targets: (images,) int64 class numbers, or (images, classes) int64 of 0 and 1.
        regions: of each image.
        meaning: (256,) uint8, what a mask's value stands for: 0 background, 255 void, other values the object, in a
            multi-label set its class number plus 1.
        notes: what a user should know of how the files were understood, a line each.
    """

    classes: Sequence[str]
    paths: list[Path]
    targets: Tensor
    regions: list[Region]
    meaning: np.ndarray
    notes: Sequence[str] = ()

    def subset(self, kept: Sequence[int]) -> Listing:
        """The listing of these images alone."""
        return replace(
            self,
            paths=[self.paths[number] for number in kept],
            targets=self.targets[list(kept)],
            regions=[self.regions[number] for number in kept],
        )

    def without_regions(self) -> Listing:
        """The same listing without masks and boxes."""
        return replace(self, regions=[None] * len(self.paths))


class Rule(NamedTuple):
    """How an image becomes a square of `side` pixels: from its central square, or from all of it, stretched."""

    side: int
    whole: bool
    span: tuple[float, float] | None = None  # black and white of images of more than 8 bits; None: found from them


class Skipped(NamedTuple):
    """An image that was left out."""

    path: str
    reason: str
