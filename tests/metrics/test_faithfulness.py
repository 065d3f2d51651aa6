"""Faithfulness against torch-cam and grad-cam, and hand-computed cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor, nn
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from camtrain.cam import stretch
from camtrain.metrics import faithfulness

COUNT, SIZE = 6, 32


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * SIZE * SIZE, 4)
        return nn.Sequential(*layers).eval()


class Given:
    """Maps that are given, as torch-cam asks its extractors for them."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    @contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


class Case:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.model = network()
        self.images = torch.randn(COUNT, 3, SIZE, SIZE, generator=generator)
        self.maps = torch.randn(COUNT, 4, 4, generator=generator)
        self.classes = [0, 1, 2, 3, 0, 1]

    def probability(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(images).softmax(1)[torch.arange(COUNT), torch.tensor(self.classes)]

    def confidence(self) -> faithfulness.Confidence:
        return faithfulness.confidence(self.images, self.maps, self.probability, self.probability(self.images))

    def curves(self, steps: int) -> faithfulness.Curves:
        ends = faithfulness.ends(self.images, self.probability)
        return faithfulness.curves(self.images, self.maps, self.probability, ends, steps)


def test_drop_and_increase_equal_torch_cam() -> None:
    case = Case()
    shown = stretch.upsample(case.maps, (SIZE, SIZE))
    extractor = Given(case.model, shown / shown.amax((1, 2), keepdim=True))
    metric = ClassificationMetric(extractor, partial(torch.softmax, dim=-1))
    metric.update(case.images, case.classes)
    found = case.confidence()
    assert 0 < found.increase.mean() < 1
    assert found.drop.mean().item() == pytest.approx(metric.summary()["avg_drop"], abs=1e-5)
    assert found.increase.mean().item() == pytest.approx(metric.summary()["conf_increase"])


def test_drop_is_that_of_grad_cam_over_the_probability() -> None:
    case = Case()
    whole = stretch.upsample(case.maps, (SIZE, SIZE))
    cams = (whole / whole.amax((1, 2), keepdim=True)).numpy()
    targets = [ClassifierOutputSoftmaxTarget(number) for number in case.classes]
    drop, increase = (
        metric()(case.images, cams, targets, case.model) for metric in (DropInConfidence, IncreaseInConfidence)
    )
    found = case.confidence()
    np.testing.assert_allclose(found.drop * case.probability(case.images), drop, atol=1e-6)
    np.testing.assert_array_equal(found.increase, increase)


@pytest.mark.parametrize("blurred", [False, True])
def test_curves_equal_torch_cam(blurred: bool) -> None:
    case = Case()
    metric = DeletionInsertionMetric(
        Given(case.model, stretch.upsample(case.maps, (SIZE, SIZE))),
        partial(torch.softmax, dim=-1),
        steps=16,
        baseline=faithfulness.blur if blurred else None,
    )
    metric.update(case.images, case.classes)
    found = case.curves(steps=16)
    curve, theirs = (found.insertion, metric.insertion) if blurred else (found.deletion, metric.deletion)
    assert faithfulness.area_under(curve).sum().item() == pytest.approx(theirs, abs=1e-5)


def test_a_map_of_what_decides_is_deleted_at_once() -> None:
    # The probability is the share of the object, a quarter of the image, that still shows.
    images = torch.zeros(2, 3, 16, 16)
    images[:, :, :8, :8] = 1
    maps = torch.zeros(2, 2, 2)
    maps[0, 0, 0] = maps[1, 1, 1] = 1  # on the object, and far from it

    def probability(changed: Tensor) -> Tensor:
        return (changed[:, 0, :8, :8] == 1).float().mean((1, 2))

    deletion = faithfulness.curves(images, maps, probability, faithfulness.ends(images, probability), 4).deletion
    assert deletion[0].tolist() == pytest.approx([1, 0.1, 0, 0, 0], abs=0.15)
    assert deletion[1, 1] == 1
    good, bad = faithfulness.area_under(deletion).tolist()
    assert good < 0.2 < 0.4 < bad


def test_dead_maps_have_no_faithfulness() -> None:
    case = Case()
    case.maps[2] = -1
    found = case.confidence()
    both = case.curves(steps=2)
    for value in (*found, *map(faithfulness.area_under, both)):
        assert value.isnan().tolist() == [number == 2 for number in range(COUNT)]


def test_blur_keeps_what_is_flat_and_is_separable() -> None:
    flat = torch.full((1, 3, 20, 24), 0.7)
    torch.testing.assert_close(faithfulness.blur(flat), flat)
    point = torch.zeros(1, 1, 21, 21)
    point[0, 0, 10, 10] = 1
    blurred = faithfulness.blur(point)[0, 0]
    assert blurred.sum().item() == pytest.approx(1)
    torch.testing.assert_close(blurred, blurred.mT)
    assert torch.linalg.matrix_rank(blurred) == 1
