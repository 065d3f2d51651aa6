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
from torch.nn.functional import grid_sample

from camtrain.data.listing import middle
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
    """What was drawn for a batch; boxes are left, top, right and bottom as shares of the square."""

    mirrored: Tensor  # (batch,) bool
    crops: Tensor | None  # (batch, 4) float32; None: the square as it is
    colours: Tensor | None  # (batch, 4) float32: factors of brightness, contrast, saturation, and the hue's turn
    erased: Tensor | None  # (batch, 4) float32, empty where nothing is hidden; of the picture after the crop

    def to(self, device: torch.device) -> Draws:
        mirrored, *others = self
        return Draws(mirrored.to(device), *(part if part is None else part.to(device) for part in others))


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


def middles(sizes: Tensor) -> Draws:
    """The middle square of each picture, for squares that show the whole of it."""
    boxes = [[*middle(width, height)] for width, height in sizes.tolist()]
    crops = torch.tensor(boxes) / sizes[:, [0, 1, 0, 1]]
    return Draws(torch.zeros(len(sizes), dtype=torch.bool), crops.float(), None, None)


def augment(images: Tensor, regions: Tensor, draws: Draws, size: int) -> tuple[Tensor, Tensor]:
    """Apply the draws.

    Args:
        images: (batch, 3, side, side) uint8.
        regions: (batch, side, side) uint8.
        draws: one for each picture.
        size: edge of the result in pixels.

    Returns:
        (batch, 3, size, size) float32 in 0..1, (batch, size, size) uint8; what is hidden is void.
    """
    if draws.crops is None:
        images, regions = mirror(images, regions, draws.mirrored)
        images = images.float().div_(255)
    else:
        images, regions = crop(images.float().div_(255), regions, draws.crops, draws.mirrored, size)
    if draws.colours is not None:
        images = recolour(images, draws.colours)
    if draws.erased is not None:
        images, regions = erase(images, regions, draws.erased)
    return images, regions


def mirror(images: Tensor, regions: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Flip left and right where `mirrored`, (batch,) bool."""
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images, torch.where(mirrored[:, None, None], regions.flip(2), regions)


def crop(images: Tensor, regions: Tensor, boxes: Tensor, mirrored: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Stretch a box of each picture and its region to `size`: bilinear, and the nearest value.

    Args:
        images: (batch, 3, side, side) float32.
        regions: (batch, side, side) uint8.
        boxes: (batch, 4), left, top, right, bottom as shares of the square.
        mirrored: (batch,) bool.
        size: edge of the result in pixels.
    """
    left, top, right, bottom = (2 * boxes - 1).unbind(1)
    left, right = torch.where(mirrored, right, left), torch.where(mirrored, left, right)
    centres = (torch.arange(size, device=boxes.device) + 0.5) / size
    across = left[:, None] + (right - left)[:, None] * centres
    down = top[:, None] + (bottom - top)[:, None] * centres
    shape = (len(boxes), size, size)
    grid = torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], 3)
    cut = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    side = regions.shape[-1]
    columns, rows = (((at + 1) * (side / 2)).long().clamp(0, side - 1) for at in (across, down))
    picture = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    return cut, regions[picture, rows[:, :, None], columns[:, None, :]]


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
    mean = torch.einsum("bchw,c->b", images, grey) / (images.shape[2] * images.shape[3])
    offset = (1 - contrast) * brightness * mean
    turned = torch.einsum("bdc,bchw->bdhw", matrix, images) + offset[:, None, None, None]
    return turned.clamp_(0, 1)


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


def erase(images: Tensor, regions: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Hide a box of each picture, (batch, 4) as shares, under ImageNet's mean colour; its region becomes void."""
    size = images.shape[-1]
    centres = (torch.arange(size, device=images.device) + 0.5) / size
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    hidden = ((centres >= top) & (centres < bottom))[:, :, None] & ((centres >= left) & (centres < right))[:, None, :]
    mean = torch.tensor(MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    return torch.where(hidden[:, None], mean, images), regions.masked_fill(hidden, VOID)
