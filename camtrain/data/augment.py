r"""Augmentation, drawn for each image; where an image is cropped, mirrored or hidden its region is as well.

It has two halves, both on the device that trains: crops and mirrors, and :func:`vary`, which changes colours and hides
rectangles of whole batches. The first half is :func:`move_each` on a CPU, where torch's kernel for bytes is several
times as fast on one image as anything on a batch, and :func:`move` elsewhere, the same but for rounding. What is
drawn is a function of the stream that it is drawn from; the number of draws does not depend on the images.

Ours and not torchvision's transforms, which draw from torch's global generator, and once for a whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from camtrain.config.options import Fit
from camtrain.data.resample import nearest, stretched
from camtrain.normalisation import mean_colour
from camtrain.regions import VOID

GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""

ERASED_SHARE = (0.02, 0.33)  # of the image, as Zhong et al. 2017
ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Args:
        crop_scale: smallest and largest share of the image that a crop covers, of 3/4 to 4/3 the result's aspect,
            anywhere in it (cut at its edges where it would not fit); (1, 1): none.
        flip: mirror each image with probability 1/2.
        brightness: largest deviation of the factor from 1, as in torchvision's ColorJitter.
        contrast: likewise.
        saturation: likewise.
        hue: largest shift of the hue either way, in whole turns.
        erase: share of images in which a rectangle is hidden (Zhong et al. 2017, arXiv 1708.04896).
        aspect: width over height of the result.
        fit: how an image that is not cropped gets that aspect. Where it is not by cropping the stored image has it, and
            crops are taken of that, padding and distortion included.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0
    aspect: float = 1.0
    fit: Fit = Fit.crop

    @property
    def crops(self) -> bool:
        return self.crop_scale != (1.0, 1.0)

    @property
    def colours(self) -> bool:
        return self.brightness > 0 or self.contrast > 0 or self.saturation > 0 or self.hue > 0


class Draws(NamedTuple):
    """What was drawn for a batch, on the CPU; boxes are left, top, right and bottom as shares of the image."""

    mirrored: Tensor  # (batch,) bool
    crops: Tensor | None  # (batch, 4) float32; None: the image as it is
    colours: Tensor | None  # (batch, 4) float32: factors of brightness, contrast, saturation, and the hue's turn
    erased: Tensor | None  # (batch, 4) float32, empty where nothing is hidden; of the image after the crop

    def of(self, rows: Sequence[int]) -> Draws:
        """Those of some images."""
        return Draws(*(None if part is None else part[list(rows)] for part in self))  # type: ignore[arg-type]


def draw(sizes: Tensor, augmentation: Augmentation, generator: np.random.Generator) -> Draws:
    """One draw for each image, given (batch, 2) widths and heights."""
    count = len(sizes)
    place, colour, erase = (generator.random((count, columns)) for columns in (5, 4, 5))
    boxes, factors, hidden = None, None, None
    if augmentation.crops:
        boxes = np.empty((count, 4))
        low, high = augmentation.crop_scale
        frames = sizes.tolist() if augmentation.fit is Fit.crop else [(augmentation.aspect, 1.0)] * count
        for row, (width, height), (scale, shape, x, y, _) in zip(boxes, frames, place, strict=True):
            area = (low + (high - low) * scale) * width * height
            ratio = (4 / 3) ** (2 * shape - 1) * augmentation.aspect
            across, down = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
            left, top = x * (width - across), y * (height - down)
            row[:] = left / width, top / height, (left + across) / width, (top + down) / height
    if augmentation.colours:
        spread = np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
        factors = (2 * colour - 1) * spread + [1, 1, 1, 0]
    if augmentation.erase:
        low, high = ERASED_SHARE
        area = low + (high - low) * erase[:, 0]
        ratio = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** erase[:, 1] / augmentation.aspect
        across, down = np.minimum(1, np.sqrt(area * ratio)), np.minimum(1, np.sqrt(area / ratio))
        left, top = erase[:, 2] * (1 - across), erase[:, 3] * (1 - down)
        hidden = np.stack([left, top, left + across, top + down], 1)
        hidden[erase[:, 4] >= augmentation.erase] = 0
    mirrored = torch.from_numpy(augmentation.flip & (place[:, 4] < 0.5))
    return Draws(mirrored, _tensor(boxes), _tensor(factors), _tensor(hidden))


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array).float()


def move_each(
    stored: Sequence[tuple[np.ndarray, np.ndarray | None]], draws: Draws, size: tuple[int, int], with_regions: bool
) -> tuple[Tensor, Tensor | None]:
    """Crop and mirror as drawn, one image after the other, all in the thread that calls.

    Args:
        stored: images (rows, columns, channels) uint8 and regions (rows, columns) uint8, None where none is known.
        draws: one for each image.
        size: height and width of the result.
        with_regions: whether to return regions.

    Returns:
        (batch, channels, *size) float32 in 0..1; (batch, *size) uint8 or None.
    """
    rows, columns, channels = stored[0][0].shape
    images = np.empty((len(stored), channels, *size), np.float32)
    colours = np.empty(images.shape[1:], np.uint8)
    regions = np.zeros((len(images), *size), np.uint8) if with_regions else None
    boxes = None if draws.crops is None else torch.cat(whole_pixels(draws.crops, (rows, columns)), 1).tolist()
    for number, ((image, region), mirrored) in enumerate(zip(stored, draws.mirrored.tolist(), strict=True)):
        if boxes is not None:
            image = stretched(image, boxes[number], size)
            region = region if region is None else nearest(region, boxes[number], size)
        step = -1 if mirrored else 1
        colours[:] = image[:, ::step].transpose(2, 0, 1)
        np.divide(colours, np.float32(255), out=images[number])
        if regions is not None and region is not None:
            regions[number] = region[:, ::step]
    return torch.from_numpy(images), None if regions is None else torch.from_numpy(regions)


def move(images: Tensor, regions: Tensor | None, draws: Draws, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Crop and mirror a whole batch as drawn, on its device.

    Args:
        images: (batch, channels, rows, columns) uint8.
        regions: (batch, rows, columns) uint8; None where none is known.
        draws: one for each image.
        size: height and width of the result.

    Returns:
        (batch, channels, *size) float32 in 0..1; (batch, *size) uint8 or None.
    """
    if draws.crops is not None:
        low, high = (edge.to(images.device) for edge in whole_pixels(draws.crops, images.shape[2:]))
        images = crop(images, low, high, size)
        regions = regions if regions is None else crop_region(regions, low, high, size)
    mirrored = draws.mirrored.to(images.device)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images).float().div_(255)
    return images, regions if regions is None else torch.where(mirrored[:, None, None], regions.flip(2), regions)


def vary(images: Tensor, regions: Tensor | None, draws: Draws) -> Tensor:
    """Change colours and hide rectangles, as drawn.

    Args:
        images: (batch, channels, height, width) float32 in 0..1; may be changed.
        regions: (batch, height, width) uint8; None where none is known; become void where pixels are hidden.
        draws: one for each image.

    Returns:
        (batch, channels, height, width) float32 in 0..1.
    """
    if draws.colours is not None:
        images = recolour(images, draws.colours)
    if draws.erased is not None:
        low, high = whole_pixels(draws.erased, images.shape[2:])
        mean = torch.tensor(mean_colour(images.shape[1])).to(images.device, non_blocking=True)[:, None, None]
        erase(images, low, high, mean)
        if regions is not None:
            erase(regions, low, high, VOID)
    return images


def whole_pixels(boxes: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Corners of boxes (batch, 4) of images of this height and width: left and top, right and bottom, each (batch, 2)
    int64.

    Boxes that are not empty hold at least a pixel.
    """
    edges = torch.tensor([size[1], size[0]])
    low = (boxes[:, :2] * edges).round().long().clamp_min(0).minimum(edges - 1)
    high = (boxes[:, 2:] * edges).round().long().clamp_min(0).minimum(edges)
    return low, torch.where(boxes[:, 2:] > boxes[:, :2], torch.maximum(high, low + 1), low)


def crop(images: Tensor, low: Tensor, high: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a box of each image to `size`: the triangle filter of antialiased interpolation, as matrices.

    Args:
        images: (batch, channels, rows, columns) uint8.
        low: (batch, 2) int64, left and top.
        high: (batch, 2) int64, right and bottom, exclusive.
        size: height and width of the result.
    """

    def weights(start: Tensor, stop: Tensor, side: int, edge: int) -> Tensor:
        """(batch, edge, side): the weight of each of `side` pixels in each of `edge` pixels of the result."""
        pixels = torch.arange(side, device=images.device, dtype=torch.float32)
        scale = (stop - start)[:, None, None] / edge
        centres = start[:, None, None] + (torch.arange(edge, device=start.device)[:, None] + 0.5) * scale
        share = (1 - (pixels + 0.5 - centres).abs() / scale.clamp_min(1)).clamp_min(0)
        share = share * ((pixels >= start[:, None, None]) & (pixels < stop[:, None, None]))
        return share / share.sum(2, keepdim=True)

    across = weights(low[:, 0], high[:, 0], images.shape[3], size[1])
    down = weights(low[:, 1], high[:, 1], images.shape[2], size[0])
    stretched = down[:, None] @ images.float() @ across[:, None].mT
    return stretched.round().clamp(0, 255).to(torch.uint8)


def crop_region(regions: Tensor, low: Tensor, high: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch a box of each region (batch, rows, columns) uint8, by the values nearest to the pixels' centres."""
    columns, rows = (
        low[:, axis, None]
        + (2 * torch.arange(edge, device=regions.device) + 1) * (high - low)[:, axis, None] // (2 * edge)
        for axis, edge in enumerate(reversed(size))
    )
    image = torch.arange(len(regions), device=regions.device)[:, None, None]
    return regions[image, rows[:, :, None], columns[:, None, :]]


def recolour(images: Tensor, factors: Tensor) -> Tensor:
    r"""Change brightness, contrast, saturation and hue, in this order, by one matrix for each image.

    .. math:: x' = \mathrm{clip}\left( H_h\, S_s\, (c\, b\, x) + (1 - c)\, b\, \bar y \right)

    with :math:`S_s` the mean of colour and grey, weighted by s and 1 - s, :math:`H_h` a rotation of the colour about
    the grey axis (in YIQ), :math:`\bar y` the mean grey of the image. Clipped once, at the end. Of other than three
    channels the mean grey is that of all of them, and there is neither saturation nor hue.

    Args:
        images: (batch, channels, height, width) in 0..1.
        factors: (batch, 4): b, c, s, and h in turns.
    """
    factors = factors.to(images.dtype)
    brightness, contrast, saturation, turn = factors.unbind(1)
    channels = images.shape[1]
    grey = factors.new_tensor(GREY if channels == 3 else (1 / channels,) * channels)
    matrix = torch.eye(channels, dtype=factors.dtype, device=factors.device)
    if channels == 3:
        saturate = saturation[:, None, None] * matrix + (1 - saturation)[:, None, None] * grey.expand(3, 3)
        matrix = _turn_of_hue(turn) @ saturate
    matrix = matrix * (brightness * contrast)[:, None, None]
    lighter = (1 - contrast) * brightness
    matrix, grey, lighter = (part.to(images.device, non_blocking=True) for part in (matrix, grey, lighter))
    offset = lighter * (images.mean((2, 3)) @ grey)
    turned = torch.einsum("bdc,bchw->bdhw", matrix, images)
    return turned.add_(offset[:, None, None, None]).clamp_(0, 1)


def _turn_of_hue(turn: Tensor) -> Tensor:
    """(batch, 3, 3): rotation of I and Q in YIQ, which keeps greys."""
    # Rows: luma, and two orthogonal axes of colour (FCC NTSC 1953).
    to_yiq = turn.new_tensor([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).reshape(-1, 3, 3)
    turn_back: Tensor = torch.linalg.inv(to_yiq)
    return turn_back @ rotation @ to_yiq


def erase(values: Tensor, low: Tensor, high: Tensor, filling: Tensor | int) -> None:
    """Put the filling into a box of each image or region, in place."""
    for value, (left, top), (right, bottom) in zip(values, low.tolist(), high.tolist(), strict=True):
        value[..., top:bottom, left:right] = filling
