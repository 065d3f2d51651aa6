"""What a file gives for images whose class and object are known, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.distribution import correlation, is_dead
from camtrain.cam.stretch import Placement
from camtrain.cam.targets import MapTargets, is_multilabel
from camtrain.data.batches import Batch
from camtrain.export.formats import Runner
from camtrain.metrics.concentration import entropy
from camtrain.metrics.pointing import energy_in_mask

TIMES, BEFORE = 30, 5
"""Passes that are timed, and that run before them."""


class Given(NamedTuple):
    """What a file gives for images."""

    maps: Tensor  # (images, height, width), after ReLU, of the class that it predicts or that it was made for
    correct: Tensor  # (images,) 0 or 1: its most probable class is (one of) the image's
    energy: Tensor  # (images,) share of the map in the object, nan where none is known

    def figures(self, floats: Given) -> dict[str, float]:
        """Means over images; entropy and correlation of maps that are not dead.

        Args:
            floats: what the float network gives, which the maps are correlated with.
        """
        return {
            "accuracy": float(self.correct.mean()),
            "entropy": float(entropy(self.maps).nanmean()),
            "energy_in_mask": float(self.energy.nanmean()),
            "dead_rate": float(is_dead(self.maps).float().mean()),
            "correlation": float(correlation(self.maps, floats.maps).nanmean()),
        }


def given(
    run: Runner,
    batches: Iterable[Batch],
    size: int | None,
    as_bytes: bool,
    placement: Placement | None,
    number: int | None = None,
) -> Given:
    """What a file gives for all images.

    Args:
        run: the file.
        batches: images with their classes and regions.
        size: images that the file takes at once; None: any number.
        as_bytes: it takes bytes.
        placement: where the map's cells lie in the image; None: in equal tiles.
        number: of the class that the maps are of; None: the predicted one.
    """
    parts = []
    for batch in batches:
        images = (batch.images * 255).round().to(torch.uint8) if as_bytes else batch.images
        outputs = [_whole(run, part, size) for part in torch.split(images.contiguous(), size or len(images))]
        logits, maps = (torch.cat([output[number] for output in outputs]) for number in (0, 2))
        predicted = logits.argmax(1)
        if maps.dim() == 4:
            maps = maps[torch.arange(len(maps)), predicted]
        several = is_multilabel(batch.targets)
        rows = torch.arange(len(predicted))
        correct = batch.targets[rows, predicted] if several else predicted == batch.targets
        own = predicted if number is None else torch.full_like(predicted, number)
        regions = MapTargets(rows, own, several, one_each=True).regions(batch.regions)
        parts.append(Given(maps, correct.float(), energy_in_mask(maps, regions, placement)))
    return Given(*map(torch.cat, zip(*parts, strict=True)))


def _whole(run: Runner, images: Tensor, size: int | None) -> tuple[Tensor, ...]:
    """The outputs for images, to which the last one is added until they are as many as the file takes."""
    missing = size - len(images) if size else 0
    full = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
    return tuple(output[: len(images)] for output in run(full))


def seconds(run: Runner, images: Tensor) -> float:
    """Median CPU time of a pass for each of its images: what it takes one thread on an idle machine, however busy this
    one is."""
    taken = []
    for _ in range(BEFORE + TIMES):
        start = time.process_time()
        run(images)
        taken.append(time.process_time() - start)
    return float(torch.tensor(taken[BEFORE:]).median()) / len(images)
