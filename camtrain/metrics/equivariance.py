r"""Does a map stay on what it shows when the image is mirrored or moved?

Likeness is the correlation of the two maps, see :func:`camtrain.cam.distribution.likeness`: 1 if they are alike up to a
factor, 0 if they have nothing in common.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from camtrain.cam.distribution import distribution, is_dead, likeness, nan_where_dead
from camtrain.cam.stretch import Placement, tiles, upsample

NEAR, FAR = 0.5, 1.5
"""Images are moved by so many strides. A whole stride would put the image in front of the next cells unchanged."""


class Stability(NamedTuple):
    """Likeness of each map to that of the changed image, (maps,), -1..1; nan for dead or constant maps, or where one of
    the two lies outside what both show, 0 where the change kills it."""

    flip: Tensor
    shift: Tensor
    shift_far: Tensor


class Changed(NamedTuple):
    """What belongs to the same images mirrored, moved by :data:`NEAR` strides and moved by :data:`FAR`."""

    flip: Tensor
    shift: Tensor
    shift_far: Tensor


def changed(images: Tensor, shape: tuple[int, int], placement: Placement | None = None) -> Changed:
    """The images, (batch, channels, height, width), mirrored and moved.

    A moved image goes right and down by half a stride of its map, or one and a half, its first row and column repeated.

    Args:
        images: any of these.
        shape: rows and columns of their maps.
        placement: where the cells lie in the image; None: in equal tiles.
    """
    height, width = images.shape[2:]

    def moved(strides: float) -> Tensor:
        down, right = _pixels(strides, placement or tiles((height, width), shape))
        return pad(images, (right, 0, down, 0), mode="replicate")[..., :height, :width]

    return Changed(images.flip(3), moved(NEAR), moved(FAR))


def stability(maps: Tensor, after: Changed, size: tuple[int, int], placement: Placement | None = None) -> Stability:
    r"""Correlation of the mirrored map with the map of the mirrored image, and the same for a moved one.

    Where :math:`T` mirrors or moves, the correlation of :math:`T(L^+(x))` and :math:`L^+(T(x))`, pixel by pixel of
    stretched maps, where both show the same; nan where nothing is left of the image.

    Args:
        maps: (maps, rows, columns), before ReLU.
        after: those of the same classes, of the :func:`changed` images.
        size: height and width of the images.
        placement: as for :func:`changed`.
    """
    height, width = size

    def drawn(those: Tensor) -> Tensor:
        # Of the distribution, which is 0 where a map is dead: what is stretched no longer has a negative part.
        return upsample(distribution(those)[0], size, placement)

    before = drawn(maps)

    def moved(strides: float, those: Tensor) -> Tensor:
        down, right = _pixels(strides, placement or tiles(size, (maps.shape[1], maps.shape[2])))
        if down >= height or right >= width:
            return before.new_full((len(maps),), torch.nan)
        after = drawn(those)[:, down:, right:]
        alike = likeness(before[:, : height - down, : width - right], after)
        return nan_where_dead(alike, is_dead(after) & ~is_dead(those))  # alive in what was not there before

    return Stability(likeness(before.flip(2), drawn(after.flip)), moved(NEAR, after.shift), moved(FAR, after.shift_far))


def _pixels(strides: float, placement: Placement) -> tuple[int, int]:
    """So many strides down and right, one pixel at least."""
    down, right = (max(1, round(strides * axis.step)) for axis in placement)
    return down, right
