r"""Where a map's cells lie in the image, and maps stretched to the image's size.

A cell is a weighted sum of pixels. The geometry of the layers says which: that of kernel k, stride s and padding p
moves the centre of cell o from where :math:`s\,o + (k - 1)/2 - p` was below it. Tools that draw class activation maps
do not look at that; they divide the image into as many equal tiles as there are cells and put each cell into the middle
of its tile. Of a network of 3 x 3 convolutions of stride 2 and padding 1 that is half a cell too far right and down.

Pixels are counted by their centres: pixel i reaches from i - 1/2 to i + 1/2.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camtrain.cam.distribution import positive_part


class Axis(NamedTuple):
    """Cells along one axis of the image: cell o is centred on pixel `first + step * o`."""

    first: float
    step: float  # pixels from cell to cell
    field: float  # pixels that a cell depends on; inf: all

    def offset(self, pixels: int, cells: int) -> float:
        """How far, in pixels, the middle of the map lies from where the middle of equal tiles is; negative: before."""
        return self.first + self.step * (cells - 1) / 2 - (pixels - 1) / 2

    def scaled(self, factor: float) -> Axis:
        """In an image that is drawn larger."""
        return Axis((self.first + 0.5) * factor - 0.5, self.step * factor, self.field * factor)


class Placement(NamedTuple):
    """Where the cells of a map lie in the image."""

    rows: Axis
    columns: Axis


def tiles(image: tuple[int, int], grid: tuple[int, int]) -> Placement:
    """Equal tiles: where other tools draw the cells, and where those of patches lie that fill the image."""
    steps = (side / cells for side, cells in zip(image, grid, strict=True))
    return Placement(*(Axis((step - 1) / 2, step, math.inf) for step in steps))


def weights(pixels: int, cells: int, axis: Axis | None, like: Tensor) -> Tensor:
    """Matrix (pixels, cells) of linear interpolation along one axis; beyond the outermost centres their cell goes on.

    Args:
        pixels: of the image.
        cells: of the map.
        axis: where these lie; None: in equal tiles.
        like: whose type and device it has.
    """
    return _weights(pixels, cells, axis, like.dtype, like.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they serve in training as well
def _weights(pixels: int, cells: int, axis: Axis | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: a training step would have to wait for them on their way to the device."""
    if axis is None:
        unit = torch.eye(cells, dtype=dtype, device=device)[:, None, :, None]
        return interpolate(unit, (pixels, 1), mode="bilinear", align_corners=False)[:, 0, :, 0].mT
    at = (torch.arange(pixels, dtype=torch.float64) - axis.first) / axis.step
    hat = 1 - (at.clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()
    return hat.clamp_min(0).to(device, dtype)


def upsample(maps: Tensor, size: tuple[int, int], placement: Placement | None = None) -> Tensor:
    """:math:`L^+` stretched bilinearly to the image's size, (maps, *size).

    Args:
        maps: (maps, height, width), before ReLU.
        size: height and width of the image.
        placement: where the cells lie in it; None: in equal tiles.
    """
    positive = positive_part(maps)
    if placement is None:
        return interpolate(positive[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    rows, columns = (
        weights(pixels, cells, axis, positive)
        for pixels, cells, axis in zip(size, maps.shape[-2:], placement, strict=True)
    )
    return rows @ positive @ columns.mT


def rank(stretched: Tensor) -> Tensor:
    """Place of each pixel in the descending order of its map, 0 the highest; int32 of the same shape.

    Pixels of equal value, as where the map is 0, go in one random order, the same for all maps of that size: row by
    row they would take the image apart from one side.

    Args:
        stretched: (maps, height, width).
    """
    drawn = _tie_breaks(stretched.shape[1] * stretched.shape[2]).to(stretched.device, non_blocking=True)
    order = drawn[stretched.flatten(1)[:, drawn].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(order.shape[1], dtype=torch.int32, device=order.device).expand_as(order)
    return torch.empty_like(places).scatter_(1, order, places).reshape(stretched.shape)


@lru_cache(maxsize=8)
def _tie_breaks(pixels: int) -> Tensor:
    """The order of equal pixels, (pixels,) int64."""
    return torch.from_numpy(np.random.default_rng(0).permutation(pixels))
