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
from camtrain.analysis.intervals import Interval, hierarchical, holm, images_for, mean_interval, unseen

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
    estimate, margin, p = np.array(found).T
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
        assert mean_interval(np.array(values)) == pytest.approx(Interval(estimate, NAN, NAN), nan_ok=True)


def test_of_mean_that_agree() -> None:
    assert mean_interval(np.full(3, 0.1)) == (0.1, 0.0, 0.0)
    assert mean_interval(np.zeros(3)) == (0.0, 0.0, 1.0)


# Rates


@pytest.mark.parametrize("n", [2, 24, 298, 10_000])
def test_what_none_of_the_images_shows_is_tangos_score_limit(n: int) -> None:
    # None of n changed, and the difference is d: the likelihood is highest if only one of the two kinds occurs, with
    # probability d, and (0 - n d) / sqrt(n d (1 - d)) is its score.
    limit = optimize.brentq(lambda d: n * d / math.sqrt(n * d * (1 - d)) - stats.norm.ppf(0.975), 1e-9, 1 - 1e-9)
    assert float(unseen(n)) == pytest.approx(limit)
    assert float(unseen(n)) == pytest.approx(stats.binomtest(0, n).proportion_ci(method="exact").high, rel=0.25)


@pytest.mark.parametrize("margin", [0.3, 0.01, 0.02])
def test_images_that_a_margin_asks_for(margin: float) -> None:
    n = images_for(margin)
    assert float(unseen(n)) <= margin < float(unseen(n - 1))


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
        same = hierarchical([values[:, None]], shared, replicates=20_000, rates=[True])[0]
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
def test_more_seeds_do_not_make_rarer_what_none_of_their_images_shows(shared: bool) -> None:
    rate, other = hierarchical([np.zeros((40, 2))] * 5, shared, rates=[True, False])
    assert rate == (0.0, float(unseen(40)), 1.0)
    assert other == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_rate_over_seeds_is_widened_by_all_its_images(shared: bool) -> None:
    """Changes in one direction with every seed, in both with the second tag; unequal and unknown images."""
    rng = np.random.default_rng(2)
    values = [rng.choice([0.0, 1.0], p=[0.97, 0.03], size=(300, 2)) for _ in range(3)]
    for each in values:
        each[::2, 1] *= -1
    values[0][:200] = NAN
    plain = hierarchical(values, shared)
    found = hierarchical(values, shared, rates=[True, True])
    n = 300 if shared else 700 - 2
    for tag, (before, after) in enumerate(zip(plain, found, strict=True)):
        all_values = np.concatenate([each[:, tag] for each in values])
        all_values = all_values[np.isfinite(all_values)]
        skew = abs(all_values.sum()) / np.abs(all_values).sum()
        assert (skew == 1) == (tag == 0)
        bound = stats.norm.ppf(0.975) ** 2 / (n + stats.norm.ppf(0.975) ** 2)
        wide = skew * bound / 2 + math.hypot(before.margin, (1 - skew / 2) * bound)
        assert after.margin == pytest.approx(max(wide, float(unseen(300))))
        assert after.p >= before.p
        assert (after.p < 0.05) == (abs(after.estimate) > after.margin)


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
    for tag, found in enumerate(hierarchical([values], shared, replicates=20_000)):
        expected = stats.ttest_1samp(values[:, tag], 0)
        assert found.estimate == pytest.approx(values[:, tag].mean())
        assert found.margin == pytest.approx(np.ptp(expected.confidence_interval(0.95)) / 2, rel=0.03)
        assert found.p == pytest.approx(expected.pvalue, rel=0.1)


def test_seeds_that_differ_much_more_than_images_are_the_t_test_of_mean() -> None:
    values = simulate((1, 1e-9, 1e-9), n=4, images=30, tags=5, shared=True)
    for found, means in zip(hierarchical(values, True), np.array(values).mean(1).T, strict=True):
        expected = mean_interval(means)
        assert found == pytest.approx(expected, rel=1e-3)


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
    found = hierarchical(simulate(variances, n, images, tags=150, shared=shared), shared, replicates=500)
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
    found = hierarchical(simulate(variances, n, 20, tags=1500, shared=shared), shared, replicates=300)
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
    estimate, margin, p = columns(hierarchical(values, shared, replicates=300))
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
    assert found[0] == pytest.approx(hierarchical(full, shared)[0])
    two = hierarchical([holes[0], holes[2]], shared, replicates=20_000)
    assert found[1] == pytest.approx(two[1], rel=0.1)
    assert found[1].estimate == pytest.approx(two[1].estimate)
    assert found[2] == pytest.approx(Interval(NAN, NAN, NAN), nan_ok=True)
    assert found[3] == pytest.approx(mean_interval(np.array([each[0, 3] for each in holes])))
    assert found[4] == pytest.approx(Interval(holes[2][0, 4], NAN, NAN), nan_ok=True)
    dense = hierarchical([each[1::2] for each in holes], shared, replicates=20_000)
    assert found[5].estimate == pytest.approx(dense[5].estimate)
    assert found[5].margin == pytest.approx(dense[5].margin, rel=0.1)


def test_coverage_with_shared_images_of_which_some_are_undefined() -> None:
    values = simulate((0.3, 1.0, 0.3), 3, 20, tags=1500, shared=True)
    hidden = np.random.default_rng(5).random((3, 20, 1500)) < 0.3
    values = [np.where(there, NAN, each) for there, each in zip(hidden, values, strict=True)]
    estimate, margin, _ = columns(hierarchical(values, True, replicates=300))
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
    assert hierarchical([np.full((7, 1), 0.1)] * 3, shared) == [(0.1, 0.0, 0.0)]
    assert hierarchical([np.zeros((7, 1))] * 3, shared) == [(0.0, 0.0, 1.0)]
    assert hierarchical([np.full((7, 1), 0.1)], shared) == [(0.1, 0.0, 0.0)]


@pytest.mark.parametrize("shared", [True, False])
def test_draws_depend_on_the_seed_alone(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = simulate((0.0, 1.0, 1.0), 3, 31, tags=4, shared=True)
    values = [each - each.mean(0) + 1 for each in values]  # the margins are those of the images
    first = np.array(hierarchical(values, shared))
    np.testing.assert_array_equal(first, hierarchical(values, shared))
    assert not np.array_equal(first[:, 1], np.array(hierarchical(values, shared, seed=1))[:, 1])
    for cells in (1, 31 * 7, 31 * 1000):
        monkeypatch.setattr(intervals, "CELLS", cells)
        np.testing.assert_allclose(hierarchical(values, shared), first, rtol=1e-9)
    # Nor on the other figures.
    np.testing.assert_allclose(hierarchical([each[:, :1] for each in values], shared), first[:1], rtol=1e-9)


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
