"""What a mask's values mean: label numbers, black and white, or white with soft edges; and whether 255 is void.

Masks are judged together, by a sample of a set's. Between black and white there are label numbers, which fill areas, or
the soft edges of a white object, which do not; 255 beside label numbers is void where it is a thin rim, as in VOC.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import max_pool2d

from camtrain.regions import VOID

VOC_VOID = (224, 224, 192)
"""Colour of void where a mask of PASCAL VOC was stored in colours."""

WHITE = 240
"""Values from here on belong to a white object; JPEG stores 255 so."""

SMALL_LABELS, FEW_LEVELS = 32, 8
"""Values between black and white that lie in no areas are soft edges if there are so many, or most are not smaller."""

RIM = 64
"""The shorter edge of an image over the width of a rim from its middle line."""

THIN = 0.3
"""Share of the pixels of 255 that are farther from its border than that, up to which it is a rim."""

JUDGED_AT = 1024
"""Pixels along the longer edge, above which a mask is judged by every second pixel, or fewer."""


class Kind(enum.Enum):
    nothing = "nothing"
    labels = "labels"
    white = "white"
    soft = "soft"


class Shape(NamedTuple):
    """Figures of one mask, or sums over several."""

    counts: np.ndarray  # (256,) pixels of each value
    between: int  # pixels between black and white
    plain: int  # those of them whose right and lower neighbours are equal
    rims: int  # masks in which 255 is a thin line


def levels(opened: Image.Image) -> np.ndarray:
    """What a mask of any mode shows, (height, width) uint8.

    Grey values, label numbers and the indices of a palette as they are. Where transparency varies, it is the mask. A
    colour counts by its largest component, a palette of black, white and greys by these. Of more than 8 bits, the
    largest value is 255, and others above 254 are 254; floating point counts from 0 to 1.
    """
    if opened.mode == "P" and _is_black_and_white(opened):
        opened = opened.convert("L")
    if opened.mode in ("L", "P", "1"):
        return np.asarray(opened).astype(np.uint8)
    if opened.mode == "F":
        return np.asarray(np.nan_to_num(np.asarray(opened) * 255, nan=0).clip(0, 255), np.uint8)
    if opened.mode.startswith("I"):
        values = np.asarray(opened).astype(np.int64)
        return np.where(values == 65535, 255, values.clip(0, 254 if values.max() > 255 else 255)).astype(np.uint8)
    if opened.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(opened.getchannel("A"))
        if alpha.min() < 128 <= alpha.max():
            return alpha
    colours = np.asarray(opened.convert("RGB"))
    shown: np.ndarray = colours.max(2)
    shown[(colours == VOC_VOID).all(2)] = VOID
    return shown


def _is_black_and_white(opened: Image.Image) -> bool:
    """Whether the colours in use are greys, white among them: the indices of such a palette mean nothing."""
    palette = np.reshape(opened.getpalette("RGB") or [], (-1, 3))
    used = np.flatnonzero(opened.histogram())
    colours = palette[used[used < len(palette)]]
    return bool((colours == colours[:, :1]).all() and (colours == 255).any())


def shape_of(values: np.ndarray) -> Shape:
    """Figures of a mask's levels."""
    step = -(-max(values.shape) // JUDGED_AT)
    values = values[::step, ::step]
    between = (values > 0) & (values < WHITE)
    plain = between[:-1, :-1] & (values[:-1, :-1] == values[1:, :-1]) & (values[:-1, :-1] == values[:-1, 1:])
    radius = -(-min(values.shape) // RIM)
    outside = torch.from_numpy(values != VOID).float()[None]
    near = max_pool2d(max_pool2d(outside, (2 * radius + 1, 1), 1, (radius, 0)), (1, 2 * radius + 1), 1, (0, radius))
    counts = np.bincount(values.ravel(), minlength=256)
    rim = counts[VOID] > 0 and int((near == 0).sum()) <= THIN * counts[VOID]
    return Shape(counts, int(between.sum()), int(plain.sum()), int(rim))


def together(shapes: Sequence[Shape]) -> Shape:
    """The sums over several masks."""
    counts = sum((shape.counts for shape in shapes), np.zeros(256, np.int64))
    return Shape(
        counts,
        sum(shape.between for shape in shapes),
        sum(shape.plain for shape in shapes),
        sum(shape.rims for shape in shapes),
    )


def kind_of(shape: Shape) -> Kind:
    """What the values of a mask are."""
    used = np.flatnonzero(shape.counts[1:]) + 1
    if not used.size:
        return Kind.nothing
    if used[0] >= WHITE:
        return Kind.white
    middle = shape.counts[1:WHITE]
    several = np.count_nonzero(middle) >= FEW_LEVELS or 2 * middle[SMALL_LABELS - 1 :].sum() >= middle.sum()
    return Kind.soft if several and 2 * shape.plain < shape.between else Kind.labels


def kind_together(shapes: Sequence[Shape]) -> Kind:
    """What most of a set's masks hold that hold anything between black and white; else white, if any does."""
    votes = Counter(map(kind_of, shapes))
    if votes[Kind.soft] > votes[Kind.labels]:
        return Kind.soft
    return next((kind for kind in (Kind.labels, Kind.white) if votes[kind]), Kind.nothing)


def half(shape: Shape) -> int:
    """The level from which on a pixel of a soft mask is at least half covered by the object."""
    most = int(np.flatnonzero(shape.counts)[-1])
    return 128 if most >= WHITE else -(-most // 2)


def meaning(shapes: Sequence[Shape], void: int | str | None) -> np.ndarray:
    """What each value stands for, (256,) uint8: 0 background, 255 void, 1 the object.

    Args:
        shapes: of masks of the set.
        void: the value that is void; None for none; `auto`: 255 beside label numbers, where it is a thin line in at
            least half of the masks that hold it.
    """
    meant = np.ones(256, np.uint8)
    meant[0] = 0
    if isinstance(void, int):
        meant[void] = VOID
        return meant
    total, kind = together(shapes), kind_together(shapes)
    if kind is Kind.soft:
        meant[: half(total)] = 0
    elif kind is not Kind.white and void is not None and 2 * total.rims >= sum(s.counts[VOID] > 0 for s in shapes):
        meant[VOID] = VOID
    return meant
