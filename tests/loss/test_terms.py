"""The terms of the loss, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from camtrain.config.options import EntropyUnit, Term
from camtrain.loss import terms
from camtrain.metrics.pointing import energy_in_mask

ONE = torch.zeros(4, 4).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(1.0))


UNIFORM = torch.ones(4, 4)


CORNERS = torch.zeros(4, 4).index_put((torch.tensor([0, 3]), torch.tensor([0, 3])), torch.tensor(0.5))


HALF = torch.tensor([[1.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4])


REGION = torch.zeros(16, 16, dtype=torch.uint8).index_fill(0, torch.arange(8), 3)


@pytest.mark.parametrize(
    ("kind", "one", "uniform", "half"),
    [
        (Term.entropy, 0.0, 1.0, math.log(8) / math.log(16)),
        (Term.area, 0.0, 1.0, math.sqrt(0.25 / 1.25)),  # variances (2^2 - 1) / 12 and (4^2 - 1) / 12
        (Term.dispersion, 1 / 16, 1.0, 1 / 2),
        (Term.total_variation, 1.0, 0.0, 4 / 8 / 4),
        (Term.energy_outside, None, 0.5, None),
    ],
)
def test_terms_by_hand(kind: Term, one: float | None, uniform: float, half: float | None) -> None:
    maps = torch.stack([5 * ONE, 0.1 * UNIFORM, HALF, -UNIFORM])
    value, counts = terms.term_values(kind, maps, REGION.expand(4, 16, 16), EntropyUnit.normalised)
    assert counts.tolist() == [True, True, True, False]
    for got, expected in zip(value.tolist(), (one, uniform, half, 0.0), strict=True):
        assert expected is None or got == pytest.approx(expected, abs=2e-3)


def test_area_sees_distance_where_entropy_does_not() -> None:
    near = torch.zeros(4, 4).index_put((torch.tensor([1, 2]), torch.tensor([1, 1])), torch.tensor(0.5))
    triangle = torch.zeros(2, 4, 4)
    triangle[0, 0, 0] = triangle[0, 0, 3] = triangle[0, 3, 0] = 1
    triangle[1, 1, 1] = triangle[1, 1, 2] = triangle[1, 2, 1] = 1
    shares = triangle / 3
    assert terms.area(shares)[0] > 5 * terms.area(shares)[1]
    assert terms.entropy(shares, EntropyUnit.nats).tolist() == pytest.approx([math.log(3)] * 2)
    line = terms.area(torch.stack([near, CORNERS]))
    assert line.abs().max() < 1e-3  # a line has no area, however long


@pytest.mark.parametrize("cells", [4, 7])
def test_energy_outside_is_one_less_the_energy_in_mask(cells: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, cells, cells, generator=generator, dtype=torch.float64)
    region = torch.randint(0, 3, (5, 50, 50), generator=generator).to(torch.uint8)
    region[region == 2] = 255
    value, _ = terms.term_values(Term.energy_outside, maps, region, EntropyUnit.nats)
    torch.testing.assert_close(value, 1 - energy_in_mask(maps, region))


def test_energy_outside_leaves_out_images_without_a_region() -> None:
    region = torch.stack([REGION, torch.zeros_like(REGION), torch.full_like(REGION, 255)])
    value, counts = terms.term_values(Term.energy_outside, UNIFORM.expand(3, 4, 4), region, EntropyUnit.nats)
    assert counts.tolist() == [True, False, False]
    assert value[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("unit", list(EntropyUnit))
def test_nothing_presses_on_maps_that_cover_few_enough_cells(unit: EntropyUnit) -> None:
    maps = torch.stack([ONE, HALF, UNIFORM]).requires_grad_()
    whole = math.log(16) if unit is EntropyUnit.normalised else 1.0
    values = terms.beyond_enough(terms.term_values(Term.entropy, maps, None, unit)[0], 8, 16, unit)
    assert values.tolist() == pytest.approx([0.0, 0.0, math.log(16 / 8) / whole], abs=1e-6)
    uneven = (UNIFORM + 0.5 * ONE)[None].requires_grad_()
    for given, enough, presses in ((maps, 8.5, False), (uneven, 8.5, True), (uneven, 1.0, True)):
        values = terms.beyond_enough(terms.term_values(Term.entropy, given, None, unit)[0], enough, 16, unit)
        (gradient,) = torch.autograd.grad(values.sum(), given)
        (plain,) = torch.autograd.grad(terms.term_values(Term.entropy, given, None, unit)[0].sum(), given)
        assert bool((gradient[:2] != 0).any()) == presses
        assert not presses or torch.equal(gradient, plain)
    one_cell = terms.term_values(Term.entropy, torch.ones(1, 1, 1), None, unit)[0]
    assert float(terms.beyond_enough(one_cell, 1.0, 1, unit)) == 0.0
