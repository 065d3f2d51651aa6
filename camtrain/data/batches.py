"""From pictures to batches: order and augmentation are functions of (seed, epoch, step).

A batch is made once and fed to every arm. The next ones are gathered in threads while the arms train, and augmented on
the device that trains: on a CPU in those threads, too.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.data.ahead import ahead
from camtrain.data.augment import Augmentation, Draws, draw, move, move_each, vary
from camtrain.data.pictures import Pictures
from camtrain.streams import Stream, stream

WAITING = 2**30
"""Bytes that batches take at most before they are needed, if they are more than two."""


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
    pictures: Pictures,
    batch_size: int,
    epochs: int,
    seed: int,
    augmentation: Augmentation,
    size: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
    threads: int = 1,
) -> Generator[Batch, None, None]:
    """All batches of all epochs in order, augmented; pictures of `size` pixels, in this memory layout."""
    plans = (plan for epoch in range(epochs) for plan in epoch_plans(len(pictures.targets), batch_size, seed, epoch))
    on_cpu = device.type == "cpu"

    def prepared(plan: Plan) -> tuple[Tensor, Tensor | None, Draws]:
        generator = stream(seed, Stream.augmentation, plan.epoch, plan.step)
        draws = draw(pictures.sizes[plan.indices], augmentation, generator)
        if not on_cpu:
            return *pictures.gather(plan.indices), draws
        squares = [pictures.square(number) for number in plan.indices]
        images, regions = move_each(squares, draws, size, pictures.with_region > 0)
        return vary(images, regions, draws), regions, draws

    with closing(ahead(prepared, plans, threads, _begun(threads, batch_size, size))) as made:
        for plan, (images, regions, draws) in made:
            if not on_cpu:
                images, regions = move(*_to(device, images, regions), draws, size)
                images = vary(images, regions, draws)
            yield _batch(pictures, plan.indices, images, regions, layout)


def all_batches(
    pictures: Pictures,
    batch_size: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
    threads: int = 1,
    chosen: Tensor | None = None,
) -> Generator[Batch, None, None]:
    """Every picture once, or every chosen one, (pictures,) bool; in order, as its square is."""
    numbers = range(len(pictures.targets)) if chosen is None else chosen.nonzero().flatten().tolist()
    parts = [list(numbers[at : at + batch_size]) for at in range(0, len(numbers), batch_size)]
    with closing(ahead(pictures.gather, parts, threads, _begun(threads, batch_size, pictures.side))) as made:
        for part, gathered in made:
            yield _unvaried(pictures, part, gathered, device, layout)


def one_batch(pictures: Pictures, indices: list[int], device: torch.device) -> Batch:
    """These pictures, as their squares are."""
    return _unvaried(pictures, indices, pictures.gather(indices), device, torch.contiguous_format)


def _unvaried(
    pictures: Pictures,
    indices: list[int],
    gathered: tuple[Tensor, Tensor | None],
    device: torch.device,
    layout: torch.memory_format,
) -> Batch:
    images, regions = _to(device, *gathered)
    return _batch(pictures, indices, images.float().div_(255), regions, layout)


def _begun(threads: int, batch_size: int, size: int) -> int:
    """Batches of float32 that may wait: one for each thread and one more, within bounds."""
    return max(2, min(threads + 1, WAITING // (batch_size * 3 * size**2 * 4)))


def _to(device: torch.device, images: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return images.to(device, non_blocking=True), None if regions is None else regions.to(device, non_blocking=True)


def _batch(
    pictures: Pictures, numbers: list[int], images: Tensor, regions: Tensor | None, layout: torch.memory_format
) -> Batch:
    if regions is None:
        nothing = torch.zeros((), dtype=torch.uint8, device=images.device)
        regions = nothing.expand(len(images), *images.shape[2:])
    indices = torch.tensor(numbers)
    images = images.contiguous(memory_format=layout)
    return Batch(images, pictures.targets[indices].to(images.device), regions, indices)
