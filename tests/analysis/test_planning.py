"""Power and numbers needed: against SciPy's distributions, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from camtrain.analysis.intervals import Interval, hierarchical, mean_interval
from camtrain.analysis.planning import WANTED, Needed, missed, needed, power


def found(seeds: int, spread: float, common: float, images: int = 100) -> Interval:
    """Estimate 0; the seeds' means have standard deviation `spread`, the images' common part has `common`."""
    ends = np.linspace(-1, 1, seeds)
    image = np.linspace(-1, 1, images)
    image *= common / image.std(ddof=1)
    return hierarchical([(spread * end + image)[:, None] for end in ends / ends.std(ddof=1)], shared=True)[0]


@pytest.mark.parametrize("seeds", [2, 5, 12])
@pytest.mark.parametrize("room", [0.5, 1.0, 2.0])
def test_power_of_seeds_alone_is_that_of_the_one_sided_t_test(seeds: int, room: float) -> None:
    ncp = room * math.sqrt(seeds)
    expected = stats.nct.sf(stats.t.ppf(0.95, seeds - 1), seeds - 1, ncp)
    assert power(found(5, 1.0, 1e-6), room, seeds) == pytest.approx(expected, abs=1e-3)


def test_power_of_images_alone_is_that_of_their_t_test() -> None:
    one = found(5, 1e-9, 1.0)
    expected = stats.nct.sf(stats.t.ppf(0.95, 99), 99, 0.25 * 10)
    for seeds in (5, 500):
        assert power(one, 0.25, seeds) == pytest.approx(expected, abs=1e-3)
    assert power(one, 0.25, 5, images=4) == pytest.approx(stats.norm.cdf(0.25 * 20 - 1.645), abs=0.005)


def test_power_of_seeds_that_have_one_image_in_common() -> None:
    values = np.full((3, 20, 1), np.nan)
    values[:, 4, 0] = 0.0, 0.1, 0.2
    one = hierarchical(list(values), shared=True)[0]
    assert one.spread is not None
    assert one.spread.degrees == 0
    expected = stats.nct.sf(stats.t.ppf(0.95, 2), 2, 0.1 * math.sqrt(3) / 0.1)
    assert power(one, 0.1, 3) == pytest.approx(expected, abs=1e-3)


def test_power_is_what_a_simulation_finds() -> None:
    rng = np.random.default_rng(0)
    trials, seeds, images, room = 1500, 6, 50, 0.8
    values = rng.normal(size=(seeds, 1, trials)) * 0.7 + rng.normal(size=(1, images, trials)) * 1.5
    drawn = hierarchical(list(values), shared=True)
    shown = np.mean([one.estimate + one.bound < room for one in drawn])
    expected = power(found(5, 0.7, 1.5, images), room, seeds)
    assert shown == pytest.approx(expected, abs=0.05)


def test_power_grows_with_seeds_images_and_room() -> None:
    one = found(4, 1.0, 2.0)
    for grown in (
        [power(one, 0.5, seeds) for seeds in (2, 4, 8, 16)],
        [power(one, 0.5, 8, images) for images in (1, 2, 4)],
        [power(one, room, 8) for room in (-1.0, 0.0, 0.5, 1.0, 5.0, 50.0)],
    ):
        assert grown == sorted(grown)
    assert power(one, 50.0, 8) == 1


def test_seeds_that_are_needed_are_the_fewest() -> None:
    one = found(4, 1.0, 1e-6)
    plan = needed(one, 1.0, 4)
    assert plan.seeds is not None
    assert power(one, 1.0, 4 + plan.seeds) >= WANTED > power(one, 1.0, 4 + plan.seeds - 1)
    # The normal approximation, (1.645 + 0.842)^2 = 6.18 seeds, plus about one for not knowing the variance.
    assert 4 + plan.seeds in (7, 8)


def test_what_seeds_cannot_do() -> None:
    assert needed(found(4, 10.0, 1e-6), 1.0, 4) == Needed(pytest.approx(0.08, abs=0.05))
    assert needed(found(4, 1.0, 1.0), -0.1, 4).images is None
    plan = needed(found(4, 1e-6, 1.0), 0.1, 4)
    # (1.645 + 0.842)^2 / 0.1^2 = 618 images
    assert plan.seeds is None
    assert plan.images == pytest.approx(618, rel=0.04)
    assert "at least" in plan.words


def test_a_rate_without_changes_needs_more_seeds_or_images() -> None:
    zeros = hierarchical([np.zeros((100, 1))] * 3, True, rates=[True])[0]
    plan = needed(zeros, 0.01, 3)
    assert plan.power == 0
    assert plan.seeds is not None
    assert hierarchical([np.zeros((100, 1))] * (3 + plan.seeds), True, rates=[True])[0].bound < 0.01
    few = hierarchical([np.zeros((20, 1))] * 3, True, rates=[True])[0]
    assert needed(few, 0.01, 3).images == pytest.approx(75, abs=2)  # -ln(0.05) / 4 / 0.01, however many the seeds


def test_shares_of_bad_seeds_that_go_unseen() -> None:
    assert missed(5) == pytest.approx(0.4437, abs=1e-4)
    assert missed(3, 0.5) == 0.125
    assert mean_interval(np.ones(3)).spread is not None
