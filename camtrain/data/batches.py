"""From images to batches: order and augmentation are functions of (seed, epoch, step).

A batch is made once and fed to every arm. The next ones are gathered in threads while the arms train, and augmented on
the device that trains: on a CPU in those threads, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.config.options import ViewKind
from camtrain.data.augment import Augmentation, Draws, draw, move, move_each, vary
from camtrain.data.images import ImageSet
from camtrain.data.prefetch import prefetched
from camtrain.data.views import Views, draw_views, with_views
from camtrain.streams import Stream, stream

WAITING = 2**30
"""Bytes that batches may take before they are needed, where they are more than two."""


class Batch(NamedTuple):
    """Images as the network sees them."""

    images: Tensor  # (batch, channels, height, width) float32, 0..1
    targets: Tensor  # (batch,) int64 class numbers, or (batch, classes) int64 of 0 and 1: several classes per image
    # (batch, height, width) uint8: 0 background, 255 void, other values the object, in a multi-label set its class
    # number plus 1; all 0 where none is known
    regions: Tensor
    indices: Tensor  # (batch,) int64, numbers of the images in their split, on the CPU; of views none
    views: Views | None = None  # which stand behind the images, with their targets and regions

    @property
    def classified(self) -> int:
        """How many images the classification loss counts, the first ones."""
        return len(self.targets) if self.views is None or self.views.classified else len(self.indices)

    def select(self, chosen: Tensor | slice) -> Batch:
        """Some of the images, without views: by (batch,) bool, or as a slice."""
        images, targets, regions, indices = (
            part[chosen.to(part.device) if isinstance(chosen, Tensor) else chosen]
            for part in (self.images, self.targets, self.regions, self.indices)
        )
        return Batch(images, targets, regions, indices)

    def without_views(self) -> Batch:
        """The images alone."""
        return self.select(slice(len(self.indices)))


@dataclass(frozen=True)
class Batching:
    """How batches are made. Only the size changes which images they hold, and nothing how these are augmented.

    Args:
        size: number of images in a batch.
        device: where they are needed.
        layout: of the images in memory.
        threads: number of threads that prepare them.
        views: in training, what further views of images are made by.
        views_share: of how many of the images.
    """

    size: int
    device: torch.device = torch.device("cpu")
    layout: torch.memory_format = torch.contiguous_format
    threads: int = 1
    views: ViewKind = ViewKind.none
    views_share: float = 0.0


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
    train_set: ImageSet,
    batching: Batching,
    epochs: int,
    seed: int,
    augmentation: Augmentation,
    size: tuple[int, int],
    start: tuple[int, int] = (0, 0),
) -> Generator[Batch, None, None]:
    """The augmented batches of all epochs in order, from any of them on.

    Args:
        train_set: the images.
        batching: how batches are made.
        epochs: number of epochs, counted from the first one whatever the start is.
        seed: of order and augmentation.
        augmentation: how images are varied.
        size: height and width of the batches' images.
        start: epoch and step, both from 0, of the first batch. It and all that follow equal those of a run from the
            beginning.
    """
    on_cpu = batching.device.type == "cpu"

    def plans() -> Iterator[Plan]:
        for epoch in range(start[0], epochs):
            of_epoch = epoch_plans(len(train_set.targets), batching.size, seed, epoch)
            yield from of_epoch[start[1] if epoch == start[0] else 0 :]

    def varied(plan: Plan, images: Tensor, regions: Tensor | None, draws: Draws) -> Batch:
        made = _batch(train_set, plan.indices, vary(images, regions, draws), regions, batching.layout)
        return _seen_again(made, train_set.targets[made.indices], batching, plan, seed)

    def prepared(plan: Plan) -> Callable[[], Batch]:
        generator = stream(seed, Stream.augmentation, plan.epoch, plan.step)
        draws = draw(train_set.sizes[plan.indices], augmentation, generator)
        if on_cpu:
            stored = [train_set.item(number) for number in plan.indices]
            made = varied(plan, *move_each(stored, draws, size, bool(train_set.has_region.any())), draws)
            return lambda: made
        gathered = train_set.gather(plan.indices)
        return lambda: varied(plan, *move(*_to(batching.device, *gathered), draws, size), draws)

    begun = _begun(batching, (train_set.shape[0], *size))
    with closing(prefetched(prepared, plans(), batching.threads, begun)) as batches:
        for _, finished in batches:
            yield finished()


def _seen_again(batch: Batch, targets: Tensor, batching: Batching, plan: Plan, seed: int) -> Batch:
    """The batch, whose targets are also given on the CPU, with its views, if there are to be any."""
    if batching.views is ViewKind.none:
        return batch
    size = (batch.images.shape[2], batch.images.shape[3])
    generator = stream(seed, Stream.views, plan.epoch, plan.step)
    views = draw_views(batching.views, batching.views_share, targets, size, generator)
    images, regions = with_views(batch.images, batch.regions, views)
    images = images.contiguous(memory_format=batching.layout)
    targets = torch.cat([targets, targets[views.rows]]).to(batch.targets.device, non_blocking=True)
    return Batch(images, targets, regions, batch.indices, views)


def all_batches(image_set: ImageSet, batching: Batching, chosen: Tensor | None = None) -> Generator[Batch, None, None]:
    """Every image once, or every chosen one, (images,) bool; in order, not augmented."""
    numbers = range(len(image_set.targets)) if chosen is None else chosen.nonzero().flatten().tolist()
    parts = [list(numbers[at : at + batching.size]) for at in range(0, len(numbers), batching.size)]
    begun = _begun(batching, image_set.shape)
    with closing(prefetched(image_set.gather, parts, batching.threads, begun)) as made:
        for part, gathered in made:
            yield _unvaried(image_set, part, gathered, batching.device, batching.layout)


def one_batch(image_set: ImageSet, indices: list[int], device: torch.device) -> Batch:
    """These images, not augmented."""
    return _unvaried(image_set, indices, image_set.gather(indices), device, torch.contiguous_format)


def _unvaried(
    image_set: ImageSet,
    indices: list[int],
    gathered: tuple[Tensor, Tensor | None],
    device: torch.device,
    layout: torch.memory_format,
) -> Batch:
    images, regions = _to(device, *gathered)
    return _batch(image_set, indices, images.float().div_(255), regions, layout)


def _begun(batching: Batching, shape: tuple[int, int, int]) -> int:
    """Batches of float32 that may wait: one for each thread and one more, within bounds."""
    return max(2, min(batching.threads + 1, WAITING // (batching.size * math.prod(shape) * 4)))


def _to(device: torch.device, images: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor | None]:
    def copied(part: Tensor) -> Tensor:
        pinned = part.pin_memory() if device.type == "cuda" else part  # else the copy is waited for
        return pinned.to(device, non_blocking=True)

    return copied(images), None if regions is None else copied(regions)


def _batch(
    image_set: ImageSet, numbers: list[int], images: Tensor, regions: Tensor | None, layout: torch.memory_format
) -> Batch:
    if regions is None:
        nothing = torch.zeros((), dtype=torch.uint8, device=images.device)
        regions = nothing.expand(len(images), *images.shape[2:])
    indices = torch.tensor(numbers)
    images = images.contiguous(memory_format=layout)
    return Batch(images, image_set.targets[indices].to(images.device, non_blocking=True), regions, indices)
