"""What more seeds or images would decide: power, numbers needed, and how large a share of bad seeds goes unseen."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import nctdtr, ndtr

from camtrain.analysis.intervals import LEVEL, Interval

WANTED = 0.8
"""Power that planning aims at."""

MOST_SEEDS = 50
"""More seeds than these are not counted out."""

UNLIMITED = 10**6
"""Seeds so many that only the images are left to chance."""

CLIFF = 0.15
"""Share of bad seeds of which is said how often it goes unseen."""


def missed(seeds: int, share: float = CLIFF) -> float:
    """Probability that none of n seeds is a bad one: (1 - share)^n."""
    return (1 - share) ** seeds


class Needed(NamedTuple):
    """What a condition that is open needs for a power of 0.8, if the difference found is the true one."""

    power: float  # of the seeds at hand
    seeds: int | None = None  # more of them; None: more than `MOST_SEEDS`, or seeds do not help
    images: int | None = None  # where seeds alone do not help: images in all, at least; None: images do not help either
    by_seeds: bool = True  # enough seeds would do

    @property
    def words(self) -> str:
        if self.seeds is not None:
            return f"{self.seeds} more seed{'s' * (self.seeds > 1)}"
        if self.by_seeds:
            return f"more than {MOST_SEEDS} more seeds"
        if self.images is not None:
            return f"images, not seeds, limit it: at least {self.images} images needed"
        return "no number of seeds, unless the true difference is another one"


def power(found: Interval, room: float, seeds: float, images: float = 1.0) -> float:
    r"""Probability that the one-sided 95 % bound keeps its limit, if the estimate is the true difference.

    .. math:: P\big(T_\nu(\delta) > h / e\big), \qquad e = \sqrt{\max(a + b, c)}, \qquad \delta = \text{room} / e,
       \qquad \nu = \frac{(a + b)^2}{a^2 / (n - 1) + b^2 / (N - 1)}

    with T the noncentral t distribution, h half of the 90 % interval, and a, b, c those of
    :func:`camtrain.analysis.intervals.hierarchical`, as they are expected of that number of seeds and images: a falls
    as 1 / seeds, b as 1 / images. Where nothing varies it is 0 or 1.

    Args:
        found: over at least two seeds.
        room: distance of the estimate from the limit, negative if it lies beyond.
        seeds: number of seeds.
        images: how many times the images at hand.
    """
    assert found.spread is not None
    spread = found.spread.planned(seeds, images)
    half, between, common = (float(value) for value in (spread.half(2 * LEVEL), spread.between, spread.common))
    error = math.sqrt(max(between + common, float(spread.alone)))
    if error == 0:
        return float(half < room)
    parts = between**2 / (seeds - 1) + common**2 / max(float(spread.degrees), 1)
    degrees = (between + common) ** 2 / parts if parts > 0 else float(spread.degrees)
    reached = 1 - float(nctdtr(degrees, room / error, half / error))
    # The series of the noncentral t does not converge far out, where the normal distribution does.
    return reached if math.isfinite(reached) and abs(room) < 30 * error else float(ndtr((room - half) / error))


def needed(found: Interval, room: float, seeds: int) -> Needed:
    """What a condition needs that these seeds leave open; arguments as for :func:`power`."""
    now = power(found, room, seeds)
    for more in range(1, MOST_SEEDS + 1):
        if power(found, room, seeds + more) >= WANTED:
            return Needed(now, more)
    if power(found, room, UNLIMITED) >= WANTED:
        return Needed(now)
    assert found.spread is not None
    factor = 1.0
    while power(found, room, UNLIMITED, factor) < WANTED:
        factor *= 1.02
        if room <= 0 or factor > UNLIMITED:
            return Needed(now, by_seeds=False)
    return Needed(now, images=math.ceil(factor * (float(found.spread.degrees) + 1)), by_seeds=False)
