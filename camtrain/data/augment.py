r"""Augmentation of whole batches, with a draw for each picture, on whatever device the batch is on.

Where a picture is moved or hidden its region is as well. What is drawn is a function of the stream that it is drawn
from; the number of draws does not depend on the pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camtrain.indicators import VOID
from camtrain.normalisation import MEAN

GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""

ERASED_SHARE = (0.02, 0.33)  # of the picture, as Zhong et al. 2017
ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied.

    Args:
        crop_scale: smallest and largest share of the picture that a crop covers, of aspect 3/4 to 4/3, anywhere in it
            (cut at its edges where it would not fit); (1, 1) is the middle square.
        flip: mirror half of the pictures.
        brightness: largest deviation of the factor from 1; like the next two as in torchvision's ColorJitter.
        contrast: the same.
        saturation: the same.
        hue: largest turn of the hue either way, in whole turns.
        erase: share of pictures in which a rectangle is hidden (Zhong et al. 2017, arXiv 1708.04896).
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0

    @property
    def crops(self) -> bool:
        return self.crop_scale != (1.0, 1.0)

    @property
    def colours(self) -> bool:
        return self.brightness > 0 or self.contrast > 0 or self.saturation > 0 or self.hue > 0


class Draws(NamedTuple):
    """What was drawn for a batch, on the CPU; boxes are left, top, right and bottom as shares of the square."""

    mirrored: Tensor  # (batch,) bool
    crops: Tensor | None  # (batch, 4) float32; None: the square as it is
    colours: Tensor | None  # (batch, 4) float32: factors of brightness, contrast, saturation, and the hue's turn
    erased: Tensor | None  # (batch, 4) float32, empty where nothing is hidden; of the picture after the crop


def draw(sizes: Tensor, augmentation: Augmentation, generator: np.random.Generator) -> Draws:
    """One draw for each picture, given (batch, 2) widths and heights."""
    count = len(sizes)
    place, colour, erase = (generator.random((count, columns)) for columns in (5, 4, 5))
    boxes, factors, hidden = None, None, None
    if augmentation.crops:
        boxes = np.empty((count, 4))
        low, high = augmentation.crop_scale
        for row, (width, height), (scale, aspect, x, y, _) in zip(boxes, sizes.tolist(), place, strict=True):
            area, ratio = (low + (high - low) * scale) * width * height, (4 / 3) ** (2 * aspect - 1)
            across, down = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
            left, top = x * (width - across), y * (height - down)
            row[:] = left / width, top / height, (left + across) / width, (top + down) / height
    if augmentation.colours:
        spread = np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
        factors = (2 * colour - 1) * spread + [1, 1, 1, 0]
    if augmentation.erase:
        low, high = ERASED_SHARE
        area = low + (high - low) * erase[:, 0]
        ratio = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** erase[:, 1]
        across, down = np.minimum(1, np.sqrt(area * ratio)), np.minimum(1, np.sqrt(area / ratio))
        left, top = erase[:, 2] * (1 - across), erase[:, 3] * (1 - down)
        hidden = np.stack([left, top, left + across, top + down], 1)
        hidden[erase[:, 4] >= augmentation.erase] = 0
    mirrored = torch.from_numpy(augmentation.flip & (place[:, 4] < 0.5))
    return Draws(mirrored, _tensor(boxes), _tensor(factors), _tensor(hidden))


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array).float()


def augment(images: Tensor, regions: Tensor | None, draws: Draws, size: int) -> tuple[Tensor, Tensor | None]:
    """Apply the draws.

    Args:
        images: (batch, 3, side, side) uint8.
        regions: (batch, side, side) uint8; None where none is known.
        draws: one for each picture.
        size: edge of the result in pixels.

    Returns:
        (batch, 3, size, size) float32 in 0..1, (batch, size, size) uint8 or None; what is hidden is void.
    """
    if draws.crops is not None:
        low, high = whole_pixels(draws.crops, images.shape[-1])
        images = crop(images, low, high, size)
        regions = regions if regions is None else crop_region(regions, low, high, size)
    rows = draws.mirrored.nonzero().flatten().to(images.device)
    images = mirror(images, rows)
    regions = regions if regions is None else mirror(regions, rows)
    images = images.float().div_(255)
    if draws.colours is not None:
        images = recolour(images, draws.colours.to(images.device))
    if draws.erased is not None:
        low, high = whole_pixels(draws.erased, size)
        mean = torch.tensor(MEAN, device=images.device)[:, None, None]
        erase(images, low, high, mean)
        if regions is not None:
            erase(regions, low, high, VOID)
    return images, regions


def mirror(values: Tensor, rows: Tensor) -> Tensor:
    """Flip these rows of a batch, pictures or regions, left and right."""
    values = values.clone(memory_format=torch.preserve_format)
    values[rows] = values[rows].flip(-1)
    return values


def whole_pixels(boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(batch, 2) int64 each: left and top, right and bottom of boxes (batch, 4), at least a pixel where not empty."""
    low = (boxes[:, :2] * side).round().long().clamp(0, side - 1)
    high = (boxes[:, 2:] * side).round().long().clamp(0, side)
    return low, torch.where(boxes[:, 2:] > boxes[:, :2], torch.maximum(high, low + 1), low)


def crop(images: Tensor, low: Tensor, high: Tensor, size: int) -> Tensor:
    """Stretch a box of each picture to `size`, antialiased.

    On the CPU torch's kernel for bytes does this picture by picture, several times as fast as anything on the whole
    batch; elsewhere the batch is multiplied by matrices, which gives the same but for rounding.

    Args:
        images: (batch, 3, side, side) uint8.
        low: (batch, 2) int64, left and top.
        high: (batch, 2) int64, right and bottom, exclusive.
        size: edge of the result in pixels.
    """
    if images.device.type != "cpu":
        return crop_by_matrices(images, low.to(images.device), high.to(images.device), size)
    parts = []
    for image, (left, top), (right, bottom) in zip(images, low.tolist(), high.tolist(), strict=True):
        part = image[None, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
        parts.append(interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(parts)


def crop_region(regions: Tensor, low: Tensor, high: Tensor, size: int) -> Tensor:
    """The same of regions (batch, side, side) uint8, by the values nearest to the pixels' centres."""
    centres = (torch.arange(size) + 0.5) / size
    columns, rows = ((low[:, n, None] + centres * (high - low)[:, n, None]).long().to(regions.device) for n in (0, 1))
    picture = torch.arange(len(regions), device=regions.device)[:, None, None]
    return regions[picture, rows[:, :, None], columns[:, None, :]]


def crop_by_matrices(images: Tensor, low: Tensor, high: Tensor, size: int) -> Tensor:
    """The triangle filter of antialiased bilinear interpolation along columns, then rows."""
    side = images.shape[-1]
    pixels = torch.arange(side, device=images.device, dtype=torch.float32)

    def weights(start: Tensor, stop: Tensor) -> Tensor:
        """(batch, size, side): what each pixel of the square gives to each of the result."""
        scale = (stop - start)[:, None, None] / size
        centres = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
        share = (1 - (pixels + 0.5 - centres).abs() / scale.clamp_min(1)).clamp_min(0)
        share = share * ((pixels >= start[:, None, None]) & (pixels < stop[:, None, None]))
        return share / share.sum(2, keepdim=True)

    across, down = weights(low[:, 0], high[:, 0]), weights(low[:, 1], high[:, 1])
    stretched = down[:, None] @ images.float() @ across[:, None].mT
    return stretched.round().clamp(0, 255).to(torch.uint8)


def recolour(images: Tensor, factors: Tensor) -> Tensor:
    r"""Change brightness, contrast, saturation and hue, in this order, by one matrix for each picture.

    .. math:: x' = \mathrm{clip}\left( H_h\, S_s\, (c\, b\, x) + (1 - c)\, b\, \bar y \right)

    with :math:`S_s` the mean of colour and grey, weighted by s and 1 - s, :math:`H_h` a turn of the colour round the
    grey axis (in YIQ), :math:`\bar y` the mean grey of the picture. Clipped once, at the end.

    Args:
        images: (batch, 3, height, width) in 0..1.
        factors: (batch, 4): b, c, s, and h in turns.
    """
    brightness, contrast, saturation, turn = factors.unbind(1)
    grey = torch.tensor(GREY, dtype=images.dtype, device=images.device)
    to_grey = grey.expand(3, 3)
    eye = torch.eye(3, dtype=images.dtype, device=images.device)
    saturate = saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * to_grey
    matrix = _turn_of_hue(turn, images) @ saturate * (brightness * contrast)[:, None, None]
    mean = images.mean((2, 3)) @ grey
    offset = (1 - contrast) * brightness * mean
    turned = torch.einsum("bdc,bchw->bdhw", matrix, images)
    return turned.add_(offset[:, None, None, None]).clamp_(0, 1)


def _turn_of_hue(turn: Tensor, like: Tensor) -> Tensor:
    """(batch, 3, 3): rotation of I and Q in YIQ; greys stay."""
    # Rows: luma, and two axes of colour at right angles to one another (FCC NTSC 1953).
    to_yiq = torch.tensor(
        [GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=like.dtype, device=like.device
    )
    cos, sin = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).reshape(-1, 3, 3)
    turn_back: Tensor = torch.linalg.inv(to_yiq)
    return turn_back @ rotation @ to_yiq


def erase(values: Tensor, low: Tensor, high: Tensor, filling: Tensor | int) -> None:
    """Put the filling into a box of each picture or region, in place."""
    for value, (left, top), (right, bottom) in zip(values, low.tolist(), high.tolist(), strict=True):
        value[..., top:bottom, left:right] = filling
