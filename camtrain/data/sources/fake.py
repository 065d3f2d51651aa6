"""Coloured noise with a brighter box on it, whose colour is the class: learnt in a few steps, for tests."""

from __future__ import annotations

import torch
from torch import Tensor


def generate(count: int, size: int, classes: int, seed: int, split: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (count, 3, size, size) uint8, targets (count,) int64 in turn, regions (count, size, size) uint8."""
    generator = torch.Generator().manual_seed(seed * 2 + split)
    target = torch.arange(count) % classes
    images = torch.randint(0, 96, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    regions = torch.zeros(count, size, size, dtype=torch.uint8)
    side = max(2, size // 3)
    corners = torch.randint(0, size - side + 1, (count, 2), generator=generator).tolist()
    for number, (top, left) in enumerate(corners):
        box = (slice(top, top + side), slice(left, left + side))
        kind = int(target[number])
        colour = torch.tensor([(kind + 1) % 2, (kind // 2 + 1) % 2, kind % 3]) * 60
        images[number][:, *box] += colour[:, None, None].to(torch.uint8)
        regions[number][box] = 1
    return images, target, regions
