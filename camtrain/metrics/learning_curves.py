r"""The course of learning, read from curves over epochs: when the maps settled, and how fast accuracy rose.

Schöttl 2020 reports that activation areas settle very early, and that part of the learning effort goes into the maps,
so that accuracy curves are shallower. Both are measured here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from camtrain.cam.distribution import correlation, distribution

SETTLED = 0.9
"""Similarity with the final maps from which on maps are called settled."""

SHARE_OF_FINAL = 0.9

KEPT = 256
"""Maps of each epoch that are kept to be compared with those of other epochs."""


def keep(maps: Tensor) -> Tensor:
    """What is kept of an epoch's maps: some, spread evenly, each over its maximum, in half precision on the CPU."""
    count = min(KEPT, len(maps))
    shares, _ = distribution(maps[torch.arange(count, device=maps.device) * len(maps) // max(count, 1)])
    largest = shares.amax((1, 2), keepdim=True)
    return (shares / largest.where(largest > 0, 1.0)).half().cpu()


def similarity(maps: Tensor, others: Tensor) -> float:
    """Mean correlation of maps of the same images, -1..1, dead and constant ones left out; nan if all are."""
    return float(correlation(maps.float(), others.float()).double().nanmean())


def similarities(kept: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Of each epoch's maps with the epoch before (nan for the first) and with the last epoch."""
    before = [similarity(maps, earlier) for earlier, maps in itertools.pairwise(kept)]
    return [math.nan, *before][: len(kept)], [similarity(maps, kept[-1]) for maps in kept]


def settled(with_final: Sequence[float], threshold: float = SETTLED) -> float:
    """The first epoch, counted from 1, from which on the similarity with the final maps stays above the threshold.

    The last epoch is always alike itself, so that its number says that nothing had settled before.

    Returns:
        nan where the final maps are dead or constant, and so have no similarity.
    """
    if not with_final or not math.isfinite(with_final[-1]):
        return math.nan
    below = [number for number, value in enumerate(with_final, start=1) if not value > threshold]
    return float(max(below, default=0) + 1)


def epochs_to(curve: Sequence[float], share: float = SHARE_OF_FINAL) -> float:
    """Epochs until a curve first reaches this share of its last value, interpolated between epochs.

    Args:
        curve: a value after each epoch, for instance of accuracy.
        share: of the last value.

    Returns:
        1 if the first epoch reaches it: what lies within an epoch is not known. nan for an empty curve, or where the
        last value is not defined.
    """
    if not curve or not math.isfinite(curve[-1]):
        return math.nan
    wanted = share * curve[-1]
    first = next(number for number, value in enumerate(curve) if value >= wanted)
    if first == 0 or not math.isfinite(curve[first - 1]):
        return float(first + 1)
    before, after = curve[first - 1], curve[first]
    return first + (wanted - before) / (after - before)


def mean_height(curve: Sequence[float]) -> float:
    """Mean of a curve over epochs: the difference of two is the area between them per epoch."""
    return float(torch.tensor(curve, dtype=torch.float64).nanmean()) if curve else math.nan


def course(rows: Sequence[Mapping[str, float]], kept: Sequence[Tensor], tag: str) -> list[dict[str, float]]:
    """Figures of an arm's learning that need its last epoch, by tag, for each epoch.

    Args:
        rows: figures of each epoch.
        kept: maps of each epoch, from :func:`keep`.
        tag: of accuracy or average precision.
    """
    found = [
        {"settling/with_previous": before, "settling/with_final": final}
        for before, final in zip(*similarities(kept), strict=True)
    ]
    curve = [row[tag] for row in rows]
    found[-1] |= {
        "settling/epoch": settled([row["settling/with_final"] for row in found]),
        "effort/epochs_to_90": epochs_to(curve),
        "effort/mean_performance": mean_height(curve),
    }
    return found
