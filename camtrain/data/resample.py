"""Images and regions made square, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

Pixels = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels, right and bottom exclusive."""

RESIZED_AT_ONCE = 1000


def stretched(image: np.ndarray, box: Pixels, side: int) -> np.ndarray:
    """A box of an image (height, width, 3) uint8 as a square, antialiased: (side, side, 3)."""
    left, top, right, bottom = box
    part = torch.from_numpy(np.array(image[top:bottom, left:right], order="C"))
    # Channels last, for which torch has its fastest kernel; it recognises them by the batch dimension's stride, too.
    part = part.unsqueeze(0).permute(0, 3, 1, 2)
    square = interpolate(part, (side, side), mode="bilinear", antialias=True, align_corners=False)
    pixels: np.ndarray = square[0].permute(1, 2, 0).numpy()
    return pixels


def nearest(region: np.ndarray, box: Pixels, side: int) -> np.ndarray:
    """A box of a region (height, width) uint8 as a square of the values nearest to its pixels' centres."""
    left, top, right, bottom = box
    twice = 2 * np.arange(side) + 1
    rows, columns = top + twice * (bottom - top) // (2 * side), left + twice * (right - left) // (2 * side)
    chosen: np.ndarray = region[rows[:, None], columns]
    return chosen


def resized(images: Tensor, side: int) -> Tensor:
    """Images (images, channels, height, width) uint8 as squares, antialiased: (images, channels, side, side) uint8."""
    parts = [
        interpolate(
            images[at : at + RESIZED_AT_ONCE].float(),
            (side, side),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        for at in range(0, len(images), RESIZED_AT_ONCE)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
