"""Areas under curves that are looked at where they change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from camtrain.metrics import quadrature

AT = torch.linspace(0, 1, 65, dtype=torch.float64)

CURVES = torch.stack(
    [
        torch.full_like(AT, 0.3),
        AT,
        (1 - AT) ** 2,
        (-8 * AT).exp(),
        (AT > 0.41).double(),
        torch.where((AT - 0.4).abs() < 0.1, 0.1, 0.9),
    ]
)


def looked_at(curves: Tensor, tolerance: float = quadrature.TOLERANCE) -> tuple[Tensor, Tensor]:
    """Areas, and how often each curve was looked at."""
    count = torch.zeros(len(curves))

    def values(number: Tensor, at: Tensor) -> Tensor:
        count.index_add_(0, number, torch.ones(len(number)))
        return curves[number, at]

    return quadrature.areas(values, curves[:, 0], curves[:, -1], tolerance), count


def test_areas_are_those_of_all_points_where_few_are_looked_at() -> None:
    found, count = looked_at(CURVES)
    exact = torch.trapezoid(CURVES, AT)
    torch.testing.assert_close(found, exact, atol=0.005, rtol=0)
    assert count[0] == quadrature.COARSEST - 1
    assert bool((count <= 15).all())
    assert (found - exact).abs()[:2].max() < 1e-12


def test_without_tolerance_it_is_the_trapezoidal_rule() -> None:
    found, count = looked_at(CURVES, -1)
    torch.testing.assert_close(found, torch.trapezoid(CURVES, AT))
    assert bool((count == quadrature.FINEST - 1).all())


@pytest.mark.parametrize("number", range(len(CURVES)))
def test_a_curve_does_not_depend_on_the_others(number: int) -> None:
    alone, count = looked_at(CURVES[number : number + 1])
    together, counts = looked_at(CURVES)
    assert float(alone) == float(together[number])
    assert float(count) == float(counts[number])


def test_no_curves() -> None:
    assert looked_at(CURVES[:0])[0].shape == (0,)
