"""On how many images faithfulness is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from measured import context_of, network

from camtrain.config.schema import FakeConfig
from camtrain.data.build import build as build_data
from camtrain.evaluation.context import PASSES_OF_ORDER, EvaluationContext


def context(measured: int, **changes: object) -> EvaluationContext:
    """Two networks with three held-out methods, in front of so many images."""
    images = build_data(FakeConfig(image_size=32, val=2), 0)[1]
    made = replace(context_of({"one": network(), "other": network()}, images, torch.ones(2)), **changes)
    made.measured = torch.ones(measured, dtype=torch.bool)
    return made


# Of each image: seven orders of either network and that of the sharpened baseline, and seven passes beside.
COST = PASSES_OF_ORDER * 15 + 7


@pytest.mark.parametrize(
    ("passes", "measured", "expected"),
    [
        (None, 700, 500),
        (None, 300, 300),
        (3 * COST * 400, 1000, 400),
        (3 * COST * 400 + 3 * COST - 1, 1000, 400),
        (3 * COST * 400, 300, 300),
        (0, 1000, 64),
        (0, 10, 10),
    ],
)
def test_by_default_it_costs_a_third_of_the_training(passes: int | None, measured: int, expected: int) -> None:
    assert context(measured, training_passes=passes).faithfulness_images == expected


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (5, 5), (90, 20)])
def test_a_number_is_taken_as_it_is(count: int, expected: int) -> None:
    made = context(20, training_passes=0)
    made.settings.faithfulness_images = count
    assert made.faithfulness_images == expected
