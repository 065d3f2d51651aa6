"""How far a mean difference between the arms can be trusted: intervals over seeds and images, and p values.

Pure functions of differences, treatment minus reference; they know neither the indicators nor the runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Floats = NDArray[np.float64]

LEVEL = 0.05
"""One less the confidence of every interval."""

ALIKE = 0.25
"""Correlation that is assumed of the changes of a rate on one image in different seeds, where few have been seen."""

PRIOR_CHANGES = 4.0
"""Number of observed changes as which the assumed correlation counts, about the z^2 of the score interval."""


class Interval(NamedTuple):
    """An estimate with half of its 95 % interval."""

    estimate: float
    margin: float  # half of the 95 % interval; nan where too few values
    p: float  # two-sided, of no difference; nan with the margin
    bound: float = math.nan  # half of the 90 % interval: either of its ends is a one-sided bound at 5 %
    spread: Spread | None = None  # what the margins follow from, for planning

    @property
    def low(self) -> float:
        return self.estimate - self.margin

    @property
    def high(self) -> float:
        return self.estimate + self.margin


NOTHING = Interval(math.nan, math.nan, math.nan)
"""Of what was not measured."""


def hierarchical(
    differences: Sequence[np.ndarray], shared: bool, rates: Sequence[bool] | None = None
) -> list[Interval]:
    r"""Mean difference of each tag, with its 95 % interval over seeds and images.

    The estimate is the mean over the n seeds of their mean over images; a seed without any value of a tag is left out
    for that tag. Two things might have come out otherwise, the seeds and the images:

    .. math:: a = s^2 / n, \qquad
       b = \overline{\mathrm{cov}}_{j \ne k}(m_j, m_k), \qquad
       c = \mathrm{var}\Big(\tfrac1n \sum_k m_k\Big)

    s is the standard deviation of the seeds' means; variance and covariance are those of the seeds' means m when the
    images are drawn again, to first order (exactly, where every value is known):
    :math:`\mathrm{cov}(m_j, m_k) = \sum_i r_{ji} r_{ki}` with :math:`r_{ki} = (d_{ki} - m_k) / \sqrt{N_k (N_k - 1)}`
    of the N_k images known of seed k. If the images are `shared`, one draw serves all seeds, and b is the part of
    their variation that all seeds have in common. Otherwise every seed has its own images, and b is 0. The margin is

    .. math:: \max\left(\frac{a\, t_{n-1} + b\, t_{N-1}}{\sqrt{a + b}},\; t_{N-1} \sqrt{c}\right)

    with N images (N - 1 summed over the seeds, if each has its own), and p is the level at which the interval would
    just reach 0. The second term: what the images alone leave open is known well, and seeds that agree by luck do not
    undo it.

    This is the variance that a hierarchical bootstrap simulates, seeds with replacement and images within (Davison &
    Hinkley 1997; Saravanan et al. 2020; for crossed designs the pigeonhole bootstrap, Owen 2007), except that

    - it is written down, without the bias (n - 1) / n of drawing seeds, which at three seeds is a third;
    - the variation of the images that is already in s is not added again. Both bootstraps do: they are conservative, up
      to twice the variance if nested, thrice if crossed;
    - there are no percentiles. With three or five seeds the draws know only these few means and the percentiles are
      far too narrow; the t of n - 1 degrees of freedom allows for not knowing s.

    Degrees of freedom by Satterthwaite (1946), :math:`(a + b)^2 / (a^2 / (n - 1))`, would be too many just when s comes
    out too small by chance: the intervals cover 92 % at three seeds and 87 % at two in the worst mixture of a and b.
    The weighted mean of the quantiles (Cochran & Cox 1957; Cochran 1964) keeps 95 % from three seeds on, 94 % at two.

    With one seed only images are drawn, b = c and a = 0: *the interval does not include the variation between seeds.*
    The margin of a rate is that of :func:`rate_margin`, and its p is at least that of McNemar's (asymptotic) test,
    which matters where all of two or three images changed.

    Args:
        differences: of each seed, (images, tags), treatment minus reference; nan where not defined.
        shared: the same images in the same order in all seeds.
        rates: (tags,) which are shares of images, each having 0 or 1 or a mean of such; none if not given.

    Returns:
        One interval per tag; margins and p are nan for fewer than two values in all.

    Raises:
        ValueError: no seed, other shapes, or shared images of different number.
    """
    values, known = _checked(differences, shared)
    finite = [np.where(there, each, 0.0) for there, each in zip(known, values, strict=True)]
    sums, squares, cubes = (
        np.sum([power.sum(0) for power in powers], axis=0)
        for powers in (finite, [each**2 for each in finite], [each * each * each for each in finite])
    )
    rare = np.zeros(len(sums), dtype=bool) if rates is None else np.asarray(rates, dtype=bool)
    skew = np.where(rare, np.where(squares > 0, np.abs(cubes) / np.where(squares > 0, squares, 1.0), 1.0), np.nan)
    # Products of two seeds' changes of one image, over pairs of seeds.
    pairs = (np.sum(finite, axis=0) ** 2).sum(0) - squares if shared else np.zeros_like(squares)
    estimates, spread = _spread(values, known, shared)
    others = np.maximum(spread.seeds - 1, 1)
    alike = (pairs / others + PRIOR_CHANGES * ALIKE) / (squares + PRIOR_CHANGES)
    alike = np.clip(alike, 0.0, 1.0) if shared else np.zeros_like(alike)
    spread = spread._replace(
        skew=skew, alike=np.where(rare, alike, 0.0), changes=squares / np.maximum(spread.values, 1)
    )

    enough = spread.values > 1
    test = np.where(rare & enough, 2 * ndtr(-np.abs(sums) / np.sqrt(np.where(squares > 0, squares, 1.0))), 0.0)
    margin, bound = (
        np.where(enough, np.maximum(spread.half(level), np.where(test >= level, np.abs(estimates), 0.0)), np.nan)
        for level in (LEVEL, 2 * LEVEL)
    )
    p = np.where(enough, np.maximum(_reaching(estimates, spread.half), test), np.nan)
    p = np.where(margin == 0, 0.0, p)  # nothing varies: half() is 0 at all levels
    p = np.where(enough & (estimates == 0), 1.0, p)
    rows = np.array([estimates, margin, p, bound, *spread]).T.tolist()
    return [Interval._make([*row[:4], Spread._make(row[4:])]) for row in rows]


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


class Spread(NamedTuple):
    """What an estimate may vary by, (tags,) each or numbers; letters are those of :func:`hierarchical`."""

    between: Floats  # a
    common: Floats  # b
    alone: Floats  # c
    seeds: Floats  # n, those that have a value
    degrees: Floats  # of freedom of the images, N - 1
    values: Floats  # in all
    skew: Floats  # of a rate, k of :func:`rate_margin`; nan of what is no rate
    alike: Floats  # correlation of a rate's changes on one image in different seeds, rho
    changes: Floats  # share of the values that changed, r of :func:`rate_margin`

    def half(self, level: float | Floats) -> Floats:
        """Half width of the interval that misses in `level`."""
        few, many = (
            -stdtrit(np.maximum(degrees, 1), np.asarray(level) / 2) for degrees in (self.seeds - 1, self.degrees)
        )
        total = np.asarray(self.between + self.common)
        mixed = (self.between * few + self.common * many) / np.sqrt(np.where(total > 0, total, 1.0))
        widest: Floats = np.maximum(mixed, many * np.sqrt(self.alone))
        if np.all(np.isnan(self.skew)):
            return widest
        independent = self.values / (1 + (self.seeds - 1) * self.alike)
        beyond = np.maximum(self.between - self.alone + self.common, 0.0)
        excess = beyond / np.where(self.changes > 0, self.changes, 1.0)
        lean = self.skew * (2 * np.square(few) + 1) / 3 * excess
        widened = rate_margin(widest + lean, np.asarray(self.skew), unseen(independent, level, self.seeds))
        return np.where(np.isnan(self.skew), widest, widened)

    def planned(self, seeds: float, images: float = 1.0) -> Spread:
        """What is expected of another number of seeds, and of so many times the images."""
        ratio = self.seeds / seeds
        common = self.common / images
        return self._replace(
            between=self.between * ratio,
            common=common,
            alone=common + np.maximum(self.alone - self.common, 0.0) * ratio / images,
            seeds=self.seeds / ratio,
            degrees=self.degrees * images,
            values=self.values * images / ratio,
        )


def _spread(values: Sequence[Floats], known: Sequence[NDArray[np.bool_]], shared: bool) -> tuple[Floats, Spread]:
    """Estimates, and their variation between seeds and over images, without what belongs to rates."""
    counts = np.array([each.sum(0) for each in known], dtype=np.float64)
    means = np.array([_mean(*pair) for pair in zip(values, known, strict=True)])
    seeds = (counts > 0).sum(0).astype(np.float64)
    estimates = _mean(means, counts > 0)
    apart = np.where(counts > 0, means - estimates, 0.0)
    between = (apart**2).sum(0) / np.maximum(seeds * (seeds - 1), 1)
    parts = [
        np.where(there, each - mean, 0.0) / np.sqrt(np.maximum(count * (count - 1), 1))
        for each, there, mean, count in zip(values, known, means, counts, strict=True)
    ]
    each_variance = np.sum([(part**2).sum(0) for part in parts], axis=0)
    sum_variance = (np.sum(parts, axis=0) ** 2).sum(0) if shared else each_variance
    alone = sum_variance / np.maximum(seeds, 1) ** 2
    common = np.maximum(sum_variance - each_variance, 0.0) / np.maximum(seeds * (seeds - 1), 1)
    common = np.where(seeds == 1, alone, common)
    degrees = np.any(known, axis=0).sum(0) - 1.0 if shared else np.maximum(counts - 1, 0).sum(0)
    nothing = np.full_like(alone, np.nan)
    return estimates, Spread(
        between, common, alone, seeds, degrees, counts.sum(0), nothing, np.zeros_like(alone), nothing
    )


def unseen(n: float | Floats, level: float | Floats = LEVEL, seeds: float | Floats = 1) -> Floats:
    r"""The largest difference of two rates that agrees with n independent images none of which changed, 0..1.

    .. math:: u = \frac{x}{n + x}, \quad
       x = \max\left(z_{1-\alpha}^2,\; g\right), \quad
       g = \begin{cases} -\ln \alpha & \text{one seed} \\ n_s (\alpha^{-1/n_s} - 1) & n_s \text{ seeds} \end{cases}
       , \quad \alpha = \text{level} / 2

    z^2 is the end of the score interval for paired rates (Tango, Stat. Med. 1998), at 95 % some 3.84/n; -ln(alpha) is
    the exact bound of Clopper and Pearson, which is the larger one at 90 %. Over several seeds it is the exact bound
    where the rates of the seeds' networks vary as an exponential distribution, whose standard deviation equals its
    mean: a seed with m images on which mu are expected has none with probability 1 / (1 + mu), and n_s seeds have none
    with alpha where :math:`\mu = \alpha^{-1/n_s} - 1`. It tends to -ln(alpha) for many seeds.
    """
    alpha = np.asarray(level) / 2
    several = np.maximum(np.asarray(seeds, dtype=np.float64), 2.0)
    exact = np.where(np.asarray(seeds) > 1, several * np.expm1(-np.log(alpha) / several), -np.log(alpha))
    found: Floats = np.maximum(np.square(ndtri(alpha)), exact)
    return found / (n + found)


def rate_margin(margin: Floats, skew: Floats, bound: Floats) -> Floats:
    r"""Margin of a difference of two rates that few images show, from that of a mean of as many values.

    .. math:: \frac{k u}{2} + \sqrt{m^2 + \left(1 - \frac{k}{2}\right)^2 u^2}

    with m the margin as of any mean, u that of no changes (:func:`unseen`), and the skewness
    :math:`k = |\sum d^3| / \sum d^2` of the differences d, 1 if all changes go in one direction, or there are none.
    The spread of a rate grows with the rate, so that a sample with too few changes seems too sure: of 8 expected
    changes in one direction m alone misses the rate in 11 % of samples, and in 10 % from below. This is u without any
    change, the far end of Wilson's score interval for changes in one direction (both ends: it is symmetric here), and
    hardly more than m for many in both. For 24 to 1000 images of which half change at most it covers 95.6 % or more,
    and misses 2.7 % at most at either end. Where nearly all of a few dozen change it covers less, down to 88 %.

    Networks' rates differ, and more so upwards: m lacks the skewness of the seeds' means. Johnson's modified t (1978)
    adds :math:`\frac{\mu_3}{\sigma^4} \frac{a}{6} (1 + 2 t^2)`; with the third moment of a gamma distribution,
    :math:`\mu_3 / \sigma^4 = 2 / \mu`, and mu the share r of the values that changed, m is raised by

    .. math:: k\, \frac{2 t_{n-1}^2 + 1}{3} \cdot \frac{\max(0, a - c + b)}{r}

    whose last numerator is the part of a that the images do not explain: what they explain is c - b, the part of their
    variation that seeds have not in common.

    Over n seeds, u counts as independent images the values of all seeds divided by their design effect (Kish 1965),
    :math:`1 + (n - 1) \varrho`. Without a common set of images the correlation of an image's changes in different
    seeds is 0; else

    .. math:: \varrho = \frac{\frac{1}{n-1} \sum_i \sum_{j \ne k} d_{ji} d_{ki} + 4 \varrho_0}{\sum d^2 + 4}

    within 0..1: what is seen, and as much as four changes at :math:`\varrho_0 = 0.25`, which is *assumed*. At 1 more
    seeds would tell nothing about a rate that none of the images shows; at 0 they would count as more images.

    Args:
        margin: m.
        skew: k.
        bound: u.
    """
    found: Floats = skew * bound / 2 + np.hypot(margin, (1 - skew / 2) * bound)
    return found


def mean_interval(differences: np.ndarray, rate: bool = False) -> Interval:
    r"""Mean difference with its t interval, :math:`t_{n-1} s / \sqrt{n}`: of the images of one run, or of figures
    that are known once per run; :func:`hierarchical` with one seed.

    Args:
        differences: (n,), treatment minus reference; nan is left out.
        rate: of values that are 0 or 1, or means of such.

    Returns:
        Margins and p are nan for fewer than two.
    """
    return hierarchical([np.asarray(differences, dtype=np.float64)[:, None]], shared=True, rates=[rate])[0]


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


def _reaching(estimates: Floats, half: Callable[[Floats], Floats]) -> Floats:
    """The level at which intervals of half width `half(level)`, falling in the level, just reach 0."""
    # Logarithms; below 1e-100 the quantiles are not reliable, and nobody asks.
    low, high = np.full(len(estimates), math.log(1e-100)), np.zeros(len(estimates))
    for _ in range(40):
        middle = (low + high) / 2
        wider = half(np.exp(middle)) > np.abs(estimates)
        low, high = np.where(wider, middle, low), np.where(wider, high, middle)
    return np.exp((low + high) / 2)
