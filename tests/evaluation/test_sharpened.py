"""The sharpened baseline, and on which images its power is found."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from camtrain.cam import distribution
from camtrain.evaluation.folds import two_folds
from camtrain.evaluation.sharpened import HIGHEST, LOWEST, power_for, powers_for, sharpened
from camtrain.metrics.concentration import area, entropy


def random_maps(count: int = 6, side: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.floats(0.4, 8))
@settings(max_examples=25, deadline=None)
def test_the_maps_have_the_entropy_or_the_area_that_was_asked_for(seed: int, power: float) -> None:
    maps = random_maps(8, seed=seed)
    maps[3] = -1  # dead
    for measure in (entropy, area):
        wanted = float(measure(sharpened(maps, power)).double().nanmean())
        found = power_for(maps, wanted, measure)
        assert float(measure(sharpened(maps, found)).double().nanmean()) == pytest.approx(wanted, abs=1e-4)
        assert found == pytest.approx(power, rel=1e-2) or measure is area  # which other powers may give as well


def test_the_power_at_its_ends() -> None:
    maps = random_maps()
    for measure in (entropy, area):
        assert power_for(-maps.abs(), 1.0, measure) == 1
        assert power_for(maps, math.nan, measure) == 1
        assert power_for(maps[:0], 1.0, measure) == 1
    assert power_for(maps, 100.0, entropy) == pytest.approx(LOWEST, rel=1e-6)
    assert power_for(maps, 0.0, entropy) == pytest.approx(HIGHEST, rel=1e-6)
    widest = max(float(area(sharpened(maps, 2 ** (half / 2))).mean()) for half in range(-12, 13))
    assert float(area(sharpened(maps, power_for(maps, 100.0, area))).mean()) == pytest.approx(widest)
    torch.testing.assert_close(distribution.distribution(sharpened(maps, 1))[0], distribution.distribution(maps)[0])
    torch.testing.assert_close(sharpened(maps * 1e-20, 5), sharpened(maps, 5))
    assert bool(sharpened(maps * 1e-6, HIGHEST).isfinite().all())
    each = sharpened(maps, torch.arange(1, 7))
    torch.testing.assert_close(each[3], sharpened(maps, 4)[3])


def test_an_area_that_first_rises_is_met_as_nearly_as_can_be() -> None:
    """A high plateau in the middle, and four lower corners, which come out first if the map is flattened."""
    maps = torch.full((1, 9, 9), 1e-3)
    maps[0, 3:6, 3:6], maps[0, ::8, ::8] = 0.9, 1.0
    areas = [float(area(sharpened(maps, power))) for power in (LOWEST, 1.0, 8.0, HIGHEST)]
    assert areas[0] < areas[2]
    assert areas[1] < areas[2] < areas[3]
    for wanted in areas:
        assert float(area(sharpened(maps, power_for(maps, wanted, area)))) == pytest.approx(wanted, rel=1e-3)


def test_the_power_of_either_fold_is_that_of_the_other() -> None:
    reference, treatment = random_maps(8), random_maps(8, seed=1).abs() ** 3
    fold = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    for measure in (entropy, area):
        powers = powers_for(reference, treatment, fold, measure)
        other = [
            power_for(reference[fold == half], float(measure(treatment[fold == half]).mean()), measure)
            for half in (1, 0)
        ]
        assert powers.tolist() == pytest.approx(other, rel=1e-5)
        # What is judged does not enter.
        changed = torch.where((fold == 0)[:, None, None], random_maps(8, seed=2), reference)
        assert powers_for(changed, treatment, fold, measure)[0] == powers[0]


def test_where_the_other_fold_is_dead_all_maps_serve() -> None:
    maps, treatment = random_maps(4), random_maps(4, seed=1).relu() ** 2
    maps[1], treatment[3] = -1, -1
    fold = torch.tensor([0, 1, 0, 1])
    of_all = power_for(maps, float(entropy(treatment).nanmean()), entropy)
    powers = powers_for(maps, treatment, fold, entropy).tolist()
    assert powers[0] == pytest.approx(of_all)
    assert powers[1] == pytest.approx(power_for(maps[::2], float(entropy(treatment[::2]).mean()), entropy))
    assert powers_for(maps[:0], treatment[:0], fold[:0], entropy).tolist() == [1, 1]


def test_halves_are_fixed_and_as_large() -> None:
    fold = two_folds(101, 0)
    assert fold.bincount().tolist() == [51, 50]
    assert torch.equal(fold, two_folds(101, 0))
    assert not torch.equal(fold, two_folds(101, 1))
    assert two_folds(0, 0).shape == (0,)
