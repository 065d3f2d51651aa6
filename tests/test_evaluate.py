"""Evaluation: a fixed subset of maps, means over the pictures for which a value is defined."""

from __future__ import annotations

import math

import pytest
import torch

from camtrain.arm import Arm, Paths, make_optimiser
from camtrain.config import CamVariant, FakeConfig, ModelConfig, OptimConfig
from camtrain.data.build import build as build_data
from camtrain.data.pictures import all_batches
from camtrain.evaluate import evaluate, forward_maps, of_maps
from camtrain.model import build as build_model


def arm(closed: bool = True) -> Arm:
    model = build_model(ModelConfig(name="small_resnet"), 3, 32, 0).classifier
    return Arm("baseline", model, make_optimiser(model, OptimConfig(), 1e-3), False, Paths(closed, closed))


def test_subset_is_measured_whatever_the_batches_hold() -> None:
    _, pictures = build_data(FakeConfig(image_size=32, val=16), 0)
    measured = torch.zeros(16, dtype=torch.bool)
    measured[[2, 3, 11]] = True
    figures = [
        evaluate([arm()], all_batches(pictures, size, 0), CamVariant.gradcam, measured, torch.device("cpu"))["baseline"]
        for size in (2, 16)  # most batches of two hold no measured picture
    ]
    for tag, value in figures[0].items():
        assert value == pytest.approx(figures[1][tag], abs=1e-5, nan_ok=True)
    images, regions = pictures.fetch([2, 3, 11], None)
    _, maps = forward_maps(arm(), images.float() / 255, pictures.targets[[2, 3, 11]], CamVariant.gradcam)
    expected = of_maps(maps, regions)
    for tag, values in expected.items():
        assert figures[0][tag] == pytest.approx(float(values.nanmean()), abs=1e-5, nan_ok=True)


def test_closed_form_and_autograd_measure_the_same() -> None:
    images, target = torch.rand(5, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1])
    maps = [forward_maps(arm(closed), images, target, CamVariant.gradcam)[1] for closed in (True, False)]
    torch.testing.assert_close(maps[0], maps[1])
    assert not maps[1].requires_grad


def test_nothing_defined_is_nan() -> None:
    regions = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert math.isnan(float(of_maps(torch.rand(2, 4, 4), regions)["cam/energy_in_mask"].nanmean()))
