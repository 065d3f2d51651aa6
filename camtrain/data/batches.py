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
from camtrain.data.augment import Augmentation, draw, move, move_each, vary
from camtrain.data.images import ImageSet
from camtrain.data.prefetch import prefetched
from camtrain.data.views import Views, draw_views, with_views
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.streams import Stream, stream

WAITING = 2**30
"""Bytes that batches may take before they are needed, where they are more than two."""


class Share(NamedTuple):
    """Where the rows of a rank's part, images and then views, stand in the whole batch."""

    rows: Tensor  # (rows,) int64, on the CPU
    images: int  # of the whole batch
    whole: int  # rows of the whole batch: images and views


class Batch(NamedTuple):
    """Images as the network sees them."""

    images: Tensor  # (batch, channels, height, width) float32, 0..1
    targets: Tensor  # (batch,) int64 class numbers, or (batch, classes) int64 of 0 and 1: several classes per image
    # (batch, height, width) uint8: 0 background, 255 void, other values the object, in a multi-label set its class
    # number plus 1; all 0 where none is known
    regions: Tensor
    indices: Tensor  # (batch,) int64, numbers of the images in their split, on the CPU; of views none
    views: Views | None = None  # which stand behind the images, with their targets and regions
    share: Share | None = None  # of what this is a part; None: of nothing

    @property
    def classified(self) -> int:
        """How many images the classification loss counts, the first ones."""
        return len(self.targets) if self.views is None or self.views.classified else len(self.indices)

    @property
    def counted(self) -> Share | None:
        """Where those stand that the classification loss counts."""
        if self.share is None or self.views is None or self.views.classified:
            return self.share
        return Share(self.share.rows[: len(self.indices)], self.share.images, self.share.images)

    def select(self, chosen: Tensor | slice) -> Batch:
        """Some of the images, without views: by (batch,) bool, or as a slice."""
        images, targets, regions, indices = (
            part[chosen.to(part.device) if isinstance(chosen, Tensor) else chosen]
            for part in (self.images, self.targets, self.regions, self.indices)
        )
        return Batch(images, targets, regions, indices)

    def without_views(self) -> Batch:
        """The images alone."""
        alone, count = self.select(slice(len(self.indices))), len(self.indices)
        return alone._replace(share=self.share and Share(self.share.rows[:count], self.share.images, self.share.images))


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
        ranks: which rows of each batch are made: this rank's. They are what they are in the whole batch.
    """

    size: int
    device: torch.device = torch.device("cpu")
    layout: torch.memory_format = torch.contiguous_format
    threads: int = 1
    views: ViewKind = ViewKind.none
    views_share: float = 0.0
    ranks: Ranks = ALONE


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

    def prepared(plan: Plan) -> Callable[[], Batch]:
        generator = stream(seed, Stream.augmentation, plan.epoch, plan.step)
        draws = draw(train_set.sizes[plan.indices], augmentation, generator)
        rows, views, share = _own(plan, train_set.targets, batching, size, seed)
        indices, draws = [plan.indices[row] for row in rows], draws.of(rows)

        def varied(images: Tensor, regions: Tensor | None) -> Batch:
            made = _batch(train_set, indices, vary(images, regions, draws), regions, batching.layout)
            return _seen_again(made, train_set.targets[indices], views, share, batching.layout)

        if on_cpu:
            stored = [train_set.item(number) for number in indices]
            made = varied(*move_each(stored, draws, size, bool(train_set.has_region.any())))
            return lambda: made
        gathered = train_set.gather(indices)
        return lambda: varied(*move(*_to(batching.device, *gathered), draws, size))

    begun = _begun(batching, (train_set.shape[0], *size))
    with closing(prefetched(prepared, plans(), batching.threads, begun)) as batches:
        for _, finished in batches:
            yield finished()


def _own(
    plan: Plan, targets: Tensor, batching: Batching, size: tuple[int, int], seed: int
) -> tuple[list[int], Views | None, Share | None]:
    """Which rows of a batch have to be made, those of this rank first, and the views of its images among them."""
    count, views, ranks = len(plan.indices), None, batching.ranks
    if batching.views is not ViewKind.none:
        generator = stream(seed, Stream.views, plan.epoch, plan.step)
        views = draw_views(batching.views, batching.views_share, targets[plan.indices], size, generator)
    if ranks.alone:
        return list(range(count)), views, None
    rows = list(ranks.rows(count))
    if views is None:
        return rows, None, Share(torch.tensor(rows), count, count)
    mine = torch.isin(views.rows, torch.tensor(rows))
    share = Share(torch.cat([torch.tensor(rows), count + mine.nonzero().flatten()]), count, count + len(mine))
    own = views.select(mine)
    needed = [*rows, *(row for row in own.behind_rows() if row not in rows)]
    return needed, own.renumbered({row: place for place, row in enumerate(needed)}), share


def _seen_again(
    batch: Batch, targets: Tensor, views: Views | None, share: Share | None, layout: torch.memory_format
) -> Batch:
    """The batch, whose targets are also given on the CPU, with its views, if it has some, and without what it holds
    only because a view shows it."""
    if views is None:
        return batch._replace(share=share)
    images, regions = with_views(batch.images, batch.regions, views)
    targets = torch.cat([targets, targets[views.rows]])
    count = len(batch.indices) if share is None else len(share.rows) - len(views.rows)
    if count < len(batch.indices):
        kept = torch.tensor([*range(count), *range(len(batch.indices), len(images))])
        images, regions, targets = images[kept.to(images.device)], regions[kept.to(images.device)], targets[kept]
    images, targets = images.contiguous(memory_format=layout), targets.to(images.device, non_blocking=True)
    return Batch(images, targets, regions, batch.indices[:count], views, share)


def all_batches(image_set: ImageSet, batching: Batching, chosen: Tensor | None = None) -> Generator[Batch, None, None]:
    """Every image once, or every chosen one, (images,) bool; in order, not augmented. Of several ranks each has whole
    batches, those of its rows."""
    numbers = range(len(image_set.targets)) if chosen is None else chosen.nonzero().flatten().tolist()
    parts = [list(numbers[at : at + batching.size]) for at in range(0, len(numbers), batching.size)]
    parts = [parts[number] for number in batching.ranks.rows(len(parts))]
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
