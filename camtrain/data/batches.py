"""From images to batches: order and augmentation are functions of (seed, epoch, step).

A batch is made once and fed to every arm. The next ones are gathered in threads while the arms train, and augmented on
the device that trains: on a CPU in those threads, too.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.data.augment import Augmentation, Draws, draw, move, move_each, vary
from camtrain.data.images import ImageSet
from camtrain.data.prefetch import prefetched
from camtrain.streams import Stream, stream

WAITING = 2**30
"""Bytes that batches take at most before they are needed, if they are more than two."""


class Batch(NamedTuple):
    """Images as the network sees them."""

    images: Tensor  # (batch, 3, size, size) float32, 0..1
    targets: Tensor  # (batch,) int64 class numbers, or (batch, classes) int64 of 0 and 1: several classes per image
    # (batch, size, size) uint8: 0 background, 255 void, other values the object, in a multi-label set its class number
    # plus 1; all 0 where none is known
    regions: Tensor
    indices: Tensor  # (batch,) int64, numbers of the images in their split, on the CPU


class Plan(NamedTuple):
    """One batch to be made: which images, and the stream of their augmentation."""

    indices: list[int]
    epoch: int
    step: int


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in an epoch; a set smaller than one batch is one batch."""
    return max(1, count // batch_size)


def epoch_plans(count: int, batch_size: int, seed: int, epoch: int) -> list[Plan]:
    """Training batches of one epoch in a fresh order; an incomplete last batch is left out."""
    order = stream(seed, Stream.order, epoch).permutation(count).tolist()
    starts = [step * batch_size for step in range(steps_per_epoch(count, batch_size))]
    return [Plan(order[start : start + batch_size], epoch, step) for step, start in enumerate(starts)]


def training_batches(
    image_set: ImageSet,
    batch_size: int,
    epochs: int,
    seed: int,
    augmentation: Augmentation,
    size: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
    threads: int = 1,
) -> Generator[Batch, None, None]:
    """All batches of all epochs in order, augmented; images of `size` pixels, in this memory layout."""
    plans = (plan for epoch in range(epochs) for plan in epoch_plans(len(image_set.targets), batch_size, seed, epoch))
    on_cpu = device.type == "cpu"

    def prepared(plan: Plan) -> tuple[Tensor, Tensor | None, Draws]:
        generator = stream(seed, Stream.augmentation, plan.epoch, plan.step)
        draws = draw(image_set.sizes[plan.indices], augmentation, generator)
        if not on_cpu:
            return *image_set.gather(plan.indices), draws
        squares = [image_set.square(number) for number in plan.indices]
        images, regions = move_each(squares, draws, size, image_set.with_region > 0)
        return vary(images, regions, draws), regions, draws

    with closing(prefetched(prepared, plans, threads, _begun(threads, batch_size, size))) as made:
        for plan, (images, regions, draws) in made:
            if not on_cpu:
                images, regions = move(*_to(device, images, regions), draws, size)
                images = vary(images, regions, draws)
            yield _batch(image_set, plan.indices, images, regions, layout)


def all_batches(
    images: ImageSet,
    batch_size: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
    threads: int = 1,
    chosen: Tensor | None = None,
) -> Generator[Batch, None, None]:
    """Every image once, or every chosen one, (images,) bool; in order, as its square is."""
    numbers = range(len(images.targets)) if chosen is None else chosen.nonzero().flatten().tolist()
    parts = [list(numbers[at : at + batch_size]) for at in range(0, len(numbers), batch_size)]
    with closing(prefetched(images.gather, parts, threads, _begun(threads, batch_size, images.side))) as made:
        for part, gathered in made:
            yield _unvaried(images, part, gathered, device, layout)


def one_batch(images: ImageSet, indices: list[int], device: torch.device) -> Batch:
    """These images, as their squares are."""
    return _unvaried(images, indices, images.gather(indices), device, torch.contiguous_format)


def _unvaried(
    image_set: ImageSet,
    indices: list[int],
    gathered: tuple[Tensor, Tensor | None],
    device: torch.device,
    layout: torch.memory_format,
) -> Batch:
    images, regions = _to(device, *gathered)
    return _batch(image_set, indices, images.float().div_(255), regions, layout)


def _begun(threads: int, batch_size: int, size: int) -> int:
    """Batches of float32 that may wait: one for each thread and one more, within bounds."""
    return max(2, min(threads + 1, WAITING // (batch_size * 3 * size**2 * 4)))


def _to(device: torch.device, images: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return images.to(device, non_blocking=True), None if regions is None else regions.to(device, non_blocking=True)


def _batch(
    image_set: ImageSet, numbers: list[int], images: Tensor, regions: Tensor | None, layout: torch.memory_format
) -> Batch:
    if regions is None:
        nothing = torch.zeros((), dtype=torch.uint8, device=images.device)
        regions = nothing.expand(len(images), *images.shape[2:])
    indices = torch.tensor(numbers)
    images = images.contiguous(memory_format=layout)
    return Batch(images, image_set.targets[indices].to(images.device), regions, indices)
