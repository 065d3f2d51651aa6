r"""Images of more than 8 bits per channel: what they hold, and how it becomes 0 to 255.

A microscope's 12 bits lie in files of 16 bits: the file does not say what is white. Scaling each image by itself would
alter how bright one is beside another. So one range [low, high) holds for the whole set, by default from 0 to the
smallest power of two above all values of the training images (for floating point, at least their maximum), and from
minus a power of two where there are negative ones:

.. math:: y = \min(255, \lfloor 256 (v - low) / (high - low) \rfloor)

For 16 bits that are used in full it is the upper byte.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from camtrain.data.files import open_image

Span = tuple[float, float]
"""Values that become black and white."""

ALL_16_BITS: Span = (0, 65536)

BRIGHT = 99.9
"""Percentile of an image's values that is compared with the range, to tell a few outliers from the image."""

FEW_LEVELS = 1 / 8
"""Share of the range below which nearly all values lie in an image that will look black."""

_HIGH_BYTE_FIRST = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The other order of bytes, by Pillow's letter."""


class Values(NamedTuple):
    """What an image holds."""

    least: float
    most: float
    bright: float  # the percentile BRIGHT
    whole: bool  # integers

    @classmethod
    def of(cls, pixels: np.ndarray) -> Values:
        """Of its pixels, those that are finite."""
        whole = np.issubdtype(pixels.dtype, np.integer)
        finite = pixels if whole else pixels[np.isfinite(pixels)]
        if not finite.size:
            return cls(0, 0, 0, whole)
        return cls(float(finite.min()), float(finite.max()), float(np.percentile(finite, BRIGHT)), whole)


class Depth(NamedTuple):
    """What a split's images of more than 8 bits hold, and the range by which they are scaled."""

    images: int
    least: float
    most: float
    bright: float
    low: float
    high: float

    @property
    def span(self) -> Span:
        return self.low, self.high

    def words(self) -> str:
        """How they are scaled, and what may be wrong with that."""
        text = (
            f"{self.images} image{'s' * (self.images > 1)} of more than 8 bits, values {self.least:g} to {self.most:g}:"
            f" {self.low:g} is black, {self.high:g} white (dataset.intensity_range)"
        )
        if self.least < self.low or self.most > self.high:
            return f"{text}; what lies outside is cut off"
        if self.bright - self.low < FEW_LEVELS * (self.high - self.low):
            return (
                f"{text}; nearly all lie below {self.bright:g}, and look black:"
                f" dataset.intensity_range=[{self.low:g},{self.bright:g}] brightens them"
            )
        return text


def depth_of(found: Sequence[Values], span: Span | None) -> Depth:
    """What several images hold together, and the range: the given one, or the smallest that holds them all."""
    least, most = min(values.least for values in found), max(values.most for values in found)
    whole = all(values.whole for values in found)
    if span is None:
        span = (-_power_of_two(-least) if least < 0 else 0, _power_of_two(most + whole))
    return Depth(len(found), least, most, max(values.bright for values in found), *span)


def _power_of_two(value: float) -> float:
    """The smallest that is at least this value; 1 for what is not positive."""
    return 2.0 ** math.ceil(math.log2(value)) if value > 0 else 1.0


def is_deep(opened: Image.Image) -> bool:
    """Whether an image that was opened, and not decoded yet, has more than 8 bits per channel."""
    return opened.mode.startswith("I;16") or opened.mode in ("I", "F") or ";16" in _raw_mode(opened)


def pixels_of_deep(path: Path, opened: Image.Image) -> np.ndarray:
    """The values of a deep image, upright, (height, width) or (height, width, 3).

    Pillow reads colours of 16 bits by their upper bytes alone. The lower ones are read as if they were the upper ones
    of a file in the other order of bytes.
    """
    raw_mode = _raw_mode(opened)
    if opened.mode.startswith("I") or opened.mode == "F":
        ImageOps.exif_transpose(opened, in_place=True)
        return np.asarray(opened)
    upper = _channels(opened)
    with open_image(path) as again:
        other = raw_mode[:-1] + _HIGH_BYTE_FIRST[raw_mode[-1]]
        again.tile = [_with_raw_mode(tile, other) for tile in again.tile]
        try:
            lower = _channels(again)
        except (ValueError, OSError, SyntaxError):  # Pillow does not know the other order of this mode
            lower = np.zeros_like(upper)
    pixels: np.ndarray = upper.astype(np.uint16) << 8 | lower
    return pixels


def scaled(pixels: np.ndarray, span: Span) -> np.ndarray:
    """Values as 0 to 255, uint8; what is not a number is black."""
    low, high = span
    levels = np.floor((pixels.astype(np.float64) - low) * (256 / (high - low)))
    bytes_: np.ndarray = np.nan_to_num(levels, nan=0).clip(0, 255).astype(np.uint8)
    return bytes_


def _channels(opened: Image.Image) -> np.ndarray:
    """Colours or grey as decoded, without transparency."""
    ImageOps.exif_transpose(opened, in_place=True)
    pixels = np.asarray(opened)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 2 else pixels[..., :3]


def _raw_mode(opened: Image.Image) -> str:
    """How the file lays out its pixels, in Pillow's words; empty where that is not known."""
    tile: Any = next(iter(getattr(opened, "tile", ())), None)
    arguments = tile[3] if tile is not None else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    arguments = (raw_mode, *tile[3][1:]) if isinstance(tile[3], tuple) else raw_mode
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)
