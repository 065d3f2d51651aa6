"""Intervals over seeds and images: against classical tests, known variances and the coverage they promise."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import stdtrit

from camtrain.analysis import intervals
from camtrain.analysis.intervals import (
    ALIKE,
    PRIOR_CHANGES,
    Interval,
    Spread,
    hierarchical,
    holm,
    mean_interval,
    unseen,
)

NAN = math.nan


def simulate(
    variances: tuple[float, float, float], n: int, images: int, tags: int, shared: bool, seed: int = 1
) -> list[np.ndarray]:
    """No true difference; every tag is a trial of its own.

    Args:
        variances: of seeds, of images (the same in all seeds if shared), and of an image in a seed; the latter two
            are those of the mean over images.
    """
    rng = np.random.default_rng(seed)
    of_seeds, of_images, of_both = (math.sqrt(variance) for variance in variances)
    effect = of_seeds * rng.normal(size=(n, 1, tags))
    effect = effect + of_images * math.sqrt(images) * rng.normal(size=(1 if shared else n, images, tags))
    return list(effect + of_both * math.sqrt(images) * rng.normal(size=(n, images, tags)))


def quantile(degrees: Any) -> Any:
    return stdtrit(degrees, 0.975)


def columns(found: list[Interval]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    estimate, margin, p = np.array([one[:3] for one in found]).T
    return estimate, margin, p


def test_bounds_of_an_interval() -> None:
    found = Interval(2.0, 0.5, 0.01)
    assert (found.low, found.high) == (1.5, 2.5)


# Holm


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([]) == []


def test_holm_leaves_nan_out() -> None:
    found = holm([NAN, 0.01, NAN, 0.04])
    assert found[1::2] == [0.02, 0.04]
    assert math.isnan(found[0])
    assert math.isnan(found[2])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_raises_keeps_the_order_and_stays_below_one(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    ordered = [after for _, after in sorted(zip(p, adjusted, strict=True))]
    assert ordered == sorted(ordered)
    if p:
        assert min(adjusted) == min(1.0, len(p) * min(p))


# One value per seed


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_of_mean_is_the_t_test(n: int) -> None:
    values = np.random.default_rng(n).normal(0.7, 1, n)
    expected = stats.ttest_1samp(values, 0)
    found = mean_interval(np.append(values, NAN))
    assert found.estimate == pytest.approx(values.mean())
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_of_mean_without_enough_seeds() -> None:
    for values, estimate in (([], NAN), ([NAN], NAN), ([2.0, NAN], 2.0)):
        assert mean_interval(np.array(values))[:4] == pytest.approx((estimate, NAN, NAN, NAN), nan_ok=True)


def test_of_mean_that_agree() -> None:
    assert mean_interval(np.full(3, 0.1))[:3] == (0.1, 0.0, 0.0)
    assert mean_interval(np.zeros(3))[:3] == (0.0, 0.0, 1.0)


# Rates


@pytest.mark.parametrize("n", [2, 24, 298, 10_000])
def test_what_none_of_the_images_shows_is_tangos_score_limit(n: int) -> None:
    # None of n changed, and the difference is d: the likelihood is highest if only one of the two kinds occurs, with
    # probability d, and (0 - n d) / sqrt(n d (1 - d)) is its score.
    limit = optimize.brentq(lambda d: n * d / math.sqrt(n * d * (1 - d)) - stats.norm.ppf(0.975), 1e-9, 1 - 1e-9)
    assert float(unseen(n)) == pytest.approx(limit)
    assert float(unseen(n)) == pytest.approx(stats.binomtest(0, n).proportion_ci(method="exact").high, rel=0.25)


def test_a_one_sided_bound_without_changes_is_no_less_than_the_exact_one() -> None:
    for n in (64, 298, 1000):
        exact = stats.binomtest(0, n).proportion_ci(0.9, method="exact").high
        assert float(unseen(n, 0.1)) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_no_changes_over_seeds_of_exponential_rates(seeds: int) -> None:
    """The chance of seeing none, with rates that vary so, is 5 % at the one-sided bound."""
    images = 10_000
    bound = float(unseen(images * seeds, 0.1, seeds))
    rates = np.random.default_rng(0).exponential(bound, (200_000, seeds))
    assert np.exp(-images * rates).prod(1).mean() == pytest.approx(0.05, abs=0.003)
    assert unseen(images, 0.1, seeds) > unseen(images, 0.1, seeds + 1) > unseen(images, 0.1, 10**6)


def changes(ups: int, downs: int, n: int) -> np.ndarray:
    return np.array([1.0] * ups + [-1.0] * downs + [0.0] * (n - ups - downs))


@pytest.mark.parametrize("ups", [0, 1, 4, 8, 30])
def test_changes_in_one_direction_end_where_wilsons_interval_does(ups: int) -> None:
    found = mean_interval(changes(ups, 0, 1000), rate=True)
    assert found.high == pytest.approx(stats.binomtest(ups, 1000).proportion_ci(method="wilson").high, rel=0.01)


def test_many_changes_in_both_directions_are_the_t_interval() -> None:
    values = changes(120, 110, 1000)
    plain, found = mean_interval(values), mean_interval(values, rate=True)
    assert found.estimate == plain.estimate
    assert plain.margin < found.margin < 1.02 * plain.margin
    assert found.p == pytest.approx(plain.p, rel=0.1)


@pytest.mark.parametrize(("ups", "downs"), [(0, 0), (1, 0), (3, 0), (5, 0), (2, 2), (24, 0), (9, 3), (12, 11)])
def test_p_of_a_rate_goes_with_its_interval(ups: int, downs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = changes(ups, downs, 24)
    found = mean_interval(values, rate=True)
    assert (found.p < 0.05) == (abs(found.estimate) > found.margin)
    mcnemar = 2 * stats.norm.sf(abs(ups - downs) / math.sqrt(max(ups + downs, 1)))
    assert found.p >= mcnemar * (1 - 1e-6)
    for shared in (True, False):
        same = hierarchical([values[:, None]], shared, rates=[True])[0]
        assert (same.estimate, same.margin) == pytest.approx((found.estimate, found.margin), rel=0.03)
        assert same.p == pytest.approx(found.p, rel=0.1)
    if found.estimate:
        monkeypatch.setattr(intervals, "LEVEL", found.p)
        assert mean_interval(values, rate=True).margin == pytest.approx(abs(found.estimate), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_that_all_of_two_images_changed_proves_nothing(n: int) -> None:
    found = mean_interval(np.ones(n), rate=True)
    assert found.low <= 0
    assert found.p == pytest.approx(2 * stats.norm.sf(math.sqrt(n)))
    (several,) = hierarchical([np.ones((n, 1))] * 2, True, rates=[True])
    assert several.p == pytest.approx(2 * stats.norm.sf(math.sqrt(2 * n)))


@pytest.mark.parametrize("shared", [True, False])
def test_more_seeds_make_rarer_what_none_of_their_images_shows(shared: bool) -> None:
    margins = []
    for seeds in (3, 5, 10, 1000):
        rate, other = hierarchical([np.zeros((40, 2))] * seeds, shared, rates=[True, False])
        independent = 40 * seeds / (1 + (seeds - 1) * (ALIKE if shared else 0))
        assert rate[:3] == (0.0, pytest.approx(float(unseen(independent, 0.05, seeds))), 1.0)
        assert 0 < rate.bound < rate.margin
        assert other[:4] == (0.0, 0.0, 1.0, 0.0)
        margins.append(rate.margin)
    assert margins == sorted(margins, reverse=True)
    # Seeds that share their images never know more than a few times these images.
    assert (margins[-1] > 3.6 / 160 * 0.9) == shared


def test_changes_of_the_same_images_in_all_seeds_count_once() -> None:
    rng = np.random.default_rng(1)
    same = [changes(20, 0, 400)[:, None]] * 5
    other = [rng.permutation(changes(20, 0, 400))[:, None] for _ in range(5)]
    alike, apart = (hierarchical(values, True, rates=[True])[0] for values in (same, other))
    for found, products in ((alike, 20 * 4 * 5), (apart, None)):
        assert found.spread is not None
        if products is not None:
            expected = (products / 4 + PRIOR_CHANGES * ALIKE) / (100 + PRIOR_CHANGES)
            assert found.spread.alike == pytest.approx(expected)
    assert apart.spread is not None
    assert apart.spread.alike < 0.15
    assert alike.margin > 1.5 * apart.margin
    assert alike.margin == pytest.approx(mean_interval(changes(20, 0, 400), rate=True).margin, rel=0.2)


@pytest.mark.parametrize("shared", [True, False])
def test_a_rate_over_seeds_is_widened(shared: bool) -> None:
    """Changes in one direction with every seed, in both with the second tag; unequal and unknown images."""
    rng = np.random.default_rng(2)
    values = [rng.choice([0.0, 1.0], p=[0.97, 0.03], size=(300, 2)) for _ in range(3)]
    for each in values:
        each[::2, 1] *= -1
    values[0][:200] = NAN
    values[1][:150] = values[2][:150]
    plain = hierarchical(values, shared)
    found = hierarchical(values, shared, rates=[True, True])
    for tag, (before, after) in enumerate(zip(plain, found, strict=True)):
        all_values = np.concatenate([each[:, tag] for each in values])
        all_values = all_values[np.isfinite(all_values)]
        skew = abs(all_values.sum()) / np.abs(all_values).sum()
        assert (skew == 1) == (tag == 0)
        spread = spread_of(after)
        assert spread.changes == pytest.approx(np.abs(all_values).mean())
        bound = float(unseen(700 / (1 + 2 * spread.alike), 0.05, 3))
        lean = skew * (2 * quantile(2) ** 2 + 1) / 3 * beyond_images(values, tag, shared) / spread.changes
        wide = skew * bound / 2 + math.hypot(before.margin + lean, (1 - skew / 2) * bound)
        assert after.margin == pytest.approx(wide)
        assert after.p >= before.p
        assert (after.p < 0.05) == (abs(after.estimate) > after.margin)


def beyond_images(values: list[np.ndarray], tag: int, shared: bool) -> float:
    """Variance of the mean over seeds by their means, without what images that they do not have in common add to it."""
    means = np.array([np.nanmean(each[:, tag]) for each in values])
    apart = [np.nan_to_num(each[:, tag] - mean) for each, mean in zip(values, means, strict=True)]
    sizes = [np.isfinite(each[:, tag]).sum() for each in values]
    products = np.array([part / math.sqrt(size * (size - 1)) for part, size in zip(apart, sizes, strict=True)])
    covariance = products @ products.T
    n = len(values)
    alike = (covariance.sum() - covariance.trace()) / (n * (n - 1)) if shared else 0.0
    return max(0.0, (means.var(ddof=1) - (covariance.trace() / n - alike)) / n)


@pytest.mark.parametrize("alike", [0.5, 1.0])
def test_images_explain_all_of_seeds_that_differ_by_images_only(alike: float) -> None:
    rng = np.random.default_rng(0)
    of_images, of_both = rng.normal(size=(1, 60, 2000)), rng.normal(size=(5, 60, 2000))
    found = hierarchical(list(math.sqrt(alike) * of_images + math.sqrt(1 - alike) * of_both), True)
    a, b, c = np.array([spread_of(one)[:3] for one in found]).T
    assert np.mean(a - c + b) / np.mean(c) == pytest.approx(0, abs=0.01)


def spread_of(found: Interval) -> Spread:
    assert found.spread is not None
    return found.spread


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("seeds", "images"), [(3, 64), (5, 298)])
@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("against", [0.0, 0.5])
def test_intervals_of_a_rate_over_varying_seeds_and_images_cover_it(
    rate: float, seeds: int, images: int, shared: bool, against: float
) -> None:
    """Seeds' rates vary by half of their mean, and changes of an image in different seeds correlate by 0.25."""
    rng = np.random.default_rng(3)
    trials, rho = 400, 0.25
    likely = rng.beta(rate * (1 / rho - 1), (1 - rate) * (1 / rho - 1), (1 if shared else seeds, images, trials))
    likely = np.minimum(likely * rng.gamma(4, 1 / 4, (seeds, 1, trials)), 1)
    values = (rng.random((seeds, images, trials)) < likely) * np.where(
        rng.random((seeds, images, trials)) < against, -1, 1
    )
    found = hierarchical(list(values), shared, rates=[True] * trials)
    true = rate * (1 - 2 * against)
    error = math.sqrt(0.05 * 0.95 / trials)
    assert np.mean([one.low <= true <= one.high for one in found]) > 0.95 - 2 * error
    assert np.mean([one.estimate + one.bound < true for one in found]) < 0.05 + 2 * error


@pytest.mark.parametrize("against", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("expected", [0.5, 3, 8, 12, 20])
@pytest.mark.parametrize("n", [24, 60, 298])
def test_intervals_of_a_rate_cover_it(n: int, expected: float, against: float) -> None:
    """Exactly, over all counts that occur, as long as half of the images change at most."""
    if expected > n / 2:
        expected = n / 2
    up, down = expected * (1 - against) / n, expected * against / n
    low = high = inside = 0.0
    for ups in range(int(stats.binom.ppf(1 - 1e-4, n, up)) + 1):
        for downs in range(int(stats.binom.ppf(1 - 1e-4, n - ups, down)) + 1):
            chance = stats.binom.pmf(ups, n, up) * stats.binom.pmf(downs, n - ups, down / (1 - up))
            if chance > 1e-6:
                found = interval_of(ups, downs, n)
                low += chance * (found.high < up - down - 1e-12)
                high += chance * (found.low > up - down + 1e-12)
                inside += chance * (found.low <= up - down <= found.high)
    assert max(low, high) < 0.027
    assert 0.956 < inside <= 1


@cache
def interval_of(ups: int, downs: int, n: int) -> Interval:
    return mean_interval(changes(ups, downs, n), rate=True)


# Seeds and images


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("images", [3, 10, 200])
def test_one_seed_is_the_t_test_over_its_images(shared: bool, images: int) -> None:
    values = np.random.default_rng(0).normal(0.1, 1, (images, 3))
    for tag, found in enumerate(hierarchical([values], shared)):
        expected = stats.ttest_1samp(values[:, tag], 0)
        assert found.estimate == pytest.approx(values[:, tag].mean())
        assert found.margin == pytest.approx(np.ptp(expected.confidence_interval(0.95)) / 2, rel=0.03)
        assert found.p == pytest.approx(expected.pvalue, rel=0.1)


def test_seeds_that_differ_much_more_than_images_are_the_t_test_of_mean() -> None:
    values = simulate((1, 1e-9, 1e-9), n=4, images=30, tags=5, shared=True)
    for found, means in zip(hierarchical(values, True), np.array(values).mean(1).T, strict=True):
        expected = mean_interval(means)
        assert found[:3] == pytest.approx(expected[:3], rel=1e-3)


def test_the_interval_just_reaches_zero_at_its_p(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [each + 0.8 for each in simulate((0.1, 0.1, 0.1), n=3, images=20, tags=10, shared=True)]
    estimate, margin, p = columns(hierarchical(values, True))
    np.testing.assert_array_equal(p < 0.05, abs(estimate) > margin)
    for tag, level in enumerate(p):
        monkeypatch.setattr(intervals, "LEVEL", level)
        found = hierarchical(values, True)[tag]
        assert found.margin == pytest.approx(abs(found.estimate), rel=1e-6)


def test_against_a_literal_bootstrap_of_seeds_and_images() -> None:
    """Where no chance of an image in a seed is counted twice, the bootstrap lacks only a share of the seeds' part."""
    n, images = 4, 25
    values = np.array(simulate((1.0, 0.4, 0.0), n, images, tags=1, shared=True))[..., 0]
    rng = np.random.default_rng(0)
    drawn = [values[np.ix_(rng.integers(0, n, n), rng.integers(0, images, images))].mean() for _ in range(10_000)]
    between = values.mean(1).var(ddof=1) / n
    common = (np.var(drawn) - between * (n - 1) / n) * images / (images - 1)
    t = quantile(np.array([n - 1, images - 1]))
    expected = (t @ [between, common]) / math.sqrt(between + common)
    assert hierarchical([each[:, None] for each in values], True)[0].margin == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("variances", [(1.0, 0.0, 0.0), (0.2, 0.05, 0.8), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_standard_error_is_that_of_the_design(variances: tuple[float, float, float], shared: bool) -> None:
    n, images = 30, 60  # many of both: all quantiles of t are nearly the same
    found = hierarchical(simulate(variances, n, images, tags=150, shared=shared), shared)
    of_seeds, of_images, of_both = variances
    true = (of_seeds + of_both) / n + of_images / (1 if shared else n)
    _, margin, _ = columns(found)
    # Somewhat too much where images have nothing in common: their covariance is an estimate, cut off at 0.
    assert 0.95 < math.sqrt((margin**2).mean() / true) / quantile(40) < 1.2


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(
    ("variances", "shared"),
    [
        ((1.0, 0.0, 0.0), False),
        ((0.0, 0.0, 1.0), False),
        ((0.8, 0.0, 0.2), False),
        ((1.0, 0.0, 0.0), True),
        ((0.0, 1.0, 0.0), True),
        ((0.0, 0.0, 1.0), True),
        ((1.0, 0.05, 0.2), True),
        ((1.0, 0.3, 0.0), True),
        ((0.5, 0.5, 0.5), True),
        ((0.1, 1.0, 0.1), True),
    ],
)
def test_coverage(variances: tuple[float, float, float], shared: bool, n: int) -> None:
    """With 1500 trials the standard error of a coverage of 0.95 is 0.006."""
    found = hierarchical(simulate(variances, n, 20, tags=1500, shared=shared), shared)
    estimate, margin, p = columns(found)
    assert (abs(estimate) <= margin).mean() > 0.93
    assert (p < 0.05).mean() < 0.07
    # Nor are they absurdly wide, against the t interval with the true standard error and n - 1 degrees of freedom.
    of_seeds, of_images, of_both = variances
    error = math.sqrt((of_seeds + of_both) / n + of_images / (1 if shared else n))
    assert margin.mean() < 1.1 * quantile(n - 1) * error


@pytest.mark.parametrize("shared", [True, False])
def test_a_true_difference_is_covered_and_found(shared: bool) -> None:
    values = [each + 3.0 for each in simulate((0.2, 0.1, 0.2), 5, 20, tags=500, shared=shared)]
    estimate, margin, p = columns(hierarchical(values, shared))
    assert (abs(estimate - 3) <= margin).mean() > 0.93
    assert (p < 0.05).mean() > 0.9


def test_images_that_all_seeds_share_widen_the_interval() -> None:
    values = simulate((0.01, 1.0, 0.1), 5, 50, tags=1, shared=True)
    assert hierarchical(values, True)[0].margin > 2 * hierarchical(values, False)[0].margin


@pytest.mark.parametrize("shared", [True, False])
def test_seeds_that_agree_by_luck_leave_the_chance_of_their_images(shared: bool) -> None:
    values = simulate((0.0, 0.0, 1.0), 3, 50, tags=1, shared=shared)
    values = [each - each.mean(0) + 1.0 for each in values]
    images = np.concatenate(values).std() / math.sqrt(150)
    assert hierarchical(values, shared)[0].margin == pytest.approx(1.98 * images, rel=0.15)


@pytest.mark.parametrize("shared", [True, False])
def test_undefined_values_are_left_out(shared: bool) -> None:
    rng = np.random.default_rng(3)
    full = [rng.normal(1, 1, (40, 6)) for _ in range(3)]
    holes = [each.copy() for each in full]
    holes[1][:, 1] = NAN  # a seed without the figure
    for each in holes:
        each[:, 2] = NAN  # no seed has it
        each[1:, 3] = NAN  # one image each
        each[::2, 5] = NAN
    holes[0][:, 4] = holes[1][:, 4] = NAN
    holes[2][1:, 4] = NAN  # a single value
    found = hierarchical(holes, shared)
    assert found[0][:3] == pytest.approx(hierarchical(full, shared)[0][:3])
    two = hierarchical([holes[0], holes[2]], shared)
    assert found[1][:3] == pytest.approx(two[1][:3], rel=0.1)
    assert found[1].estimate == pytest.approx(two[1].estimate)
    assert found[2][:3] == pytest.approx((NAN, NAN, NAN), nan_ok=True)
    assert found[3][:3] == pytest.approx(mean_interval(np.array([each[0, 3] for each in holes]))[:3])
    assert found[4][:3] == pytest.approx((holes[2][0, 4], NAN, NAN), nan_ok=True)
    dense = hierarchical([each[1::2] for each in holes], shared)
    assert found[5].estimate == pytest.approx(dense[5].estimate)
    assert found[5].margin == pytest.approx(dense[5].margin, rel=0.1)


def test_coverage_with_shared_images_of_which_some_are_undefined() -> None:
    values = simulate((0.3, 1.0, 0.3), 3, 20, tags=1500, shared=True)
    hidden = np.random.default_rng(5).random((3, 20, 1500)) < 0.3
    values = [np.where(there, NAN, each) for there, each in zip(hidden, values, strict=True)]
    estimate, margin, _ = columns(hierarchical(values, True))
    assert 0.93 < (abs(estimate) <= margin).mean() < 0.99


def test_seeds_with_different_numbers_of_images() -> None:
    rng = np.random.default_rng(4)
    values = [rng.normal(1, 1, (images, 2)) for images in (10, 35, 80, 0)]
    expected = mean_interval(np.array([each[:, 0].mean() for each in values[:3]]))
    found = hierarchical(values, False)[0]
    assert found.estimate == pytest.approx(expected.estimate)
    assert found.margin >= expected.margin * (1 - 1e-9)
    with pytest.raises(ValueError, match="same number"):
        hierarchical(values, True)


@pytest.mark.parametrize("values", [[], [np.zeros(3)], [np.zeros((3, 1)), np.zeros((3, 2))]])
def test_other_shapes_are_refused(values: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        hierarchical(values, False)


@pytest.mark.parametrize("shared", [True, False])
def test_what_never_varies(shared: bool) -> None:
    assert hierarchical([np.full((7, 1), 0.1)] * 3, shared)[0][:3] == (0.1, 0.0, 0.0)
    assert hierarchical([np.zeros((7, 1))] * 3, shared)[0][:3] == (0.0, 0.0, 1.0)
    assert hierarchical([np.full((7, 1), 0.1)], shared)[0][:3] == (0.1, 0.0, 0.0)


@pytest.mark.parametrize("shared", [True, False])
def test_variances_are_those_of_drawing_images_again(shared: bool) -> None:
    """Against a bootstrap, also where values are missing."""
    values = np.array(simulate((0.0, 1.0, 1.0), 3, 31, tags=2, shared=True))
    values[np.random.default_rng(0).random(values.shape) < 0.2] = NAN
    rng = np.random.default_rng(1)
    means = np.array([drawn_means(values, rng, shared) for _ in range(4000)])
    expected = np.nanmean(means, 1).var(0) * 31 / 30
    found = [spread_of(one).alone for one in hierarchical(list(values), shared)]
    assert found == pytest.approx(list(expected), rel=0.12)


def drawn_means(values: np.ndarray, rng: np.random.Generator, shared: bool) -> np.ndarray:
    """Means of the seeds (seeds, tags) over images that are drawn again, for all seeds or for each."""
    images = rng.integers(0, values.shape[1], (values.shape[0], values.shape[1]))
    return np.array([np.nanmean(each[images[0 if shared else k]], 0) for k, each in enumerate(values)])


def test_the_bounds_expected_of_other_numbers() -> None:
    spread = spread_of(hierarchical(simulate((1.0, 0.5, 0.5), 4, 50, tags=1, shared=True), True)[0])
    assert spread.planned(4) == spread
    more = spread.planned(16, 2)
    assert (more.between, more.common) == (spread.between / 4, spread.common / 2)
    assert more.half(0.1) < spread.planned(16).half(0.1) < spread.half(0.1)


@pytest.mark.parametrize("images", [2, 10, 1000])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_p_of_a_certain_difference_is_tiny(n: int, images: int) -> None:
    values = [each * 1e-150 + 1 for each in np.random.default_rng(0).normal(size=(n, images, 1))]
    values[0][0, 0] = 1 + 1e-12
    assert 0 <= hierarchical(values, True)[0].p < 1e-11


def test_turning_the_difference_round_turns_the_interval_round() -> None:
    values = simulate((0.5, 0.5, 0.5), 3, 15, tags=8, shared=True)
    estimate, margin, p = columns(hierarchical(values, True))
    turned = columns(hierarchical([-3 * each for each in values], True))
    np.testing.assert_allclose(turned, (-3 * estimate, 3 * margin, p), rtol=1e-9)
