"""Coloured noise with a brighter box whose colour depends on the class: learnt in a few steps, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.config.schema import FakeConfig
from camtrain.config.validate import image_shape
from camtrain.data.images import StoredImages, in_memory


def splits(config: FakeConfig, seed: int, /) -> tuple[StoredImages, StoredImages]:
    """Training and validation images."""
    drawn = generate(config.train, image_shape(config), config.classes, seed, split=0)
    return in_memory(_class_names(config), *drawn), validation(config, seed)


def validation(config: FakeConfig, seed: int, /) -> StoredImages:
    """The validation images alone, the same as beside training images."""
    return in_memory(_class_names(config), *generate(config.val, image_shape(config), config.classes, seed, split=1))


def _class_names(config: FakeConfig) -> list[str]:
    return [f"class_{number}" for number in range(config.classes)]


def generate(
    count: int, shape: tuple[int, int, int], classes: int, seed: int, split: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (count, *shape) uint8, targets (count,) int64 in turn, regions (count, height, width) uint8."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed * 2 + split)
    target = torch.arange(count) % classes
    images = torch.randint(0, 96, (count, *shape), generator=generator, dtype=torch.uint8)
    regions = torch.zeros(count, height, width, dtype=torch.uint8)
    short = min(height, width)
    side = max(2, short // 3)
    corners = torch.randint(0, short - side + 1, (count, 2), generator=generator)
    corners = corners * torch.tensor([height - side, width - side]) // (short - side)
    for number, (top, left) in enumerate(corners.tolist()):
        box = (slice(top, top + side), slice(left, left + side))
        images[number][:, *box] += _colour(int(target[number]), channels)[:, None, None]
        regions[number][box] = 1
    return images, target, regions


def _colour(class_number: int, channels: int) -> Tensor:
    """What the box adds to each channel, (channels,) uint8; those after the third repeat the first three."""
    if channels < 3:
        return torch.full((channels,), 50 * (class_number % 3 + 1), dtype=torch.uint8)
    three = 60 * torch.tensor([(class_number + 1) % 2, (class_number // 2 + 1) % 2, class_number % 3])
    return three[torch.arange(channels) % 3].to(torch.uint8)
