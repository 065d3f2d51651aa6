"""Indicators against hand-computed maps, scipy, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from camtrain.cam import distribution
from camtrain.metrics import concentration, pointing
from camtrain.metrics.catalogue import map_indicators

N = 7


def uniform() -> Tensor:
    return torch.ones(1, N, N)


def one_cell() -> Tensor:
    maps = torch.zeros(1, N, N)
    maps[0, 2, 5] = 3.0
    return maps


def two_cells() -> Tensor:
    """A quarter of the attention at (1, 1), the rest at (1, 5)."""
    maps = torch.zeros(1, N, N)
    maps[0, 1, 1], maps[0, 1, 5] = 1.0, 3.0
    return maps


def gaussian(sigma_y: float = 1.5, sigma_x: float = 2.0, n: int = 41) -> Tensor:
    at = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-(at[:, None] ** 2) / (2 * sigma_y**2) - at[None] ** 2 / (2 * sigma_x**2))[None]


@pytest.mark.parametrize(
    ("maps", "entropy", "area", "dispersion", "contrast"),
    [
        (uniform(), math.log(49), (49 - 1) / 12, 0.0, 0.0),
        (one_cell(), 0.0, 0.0, 48.0, 49.0),
        (two_cells(), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), 0.0, 49 * (1 / 16 + 9 / 16) - 1, None),
        # Two cells on a diagonal lie on a line as well: no area. Three corners of a square do not.
        (gaussian(), 0.5 * math.log((2 * math.pi * math.e) ** 2 * 1.5**2 * 2.0**2), 3.0, None, None),
    ],
)
def test_hand_computed(
    maps: Tensor, entropy: float, area: float, dispersion: float | None, contrast: float | None
) -> None:
    assert concentration.entropy(maps).item() == pytest.approx(entropy, abs=2e-4)
    assert concentration.area(maps).item() == pytest.approx(area, abs=1e-5)
    if dispersion is not None:
        assert concentration.dispersion(maps).item() == pytest.approx(dispersion, rel=1e-5, abs=1e-6)
    if contrast is not None:
        assert concentration.contrast(maps).item() == pytest.approx(contrast, rel=1e-5)


def test_area_of_three_corners() -> None:
    maps = torch.zeros(1, 3, 3)
    maps[0, 0, 0] = maps[0, 0, 2] = maps[0, 2, 0] = 1.0
    # Positions (0,0), (0,2), (2,0): variances 8/9 each, covariance -4/9; determinant 64/81 - 16/81.
    assert concentration.area(maps).item() == pytest.approx(math.sqrt(48 / 81), rel=1e-6)


def test_contrast_by_hand() -> None:
    maps = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])  # active: 4 and 2; mean of the map: 2
    assert concentration.contrast(maps).item() == pytest.approx((3 - 1) / 2)


def test_dead_maps_have_no_concentration() -> None:
    maps = torch.stack([-torch.rand(N, N), torch.rand(N, N)])
    assert distribution.is_dead(maps).tolist() == [True, False]
    for indicator in (concentration.entropy, concentration.area, concentration.dispersion, concentration.contrast):
        values = indicator(maps)
        assert math.isnan(values[0]), indicator
        assert math.isfinite(values[1]), indicator


maps_of_any_kind = st.integers(0, 2**31).map(
    lambda seed: torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)


@given(maps_of_any_kind, st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=60)
def test_properties(maps: Tensor, scale: float) -> None:
    cells = 30
    values = {name: getattr(concentration, name)(maps) for name in ("entropy", "area", "dispersion", "contrast")}
    shares, _ = distribution.distribution(maps)
    torch.testing.assert_close(values["entropy"], torch.from_numpy(scipy_entropy(shares.flatten(1).numpy(), axis=1)))
    torch.testing.assert_close(values["dispersion"], cells * shares.square().sum((1, 2)) - 1)
    positive = maps.relu()
    by_definition = positive.var((1, 2), unbiased=False) / positive.mean((1, 2)) ** 2
    torch.testing.assert_close(values["dispersion"], by_definition)
    assert ((values["entropy"] >= 0) & (values["entropy"] <= math.log(cells) + 1e-9)).all()
    assert ((values["dispersion"] >= -1e-9) & (values["dispersion"] <= cells - 1 + 1e-9)).all()
    for name, value in values.items():
        torch.testing.assert_close(getattr(concentration, name)(maps * scale), value)
        torch.testing.assert_close(getattr(concentration, name)(maps.flip(2)), value)
        torch.testing.assert_close(getattr(concentration, name)(maps.transpose(1, 2)), value)


def test_half_precision_is_measured_in_float32() -> None:
    maps = torch.rand(2, 8, 8)
    for kind in (torch.float16, torch.bfloat16):
        rounded = maps.to(kind)
        assert concentration.entropy(rounded).dtype == torch.float32
        torch.testing.assert_close(concentration.entropy(rounded), concentration.entropy(rounded.float()))


def test_energy_and_pointing_by_hand() -> None:
    maps = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    region = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    assert pointing.energy_in_mask(maps, region).item() == pytest.approx(0.25)
    assert pointing.pointing(maps, region).item() == 0
    void = torch.tensor([[[1, 0], [0, 255]]], dtype=torch.uint8)  # the peak is void: not scored
    assert pointing.energy_in_mask(maps, void).item() == pytest.approx(1.0)
    assert pointing.pointing(maps, void).item() == 1


def test_tolerant_pointing_by_hand() -> None:
    maps = torch.zeros(1, 100, 60)
    maps[0, 50, 30] = 1.0
    for (row, column), hit in {(50, 30): 1, (53, 30): 1, (52, 32): 1, (50, 27): 1, (53, 31): 0, (54, 30): 0}.items():
        region = torch.zeros(1, 100, 60, dtype=torch.uint8)  # 3 % of the longer side are 3 pixels
        region[0, row, column] = 1
        assert pointing.pointing_tolerant(maps, region).item() == hit
        assert pointing.pointing_tolerant(maps.mT, region.mT).item() == hit
        assert pointing.pointing(maps, region).item() == (row == 50 and column == 30)
    region[0, 50, 30] = 255  # the peak is void: the first of the others is pointed at, in the corner
    assert pointing.pointing_tolerant(maps, region).item() == 0
    region[0, 2, 2] = 1
    assert pointing.pointing_tolerant(maps, region).item() == 1


@pytest.mark.parametrize("size", [(64, 64), (40, 99), (224, 200), (3, 4)])
def test_tolerant_pointing_is_that_of_scipys_distances(size: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(40, *size, generator=draw)
    region = (torch.rand(40, *size, generator=draw) < 0.02).to(torch.uint8)
    region[:, -1, -1] = 2
    region[torch.rand(40, *size, generator=draw) < 0.1] = 255
    expected = []
    for one, shown in zip(maps.numpy(), region.numpy(), strict=True):
        inside = (shown > 0) & (shown < 255)
        away = distance_transform_edt(~inside)
        peak = np.where(shown < 255, one, -1).argmax()
        expected.append(float(away.flat[peak] <= 0.03 * max(size)) if inside.any() else math.nan)
    found = pointing.pointing_tolerant(maps, region)
    np.testing.assert_array_equal(found, expected)
    strict = pointing.pointing(maps, region)
    assert bool((found >= strict)[~strict.isnan()].all())


def test_dead_maps_miss_and_images_without_object_are_left_out() -> None:
    region = torch.zeros(2, 8, 8, dtype=torch.uint8)
    region[0, :4] = 1
    maps = torch.stack([-torch.ones(2, 2), torch.ones(2, 2)])
    for indicator in (pointing.energy_in_mask, pointing.pointing, pointing.pointing_tolerant):
        values = indicator(maps, region)
        assert values[0] == 0
        assert math.isnan(values[1])


def test_energy_of_a_uniform_map_is_the_objects_share_of_the_image() -> None:
    region = torch.zeros(1, 32, 32, dtype=torch.uint8)
    region[0, 4:20, 8:16] = 1
    assert pointing.energy_in_mask(torch.ones(1, 4, 4), region).item() == pytest.approx(16 * 8 / 32**2)


def test_gini_and_top_tenth_by_hand() -> None:
    assert concentration.gini(uniform()).item() == pytest.approx(0, abs=1e-6)
    assert concentration.gini(one_cell()).item() == pytest.approx(1 - 1 / 49)
    assert concentration.gini(two_cells()).item() == pytest.approx((46 * 0.25 + 48 * 0.75) / 49)
    assert concentration.top_tenth(uniform()).item() == pytest.approx(0.1)
    assert concentration.top_tenth(one_cell()).item() == pytest.approx(1)
    ramp = torch.arange(20.0).reshape(1, 4, 5)
    assert concentration.top_tenth(ramp).item() == pytest.approx((19 + 18) / 190)
    cut = torch.arange(5.0).reshape(1, 1, 5)  # a tenth is half a cell
    assert concentration.top_tenth(cut).item() == pytest.approx(0.5 * 4 / 10)


def test_border_mass_by_hand() -> None:
    assert concentration.border_mass(uniform()).item() == pytest.approx(24 / 49)
    assert concentration.border_mass(one_cell()).item() == pytest.approx(0)
    assert concentration.border_mass(two_cells()).item() == pytest.approx(0)
    assert concentration.border_mass(torch.rand(1, 2, 5)).item() == pytest.approx(1)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 3e38])  # the last one's sum overflows
def test_a_map_that_is_not_finite_is_not_alive(wrong: float) -> None:
    maps = torch.cat([uniform(), one_cell(), two_cells()])
    maps[1, 0, :2] = wrong
    assert distribution.is_dead(maps).tolist() == [False, True, False]
    regions = torch.ones(3, 14, 14, dtype=torch.uint8)
    figures = {name: measure(maps, regions).tolist() for name, measure in map_indicators().items()}
    assert figures["dead_rate"] == [0, 1, 0]
    misses = {"energy_in_mask", "pointing", "pointing_tolerant"}
    assert {name for name in figures if figures[name][1] == 0} == misses
    for name, values in figures.items():
        assert math.isfinite(values[0])
        assert math.isfinite(values[2])
        assert math.isnan(values[1]) or name in {"dead_rate", *misses}
    maps.requires_grad_()
    concentration.entropy(maps).nansum().backward()
    assert bool(maps.grad is not None and maps.grad.isfinite().all())


def test_whether_a_map_is_dead_is_a_matter_of_its_positive_share_alone() -> None:
    negative, alone = -uniform(), torch.zeros(1, N, N)
    negative[0, 3, 3] = alone[0, 3, 3] = 1e-9
    below, above = -uniform(), -uniform()  # 48 cells of -1, and one of 0.98 or 1.02 ten-thousandths of all
    below[0, 3, 3], above[0, 3, 3] = 48 * 0.98e-4, 48 * 1.02e-4
    maps = torch.cat([negative, alone, below, above, torch.zeros(1, N, N), two_cells()])
    for scale in (1e-25, 1e-20, 1e-3, 1.0, 1e20, 1e30):
        assert distribution.is_dead(maps * scale).tolist() == [True, scale < 1e-22, True, False, True, False]
    assert distribution.is_dead(maps.double() * 1e-100).tolist() == [True, False, True, False, True, False]


@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-37, 1e-31, 1e-20, 1e-10, 1.0, 1e10, 1e30])
def test_the_distribution_and_its_gradient_have_no_scale(scale: float) -> None:
    maps = torch.randn(4, N, N, generator=torch.Generator().manual_seed(0))
    maps[3] = -maps[3].abs()
    given, exact = (maps * scale).requires_grad_(), maps.double().requires_grad_()
    shares, dead = distribution.distribution(given)
    assert dead.tolist() == [scale < 1e-32] * 3 + [True]
    distribution.shannon(shares).sum().backward()
    assert given.grad is not None
    assert bool(given.grad.isfinite().all())
    if scale >= 1e-31:
        expected, _ = distribution.distribution(exact)
        torch.testing.assert_close(shares, expected.float())
        distribution.shannon(expected).sum().backward()
        assert exact.grad is not None
        torch.testing.assert_close(given.grad.double() * scale, exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_distribution_of_half_precision_is_in_float32(kind: torch.dtype) -> None:
    maps = torch.randn(3, N, N, generator=torch.Generator().manual_seed(0)).mul(1e3).to(kind)
    shares, dead = distribution.distribution(maps)
    assert shares.dtype == torch.float32
    assert not dead.any()
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(3))
    assert torch.equal(shares, distribution.distribution(maps.float())[0])


def test_peaks() -> None:
    maps = torch.cat([one_cell(), two_cells(), -uniform()])
    assert concentration.peak(maps).tolist() == [2 * 7 + 5, 7 + 5, -1]
    assert concentration.peak_entropy(torch.tensor([4, 4, 4, -1]), 16).item() == 0
    assert concentration.peak_entropy(torch.arange(16), 16).item() == pytest.approx(1)
    assert concentration.peak_entropy(torch.tensor([0, 0, 3, 3, -1]), 16).item() == pytest.approx(0.25)
    assert concentration.peak_entropy(torch.tensor([-1, -1]), 16).isnan()


@pytest.mark.parametrize("name", ["gini", "top_tenth", "border_mass"])
def test_the_scale_of_a_map_does_not_matter_and_dead_ones_have_none(name: str) -> None:
    indicator = getattr(concentration, name)
    maps = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(indicator(1e-3 * maps), indicator(maps))
    assert ((indicator(maps) >= 0) & (indicator(maps) <= 1)).all()
    assert indicator(-maps.abs()).isnan().all()
