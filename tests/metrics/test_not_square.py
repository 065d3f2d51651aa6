"""Grids and images that are not square: no figure depends on which edge is the longer one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from camtrain.cam.stretch import rank, upsample
from camtrain.config.options import EntropyUnit, Term
from camtrain.loss.terms import TERMS
from camtrain.metrics import equivariance, faithfulness, localisation, road
from camtrain.metrics.catalogue import map_indicators

DRAWN = torch.Generator().manual_seed(0)
MAPS = torch.rand(6, 4, 7, generator=DRAWN, dtype=torch.float64) - 0.3
IMAGES = torch.randn(6, 3, 32, 56, generator=DRAWN, dtype=torch.float64)
REGIONS = torch.zeros(6, 32, 56, dtype=torch.uint8)
REGIONS[:, 4:20, 30:50], REGIONS[:, 20:24, 30:50] = 1, 255
WEIGHTS = torch.rand(32, 56, generator=DRAWN, dtype=torch.float64)


def same_turned(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.testing.assert_close(measure(MAPS, REGIONS), measure(MAPS.mT, REGIONS.mT), equal_nan=True)


@pytest.mark.parametrize("name", map_indicators())
def test_indicators(name: str) -> None:
    same_turned(map_indicators()[name])


@pytest.mark.parametrize("measure", [localisation.overlap, localisation.box_overlap, localisation.pixel_counts])
def test_localisation(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    same_turned(measure)
    assert torch.equal(localisation.centred_gaussian(4, 7), localisation.centred_gaussian(7, 4).mT)


@pytest.mark.parametrize("term", Term)
def test_terms(term: Term) -> None:
    shares = MAPS.relu() / MAPS.relu().sum((1, 2), keepdim=True)
    ways = (shares, REGIONS), (shares.mT, REGIONS.mT)
    one, other = (TERMS[term](part, EntropyUnit.normalised, region, None) for part, region in ways)
    torch.testing.assert_close(one, other)


def test_the_area_of_a_uniform_map_is_one_on_any_grid() -> None:
    shares = torch.full((1, 4, 7), 1 / 28, dtype=torch.float64)
    assert float(TERMS[Term.area](shares, EntropyUnit.nats, None, None)) == pytest.approx(1, abs=1e-3)


def test_faithfulness_and_road() -> None:
    def probability(weights: Tensor) -> faithfulness.Probability:
        def of_class(images: Tensor, _of: Tensor | None = None) -> Tensor:
            return (images.mean(1) * weights).mean((1, 2)).sigmoid()

        return of_class

    found = []
    for images, maps, weights in ((IMAGES, MAPS, WEIGHTS), (IMAGES.mT, MAPS.mT, WEIGHTS.mT)):
        of_class = probability(weights)
        ends = faithfulness.ends(images, of_class)
        size = images.shape[2], images.shape[3]
        left = of_class(images * faithfulness.shown(maps, size)[:, None])
        found_alone = faithfulness.confidence(ends.whole, left, maps)
        order = rank(upsample(maps + 0.5, size))[None]
        areas = faithfulness.curve_areas(images, order, torch.ones(1, 6, dtype=torch.bool), of_class, ends)
        found.append(
            torch.stack(
                [
                    *found_alone,
                    *faithfulness.adcc(maps, maps + 0.1, found_alone.drop, size, None),
                    *(area[0] for area in areas),
                    road.road(images, maps + 0.5, of_class),
                ]
            )
        )
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=5e-4)  # equal values go at random


def test_stability() -> None:
    """Mirroring is told from turning, and an image that is moved takes its map along."""

    def mean_of_blocks(images: Tensor) -> Tensor:
        return images.mean(1).unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4))

    images = IMAGES.abs()
    after = equivariance.Changed(*map(mean_of_blocks, equivariance.changed(images, mean_of_blocks(images).shape[1:])))
    found = equivariance.stability(mean_of_blocks(images), after, images.shape[2:])
    torch.testing.assert_close(found.flip, torch.ones(6, dtype=torch.float64))
    assert found.shift.shape == (6,)
    assert bool((found.shift > 0).all())
