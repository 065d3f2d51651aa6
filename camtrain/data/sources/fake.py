"""Coloured noise with a brighter box whose colour depends on the class: learnt in a few steps, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.config.schema import FakeConfig
from camtrain.data.images import StoredImages, in_memory


def splits(config: FakeConfig, seed: int, /) -> tuple[StoredImages, StoredImages]:
    """Training and validation images."""
    drawn = generate(config.train, config.image_size, config.classes, seed, split=0)
    return in_memory(_class_names(config), *drawn), validation(config, seed)


def validation(config: FakeConfig, seed: int, /) -> StoredImages:
    """The validation images alone, the same as beside training images."""
    return in_memory(_class_names(config), *generate(config.val, config.image_size, config.classes, seed, split=1))


def _class_names(config: FakeConfig) -> list[str]:
    return [f"class_{number}" for number in range(config.classes)]


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
        class_number = int(target[number])
        colour = 60 * torch.tensor([(class_number + 1) % 2, (class_number // 2 + 1) % 2, class_number % 3])
        images[number][:, *box] += colour[:, None, None].to(torch.uint8)
        regions[number][box] = 1
    return images, target, regions
