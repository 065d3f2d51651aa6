"""From pictures to batches: order and augmentation are functions of (seed, epoch, step).

A batch is made once and fed to every arm. The next ones are gathered in a thread while the arms train; whatever is
drawn or computed on whole batches happens on the device that trains.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.data.ahead import ahead
from camtrain.data.augment import Augmentation, augment, draw
from camtrain.data.pictures import Pictures
from camtrain.streams import Stream, stream

AHEAD = 2
"""Batches that are gathered before they are needed."""


class Batch(NamedTuple):
    """Pictures as the network sees them."""

    images: Tensor  # (batch, 3, size, size) float32, 0..1
    targets: Tensor  # (batch,) int64 class numbers, or (batch, classes) int64 of 0 and 1: several classes per picture
    # (batch, size, size) uint8: 0 background, 255 void, other values the object, in a multi-label set its class number
    # plus 1; all 0 where none is known
    regions: Tensor
    indices: Tensor  # (batch,) int64, numbers of the pictures in their split, on the CPU


class Plan(NamedTuple):
    """One batch to be made: which pictures, and the stream of their augmentation."""

    indices: list[int]
    epoch: int = 0
    step: int = 0


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in an epoch; a set smaller than one batch is one batch."""
    return max(1, count // batch_size)


def epoch_plans(count: int, batch_size: int, seed: int, epoch: int) -> list[Plan]:
    """Training batches of one epoch in a fresh order; an incomplete last batch is left out."""
    order = stream(seed, Stream.order, epoch).permutation(count).tolist()
    starts = [step * batch_size for step in range(steps_per_epoch(count, batch_size))]
    return [Plan(order[start : start + batch_size], epoch, step) for step, start in enumerate(starts)]


def training_batches(
    pictures: Pictures,
    batch_size: int,
    epochs: int,
    seed: int,
    augmentation: Augmentation,
    size: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Generator[Batch, None, None]:
    """All batches of all epochs in order, augmented; pictures of `size` pixels, in this memory layout."""
    plans = (plan for epoch in range(epochs) for plan in epoch_plans(len(pictures.targets), batch_size, seed, epoch))
    for plan, images, regions in _gathered(pictures, plans):
        generator = stream(seed, Stream.augmentation, plan.epoch, plan.step)
        draws = draw(pictures.sizes[plan.indices], augmentation, generator)
        images, regions = augment(*_to(device, images, regions), draws, size)
        yield _batch(pictures, plan.indices, images, regions, layout)


def all_batches(
    pictures: Pictures,
    batch_size: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Generator[Batch, None, None]:
    """Every picture once, in order, as its square is."""
    count = len(pictures.targets)
    plans = [Plan(list(range(at, min(at + batch_size, count)))) for at in range(0, count, batch_size)]
    for plan, images, regions in _gathered(pictures, plans):
        images, regions = _to(device, images, regions)
        yield _batch(pictures, plan.indices, images.float().div_(255), regions, layout)


def one_batch(pictures: Pictures, indices: list[int], device: torch.device) -> Batch:
    """These pictures, as their squares are."""
    images, regions = _to(device, *pictures.gather(indices))
    return _batch(pictures, indices, images.float().div_(255), regions, torch.contiguous_format)


def _to(device: torch.device, images: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return images.to(device, non_blocking=True), None if regions is None else regions.to(device, non_blocking=True)


def _batch(
    pictures: Pictures, numbers: list[int], images: Tensor, regions: Tensor | None, layout: torch.memory_format
) -> Batch:
    if regions is None:
        regions = torch.zeros(1, *images.shape[2:], dtype=torch.uint8, device=images.device).expand(len(images), -1, -1)
    indices = torch.tensor(numbers)
    images = images.contiguous(memory_format=layout)
    return Batch(images, pictures.targets[indices].to(images.device), regions, indices)


def _gathered(pictures: Pictures, plans: Iterable[Plan]) -> Iterator[tuple[Plan, Tensor, Tensor | None]]:
    """Each plan with its pictures and regions."""
    with closing(ahead(lambda plan: pictures.gather(plan.indices), plans, threads=1, begun=AHEAD)) as gathered:
        for plan, (images, regions) in gathered:
            yield plan, images, regions
