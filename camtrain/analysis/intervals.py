"""How far a mean difference between the arms can be trusted: intervals over seeds and images, and p values.

Pure functions of differences, treatment minus reference; they know neither the indicators nor the runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]

LEVEL = 0.05
"""One less the confidence of every interval."""

CELLS = 2**20
"""Numbers held at once in an array of draws; only the memory depends on it."""


class Interval(NamedTuple):
    estimate: float
    margin: float  # half of the 95 % interval; nan where too few values
    p: float  # two-sided, of no difference; nan with the margin

    @property
    def low(self) -> float:
        return self.estimate - self.margin

    @property
    def high(self) -> float:
        return self.estimate + self.margin


NOTHING = Interval(math.nan, math.nan, math.nan)
"""Of what was not measured."""


def hierarchical(
    differences: Sequence[np.ndarray],
    shared: bool,
    seed: int = 0,
    replicates: int = 2000,
    rates: Sequence[bool] | None = None,
) -> list[Interval]:
    r"""Mean difference of each tag, with its 95 % interval over seeds and images.

    The estimate is the mean over the n seeds of their mean over images; a seed without any value of a tag is left out
    for that tag. Two things might have come out otherwise, the seeds and the images:

    .. math:: a = s^2 / n, \qquad
       b = \overline{\mathrm{cov}}_{j \ne k}(m_j, m_k), \qquad
       c = \mathrm{var}\Big(\tfrac1n \sum_k m_k\Big)

    s is the standard deviation of the seeds' means; variance and covariance are those of the seeds' means m when the
    images are drawn again, with replacement (bootstrap). If the images are `shared`, one draw serves all seeds, and
    b is the part of their variation that all seeds have in common. Otherwise every seed has its own draw, and b is 0.
    The margin is

    .. math:: \max\left(\frac{a\, t_{n-1} + b\, t_{N-1}}{\sqrt{a + b}},\; t_{N-1} \sqrt{c}\right)

    with N images (N - 1 summed over the seeds, if each has its own), and p is the level at which the interval would
    just reach 0. The second term: what the images alone leave open is known well, and seeds that agree by luck do not
    undo it.

    This is the hierarchical bootstrap, seeds with replacement and images within (Davison & Hinkley 1997;
    Saravanan et al. 2020; for crossed designs the pigeonhole bootstrap, Owen 2007), except that

    - the variance from drawing seeds, :math:`s^2 (n - 1) / n^2`, is not simulated but written down, without the bias
      (n - 1) / n, which at three seeds is a third;
    - the variation of the images that is already in s is not added again. Both bootstraps do: they are conservative, up
      to twice the variance if nested, thrice if crossed;
    - there are no percentiles. With three or five seeds the draws know only these few means and the percentiles are
      far too narrow; the t of n - 1 degrees of freedom allows for not knowing s.

    Degrees of freedom by Satterthwaite (1946), :math:`(a + b)^2 / (a^2 / (n - 1))`, would be too many just when s comes
    out too small by chance: the intervals cover 92 % at three seeds and 87 % at two in the worst mixture of a and b.
    The weighted mean of the quantiles (Cochran & Cox 1957; Cochran 1964) keeps 95 % from three seeds on, 94 % at two.

    With one seed only images are drawn, b = c and a = 0: *the interval does not include the variation between seeds.*

    The margin of a rate is that of :func:`rate_margin` with all images, and with those of one seed at least
    :func:`unseen`: that none of a few networks has dead maps, say, does not make these rarer.

    Args:
        differences: of each seed, (images, tags), treatment minus reference; nan where not defined.
        shared: the same images in the same order in all seeds.
        seed: of the draws.
        replicates: number of draws.
        rates: (tags,) which are shares of images, each having 0 or 1 or a mean of such; none if not given.

    Returns:
        One interval per tag; margin and p are nan for fewer than two values in all.
    """
    values, known = _checked(differences, shared)
    spread = _spread(values, known, shared, seed, replicates)
    rare = np.zeros(values[0].shape[1], dtype=bool) if rates is None else np.asarray(rates, dtype=bool)
    finite = [np.where(there, each, 0.0) for there, each in zip(known, values, strict=True)]
    sums, squares, cubes = (np.sum([(each**power).sum(0) for each in finite], axis=0) for power in (1, 2, 3))
    skew = _skew(cubes, squares)

    def half(level: Floats) -> Floats:
        widest = spread.half(level)
        widened = np.maximum(rate_margin(widest, spread.images + 1, skew, level), unseen(spread.largest, level))
        return np.where(rare, widened, widest)

    enough, estimates = spread.values > 1, spread.estimates
    margin = np.where(enough, half(np.full(len(estimates), LEVEL)), np.nan)
    p = np.where(enough, _reaching(estimates, half), np.nan)
    test = np.where(rare & enough, _mcnemar(sums, squares), 0.0)
    margin, p = np.where(test >= LEVEL, np.maximum(margin, np.abs(estimates)), margin), np.maximum(p, test)
    p = np.where(margin == 0, 0.0, p)  # nothing varies: half() is 0 at all levels
    p = np.where(enough & (estimates == 0), 1.0, p)
    return [Interval(*map(float, found)) for found in zip(estimates, margin, p, strict=True)]


def _checked(differences: Sequence[np.ndarray], shared: bool) -> tuple[list[Floats], list[NDArray[np.bool_]]]:
    """The differences of each seed as float64, and which of them are known; both (images, tags).

    Raises:
        ValueError: they are of no seed, or of different tags, or not of the same images although these are shared.
    """
    values = [np.asarray(each, dtype=np.float64) for each in differences]
    if not values or any(each.ndim != 2 or each.shape[1] != values[0].shape[1] for each in values):
        raise ValueError("needs at least one seed, and of each (images, tags) with the same tags")
    if shared and any(len(each) != len(values[0]) for each in values):
        raise ValueError("shared images, but not the same number in all seeds")
    return values, [np.isfinite(each) for each in values]


class _Spread(NamedTuple):
    """Estimates and what they may vary by, (tags,) each; letters are those of :func:`hierarchical`."""

    estimates: Floats
    between: Floats  # a
    common: Floats  # b
    alone: Floats  # c
    seeds: NDArray[np.int_]  # that have a value
    images: NDArray[np.int_]  # degrees of freedom, N - 1
    values: NDArray[np.int_]  # in all
    largest: NDArray[np.int_]  # values of the seed that has most

    def half(self, level: Floats) -> Floats:
        """Half width of the interval that misses in `level`, as that of a mean."""
        few, many = (-stdtrit(np.maximum(degrees, 1), level / 2) for degrees in (self.seeds - 1, self.images))
        total = self.between + self.common
        mixed = (self.between * few + self.common * many) / np.sqrt(np.where(total > 0, total, 1.0))
        widest: Floats = np.maximum(mixed, many * np.sqrt(self.alone))
        return widest


def _spread(
    values: Sequence[Floats], known: Sequence[NDArray[np.bool_]], shared: bool, seed: int, replicates: int
) -> _Spread:
    """Variation between seeds, and over images; arguments as for :func:`hierarchical`, (images, tags) each."""
    counts = np.array([each.sum(0) for each in known])
    means = np.array([_mean(*pair) for pair in zip(values, known, strict=True)])
    seeds = (counts > 0).sum(0)
    estimates = _mean(means, counts > 0)
    apart = np.where(counts > 0, means - estimates, 0.0)
    between = (apart**2).sum(0) / np.maximum(seeds * (seeds - 1), 1)
    # Drawing m values shows only (m - 1) / m of their variance; one value shows nothing, and stays where it is.
    stretch = np.sqrt(counts / np.maximum(counts - 1, 1))
    centred = [
        np.where(there, (each - mean) * factor, 0.0)
        for each, there, mean, factor in zip(values, known, means, stretch, strict=True)
    ]
    present = [there.astype(np.float64) for there in known]
    each_variance, sum_variance = _variances(centred, present, shared, seed, replicates)
    alone = sum_variance / np.maximum(seeds, 1) ** 2
    common = np.maximum(sum_variance - each_variance, 0.0) / np.maximum(seeds * (seeds - 1), 1)
    if not shared:
        common = np.zeros_like(common)
    common = np.where(seeds == 1, alone, common)
    images = np.any(known, axis=0).sum(0) - 1 if shared else np.maximum(counts - 1, 0).sum(0)
    return _Spread(estimates, between, common, alone, seeds, images, counts.sum(0), counts.max(0))


def unseen(n: int | NDArray[np.int_], level: float | Floats = LEVEL) -> Floats:
    r"""The largest difference of two rates that agrees with n images none of which changed, 0..1.

    .. math:: u = \frac{z^2}{n + z^2}, \quad z = z_{1 - level/2}

    The end of the score interval for paired rates, Tango, Stat. Med. 1998; at 95 % some 3.84/n. The exact bound of
    Clopper and Pearson is 3.69/n.
    """
    square = np.square(ndtri(np.asarray(level) / 2))
    found: Floats = square / (n + square)
    return found


def images_for(margin: float) -> int:
    """How many images, none of which changes, show a rate to be known to within a margin above 0: :func:`unseen`'s
    inverse."""
    return math.ceil(float(np.square(ndtri(LEVEL / 2))) * (1 - margin) / margin)


def rate_margin(margin: Floats, n: int | NDArray[np.int_], skew: Floats, level: float | Floats = LEVEL) -> Floats:
    r"""Margin of a difference of two rates that few of n images show, from that of a mean of as many values.

    .. math:: \frac{k u}{2} + \sqrt{m^2 + \left(1 - \frac{k}{2}\right)^2 u^2}

    with m the margin as of any mean, u that of no changes (:func:`unseen`), and the skewness
    :math:`k = |\sum d^3| / \sum d^2` of the differences d, 1 if all changes go in one direction, or there are none.
    The spread of a rate grows with the rate, so that a sample with too few changes seems too sure: of 8 expected
    changes in one direction m alone misses the rate in 11 % of samples, and in 10 % from below. This is u without any
    change, the far end of Wilson's score interval for changes in one direction (both ends: it is symmetric here), and
    hardly more than m for many in both. For 24 to 1000 images of which half change at most it covers 95.6 % or more,
    and misses 2.7 % at most at either end. Where nearly all of a few dozen change it covers less, down to 88 %.
    """
    bound = unseen(n, level)
    found: Floats = skew * bound / 2 + np.hypot(margin, (1 - skew / 2) * bound)
    return found


def _skew(cubes: Floats, squares: Floats) -> Floats:
    return np.where(squares > 0, np.abs(cubes) / np.where(squares > 0, squares, 1.0), 1.0)


def _mcnemar(sums: Floats, squares: Floats) -> Floats:
    r"""p of McNemar's test, of :math:`|\sum d| / \sqrt{\sum d^2}` as a standard normal."""
    found: Floats = 2 * ndtr(-np.abs(sums) / np.sqrt(np.where(squares > 0, squares, 1.0)))
    return found


def mean_interval(differences: np.ndarray, rate: bool = False) -> Interval:
    r"""Mean difference with its t interval, :math:`t_{n-1} s / \sqrt{n}`: of the images of one run, or of figures
    that are known once per run. The margin of a rate is that of :func:`rate_margin`, and its p is at least that of
    McNemar's (asymptotic) test, which matters where all of two or three images changed.

    Args:
        differences: (n,), treatment minus reference; nan is left out.
        rate: of values that are 0 or 1, or means of such.

    Returns:
        Margin and p are nan for fewer than two.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    estimate = float(_mean(values, np.full(n, True)))
    if n < 2:
        return Interval(estimate, math.nan, math.nan)
    error = math.sqrt(float(((values - estimate) ** 2).sum()) / (n - 1) / n)
    if rate:
        squares = (values**2).sum()
        skew = _skew(np.array([(values**3).sum()]), np.array([squares]))
        test = float(_mcnemar(np.array([values.sum()]), np.array([squares]))[0])

        def half(level: Floats) -> Floats:
            return rate_margin(-stdtrit(n - 1, level / 2) * error, n, skew, level)

        margin = float(half(np.array([LEVEL]))[0])
        if test >= LEVEL:
            margin = max(margin, abs(estimate))
        return Interval(estimate, margin, max(test, float(_reaching(np.array([estimate]), half)[0])))
    if error == 0:
        return Interval(estimate, 0.0, float(estimate == 0))
    return Interval(
        estimate, float(-stdtrit(n - 1, LEVEL / 2)) * error, float(2 * stdtr(n - 1, -abs(estimate) / error))
    )


def holm(p: Sequence[float]) -> list[float]:
    """p values of a family, raised so that the chance of any false one among them stays at the level (Holm 1979).

    Args:
        p: in any order; nan stays nan and does not count.
    """
    adjusted = list(map(float, p))
    order = sorted((index for index, value in enumerate(adjusted) if not math.isnan(value)), key=adjusted.__getitem__)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * adjusted[index]))
        adjusted[index] = highest
    return adjusted


def _mean(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Mean of the known values along the first axis, nan where there are none.

    Kept between lowest and highest, so that the mean of equal values is that value, and they do not seem to vary.
    """
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    count = known.sum(0)
    mean = np.where(known, values, 0.0).sum(0) / np.maximum(count, 1)
    low, high = np.where(known, values, np.inf).min(0), np.where(known, values, -np.inf).max(0)
    return np.where(count > 0, np.minimum(np.maximum(mean, low), high), np.nan)


def _variances(
    centred: Sequence[Floats], present: Sequence[Floats], shared: bool, seed: int, replicates: int
) -> tuple[Floats, Floats]:
    """Of the seeds' means when images are drawn again: the sum of their variances, and the variance of their sum.

    A draw without any value of a seed leaves its mean where it is.

    Args:
        centred: of each seed, (images, tags), deviations from the seed's mean, 0 where not known.
        present: the same shape, 1 where known, 0 elsewhere.
    """
    tags = centred[0].shape[1]
    # Every seed its own stream, so that the draws depend neither on the chunks nor on the seeds that follow.
    streams = [np.random.default_rng(source) for source in np.random.SeedSequence(seed).spawn(len(centred))]
    first, second = np.zeros((len(centred), tags)), np.zeros((len(centred), tags))
    first_of_sum, second_of_sum = np.zeros(tags), np.zeros(tags)
    rows = max(1, CELLS // max(1, tags, *map(len, centred)))
    for start in range(0, replicates, rows):
        drawn = min(rows, replicates - start)
        total = np.zeros((drawn, tags))
        weights = _draws(streams[0], drawn, len(centred[0]))
        for k, (values, there) in enumerate(zip(centred, present, strict=True)):
            if k and not shared:
                weights = _draws(streams[k], drawn, len(values))
            means = (weights @ values) / np.maximum(weights @ there, 1)
            first[k] += means.sum(0)
            second[k] += (means**2).sum(0)
            total += means
        first_of_sum += total.sum(0)
        second_of_sum += (total**2).sum(0)
    each = np.maximum(second - first**2 / replicates, 0.0).sum(0) / (replicates - 1)
    if not shared:
        return each, each  # independent draws: known to be equal, but for the noise of simulation
    return each, np.maximum(second_of_sum - first_of_sum**2 / replicates, 0.0) / (replicates - 1)


def _draws(stream: np.random.Generator, rows: int, images: int) -> Floats:
    """(rows, images): how often each image is drawn, `images` times with replacement."""
    if not images:
        return np.zeros((rows, 0))
    # Counting draws is some ten times faster than the multinomial of many equal shares.
    cells = stream.integers(0, images, (rows, images)) + np.arange(rows)[:, None] * images
    return np.bincount(cells.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def _reaching(estimates: Floats, half: Callable[[Floats], Floats]) -> Floats:
    """The level at which intervals of half width `half(level)`, falling in the level, just reach 0."""
    # Logarithms; below 1e-100 the quantiles are not reliable, and nobody asks.
    low, high = np.full(len(estimates), math.log(1e-100)), np.zeros(len(estimates))
    for _ in range(50):
        middle = (low + high) / 2
        wider = half(np.exp(middle)) > np.abs(estimates)
        low, high = np.where(wider, middle, low), np.where(wider, high, middle)
    return np.exp((low + high) / 2)
