"""Images and regions brought to one size, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from camtrain.config.options import Fit
from camtrain.data.listing import Rule
from camtrain.normalisation import mean_colour
from camtrain.regions import VOID

Pixels = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels, right and bottom exclusive."""

RESIZED_AT_ONCE = 1000

LUMA = (19595, 38470, 7471)
"""Of red, green and blue in 65536ths (ITU-R BT.601), as Pillow makes grey."""


def seen(width: int, height: int, rule: Rule) -> Pixels:
    """The box of an image that is seen: all of it, or under `crop` the largest central one of the rule's aspect.

    That is half a pixel further left or up where it cannot be centred exactly.
    """
    if rule.fit is Fit.crop:
        return _central(width, height, rule.width, rule.height)
    return 0, 0, width, height


def place(width: int, height: int, rule: Rule) -> Pixels:
    """The box of the result that an image takes: all of it, or under `pad` the largest central one of its aspect."""
    if rule.fit is Fit.pad:
        return _central(rule.width, rule.height, width, height)
    return 0, 0, rule.width, rule.height


def _central(width: int, height: int, across: int, down: int) -> Pixels:
    """The largest central box of `width` x `height` pixels that is as `across` to `down`, but for rounding."""
    wide, high = min(width, max(1, round(height * across / down))), min(height, max(1, round(width * down / across)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def stretched(image: np.ndarray, box: Pixels, size: tuple[int, int]) -> np.ndarray:
    """A box of an image (height, width, channels) uint8, antialiased: (*size, channels)."""
    left, top, right, bottom = box
    part = torch.from_numpy(np.array(image[top:bottom, left:right], order="C"))
    # Channels last, for which torch has its fastest kernel; it recognises them by the batch dimension's stride, too.
    part = part.unsqueeze(0).permute(0, 3, 1, 2)
    result = interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)
    pixels: np.ndarray = result[0].permute(1, 2, 0).numpy()
    return pixels


def nearest(region: np.ndarray, box: Pixels, size: tuple[int, int]) -> np.ndarray:
    """A box of a region (height, width) uint8, by the values nearest to the pixels' centres: `size`."""
    left, top, right, bottom = box
    rows = top + (2 * np.arange(size[0]) + 1) * (bottom - top) // (2 * size[0])
    columns = left + (2 * np.arange(size[1]) + 1) * (right - left) // (2 * size[1])
    chosen: np.ndarray = region[rows[:, None], columns]
    return chosen


def fitted(
    image: np.ndarray, region: np.ndarray | None, rule: Rule, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its region as the rule asks for them, cut, stretched and padded alike.

    Args:
        image: (rows, columns, channels) uint8, at its own size or at a fraction of it.
        region: (height, width) uint8, None where none is known.
        rule: what they become.
        size: width and height.

    Returns:
        (height, width, channels) uint8; (height, width) uint8 or None. Around a padded image is the mean colour, around
        its region void.
    """
    at = place(*size, rule)
    inner = at[3] - at[1], at[2] - at[0]
    pixels = stretched(image, seen(image.shape[1], image.shape[0], rule), inner)
    pixels = _padded(pixels, at, rule.size, filling(rule.channels))
    if region is None:
        return pixels, None
    return pixels, _padded(nearest(region, seen(*size, rule), inner), at, rule.size, VOID)


def _padded(pixels: np.ndarray, box: Pixels, size: tuple[int, int], filling: np.ndarray | int) -> np.ndarray:
    """An image or a region, which takes this box, and around it the filling, of one value or one for each channel."""
    if pixels.shape[:2] == size:
        return pixels
    whole = np.empty((*size, *pixels.shape[2:]), np.uint8)
    whole[:] = filling
    left, top, right, bottom = box
    whole[top:bottom, left:right] = pixels
    return whole


def filling(channels: int) -> np.ndarray:
    """What is around a padded image, (channels,) uint8."""
    return np.round(255 * np.array(mean_colour(channels))).astype(np.uint8)


def fitted_batch(images: Tensor, rule: Rule) -> Tensor:
    """Images (images, channels, height, width) uint8 of one size, antialiased: (images, *shape of the rule) uint8.

    Args:
        images: of one, or of three channels, or of as many as the rule has.
        rule: what they become.
    """
    height, width = images.shape[2:]
    left, top, right, bottom = seen(width, height, rule)
    images = of_channels(images[:, :, top:bottom, left:right], rule.channels)
    at = place(width, height, rule)
    inner = at[3] - at[1], at[2] - at[0]
    if inner != images.shape[2:]:
        parts = [
            interpolate(
                images[start : start + RESIZED_AT_ONCE].float(),
                inner,
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
            for start in range(0, len(images), RESIZED_AT_ONCE)
        ]
        images = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
    if inner == rule.size:
        return images
    around = torch.from_numpy(filling(rule.channels))[:, None, None]
    known = pad(torch.ones(inner, dtype=torch.bool), (at[0], rule.width - at[2], at[1], rule.height - at[3]))
    whole = pad(images, (at[0], rule.width - at[2], at[1], rule.height - at[3]))
    return torch.where(known, whole, around)


def of_channels(images: Tensor, channels: int) -> Tensor:
    """Images (images, channels, height, width) uint8: grey as three equal channels, red, green and blue as grey."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    luma = torch.tensor(LUMA)[:, None, None]
    return ((images.int() * luma).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)
