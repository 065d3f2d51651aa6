"""Faithfulness against torch-cam and grad-cam, and hand-computed cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy import ndimage, stats
from torch import Tensor, nn
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from camtrain.cam import stretch
from camtrain.cam.distribution import is_dead
from camtrain.data.blur import blur
from camtrain.metrics import faithfulness, quadrature

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

    def probability(self, images: Tensor, of: Tensor | None = None) -> Tensor:
        classes = torch.tensor(self.classes)[torch.arange(COUNT) if of is None else of]
        with torch.no_grad():
            return self.model(images).softmax(1).gather(1, classes[:, None])[:, 0]

    def confidence(self) -> faithfulness.Confidence:
        shown = faithfulness.shown(self.maps, (SIZE, SIZE))
        left = self.probability(self.images * shown[:, None])
        return faithfulness.confidence(self.probability(self.images), left, self.maps)

    def areas(self, tolerance: float = quadrature.TOLERANCE) -> faithfulness.Areas:
        return areas(self.images, self.maps, self.probability, tolerance)


def areas(
    images: Tensor, maps: Tensor, probability: faithfulness.Probability, tolerance: float = quadrature.TOLERANCE
) -> faithfulness.Areas:
    """Of one map for each image, (maps,) each."""
    order = stretch.rank(stretch.upsample(maps, (images.shape[2], images.shape[3])))[None]
    known = faithfulness.ends(images, probability)
    found = faithfulness.curve_areas(images, order, ~is_dead(maps)[None], probability, known, tolerance)
    return faithfulness.Areas(*(area[0] for area in found))


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


def test_a_dead_map_shows_nothing() -> None:
    maps = torch.full((2, 7, 7), -1.0)
    maps[:, 3, 3] = torch.tensor([1e-3, 1.0])
    dead, alive = faithfulness.shown(maps, (28, 28))
    assert (dead.max(), alive.max()) == (0, 1)
    (found,) = faithfulness.adcc(maps[1:], maps[:1], torch.zeros(1), (28, 28), None).coherency
    assert found == 0, "nothing is left of the map"


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
    maps = torch.rand(COUNT, SIZE, SIZE, generator=torch.Generator().manual_seed(3))  # no two pixels are equal
    metric = DeletionInsertionMetric(
        Given(case.model, maps),
        partial(torch.softmax, dim=-1),
        steps=64,
        baseline=blur if blurred else None,
    )
    metric.update(case.images, case.classes)
    found = areas(case.images, maps, case.probability, tolerance=-1)
    area, theirs = (found.insertion, metric.insertion) if blurred else (found.deletion, metric.deletion)
    assert area.sum().item() == pytest.approx(theirs, abs=1e-5)
    adaptive = areas(case.images, maps, case.probability)
    torch.testing.assert_close(adaptive.insertion if blurred else adaptive.deletion, area, atol=0.01, rtol=0)


def test_a_map_of_what_decides_is_deleted_at_once() -> None:
    # The probability is the share of the object, a quarter of the image, that still shows.
    images = torch.zeros(2, 3, 16, 16)
    images[:, :, :8, :8] = 1
    maps = torch.zeros(2, 2, 2)
    maps[0, 0, 0] = maps[1, 1, 1] = 1  # on the object, and far from it

    def probability(changed: Tensor, _of: Tensor | None = None) -> Tensor:
        return (changed[:, 0, :8, :8] == 1).float().mean((1, 2))

    found = areas(images, maps, probability)
    # The order of a tent over the object's quarter also takes some pixels beside it.
    good, bad = found.deletion.tolist()
    assert good == pytest.approx(1 / 8, abs=0.05)
    assert bad > 0.5
    good, bad = found.insertion.tolist()
    assert bad < 0.85 < good  # of the blurred object three quarters are as they were


def test_dead_maps_have_no_faithfulness() -> None:
    case = Case()
    case.maps[2] = -1
    for value in (*case.confidence(), *case.areas()):
        assert value.isnan().tolist() == [number == 2 for number in range(COUNT)]
    terms = faithfulness.adcc(case.maps, case.maps, case.confidence().drop, (SIZE, SIZE), None)
    assert terms.adcc.isnan().tolist() == [number == 2 for number in range(COUNT)]


def several_orders(count: int, size: int) -> Tensor:
    """(5, count, size, size), the last the same as the first."""
    drawn = torch.rand(4, count, size, size, generator=torch.Generator().manual_seed(4))
    orders = torch.stack([stretch.rank(part) for part in drawn])
    return torch.cat([orders, orders[:1]])


def test_nothing_is_computed_twice_or_for_nothing() -> None:
    case, rows = Case(), []

    def counting(images: Tensor, of: Tensor | None = None) -> Tensor:
        rows.extend(range(COUNT) if of is None else of.tolist())
        return case.probability(images, of)

    orders = several_orders(COUNT, SIZE)
    wanted = torch.ones(5, COUNT, dtype=torch.bool)
    wanted[0, 1] = wanted[:, 2] = False
    known = faithfulness.ends(case.images, case.probability, torch.full((COUNT,), 0.25))
    assert known.whole.tolist() == [0.25] * COUNT
    found = faithfulness.curve_areas(case.images, orders, wanted, counting, known, tolerance=9)
    # Four orders of each map, the last one of image 1 because its first is not wanted.
    assert [rows.count(number) for number in range(COUNT)] == [
        0 if number == 2 else 2 * 4 * 3 for number in range(COUNT)
    ]
    for area in found:
        assert torch.equal(area.isnan(), ~wanted)
        assert torch.equal(area[0, [0, 3, 4, 5]], area[4, [0, 3, 4, 5]])


def test_the_size_of_the_chunks_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    case, orders = Case(), several_orders(COUNT, SIZE)
    known, wanted = faithfulness.ends(case.images, case.probability), torch.ones(5, COUNT, dtype=torch.bool)
    whole = faithfulness.curve_areas(case.images, orders, wanted, case.probability, known)
    monkeypatch.setattr(faithfulness, "CHUNK", 5 * SIZE * SIZE)
    parts = faithfulness.curve_areas(case.images, orders, wanted, case.probability, known)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_network_that_counts_pixels_has_equal_curves_in_every_order() -> None:
    """Raw areas are those of its sensitivity; what one order has over another is nothing."""
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2)) + 1
    blurred = blur(images)

    def of_share(images: Tensor, of: Tensor | None = None) -> Tensor:
        rows = torch.arange(3) if of is None else of
        kept = (images == whole[rows]).all(1).double().mean((1, 2))
        return kept**4

    whole = images
    assert not bool((blurred == images).any())
    known = faithfulness.ends(images, of_share)
    orders, wanted = several_orders(3, 16), torch.ones(5, 3, dtype=torch.bool)
    found = faithfulness.curve_areas(images, orders, wanted, of_share, known)
    contrast = found.contrast(faithfulness.Falls.of([known]))
    assert 0.15 < found.insertion.min() <= found.insertion.max() < 0.25
    torch.testing.assert_close(contrast - contrast[:1], torch.zeros_like(contrast), atol=1e-12, rtol=0)


def test_curves_are_in_units_of_the_mean_fall() -> None:
    """Of all images: an image whose probability hardly falls counts like the others."""
    first = faithfulness.Ends(*torch.tensor([[0.9, 0.51], [0.1, 0.5], [0.2, 0.5]]))
    other = faithfulness.Ends(*torch.tensor([[0.7], [0.0], [0.1]]))
    falls = faithfulness.Falls.of([first, other])
    assert falls == pytest.approx(((0.7 + 0.01 + 0.6) / 3, (0.8 + 0.01 + 0.7) / 3))
    some = faithfulness.Areas(torch.full((1, 2), 0.3), torch.tensor([[0.4, 0.5]]))
    assert some.contrast(falls)[0].tolist() == pytest.approx(
        [0.4 / falls.blurred - 0.3 / falls.mean, 0.5 / falls.blurred - 0.3 / falls.mean]
    )
    still = faithfulness.Falls.of([faithfulness.Ends(*torch.tensor([[0.52], [0.4], [0.5]]))])
    assert math.isnan(still.blurred)
    assert still.mean == pytest.approx(0.12)


def test_blocks_are_square_and_in_the_order_that_is_drawn() -> None:
    edge, rows, columns = faithfulness.block_counts(20, 32)
    assert (edge, rows, columns) == (2, 10, 16)
    assert faithfulness.block_counts(224, 224) == (28, 8, 8)
    assert faithfulness.block_counts(5, 5) == (1, 5, 5)
    drawn = torch.randperm(rows * columns)
    made = faithfulness.blocks(20, 32, drawn)
    assert made.shape == (20, 32)
    assert torch.equal(made[::2, ::2].flatten(), drawn)
    assert torch.equal(made[1::2, 1::2], made[::2, ::2])


@pytest.mark.parametrize("seed", range(3))
def test_adcc_is_the_formula(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps, others = torch.rand(2, 1, 3, 3, generator=generator)
    size, drop = (3, 3), torch.rand(1, generator=generator)
    found = faithfulness.adcc(maps, others, drop, size, None)
    mask, other = (part[0].double().numpy() / float(part.max()) for part in (maps, others))
    coherency = (1 + stats.pearsonr(mask.ravel(), other.ravel()).statistic) / 2
    complexity = np.abs(mask).sum() / mask.size
    adcc = stats.hmean([coherency, 1 - complexity, 1 - float(drop)])
    assert [float(value) for value in found] == pytest.approx([coherency, complexity, adcc], abs=1e-6)


def test_adcc_by_hand() -> None:
    maps = torch.tensor([[[2.0, 0], [0, 0]]] * 4 + [[[1, 1], [1, 1]]])
    others = torch.tensor(
        [[[1.0, 0], [0, 0]], [[0, 1.0], [1, 1]], [[-1.0, -1], [-1, -1]], [[3.0, 0], [0, 0]], [[1, 0.0], [0, 0]]]
    )
    drop = torch.tensor([0.5, 0, 0, 1, 0])
    found = faithfulness.adcc(maps, others, drop, (2, 2), None)
    # The same map; its opposite; a dead one; all confidence lost; a level map, which shows everything.
    assert found.coherency.tolist() == pytest.approx([1, 0, 0, 1, 0], abs=1e-6)
    assert found.complexity.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 1])
    assert found.adcc.tolist() == pytest.approx([3 / (1 + 4 / 3 + 2), 0, 0, 0, 0], abs=1e-5)


def test_blur_at_64_is_the_published_kernel() -> None:
    # RISE: scipy's Gaussian filter of deviation 5 of a kernel of 11 x 11 pixels that holds 1 in its middle.
    middle = np.zeros((11, 11))
    middle[5, 5] = 1
    published = ndimage.gaussian_filter(middle, 5)
    point = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    point[0, 0, 30, 30] = 1
    blurred = blur(point)[0, 0]
    kernel = blurred[25:36, 25:36]
    assert (blurred > 0).sum() == 121
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel.shape == published.shape
    np.testing.assert_allclose(kernel, published)


@pytest.mark.parametrize(("side", "pixels"), [(8, 3), (32, 5), (64, 11), (192, 33), (224, 39)])
def test_blur_is_scaled_to_the_shorter_side(side: int, pixels: int) -> None:
    point = torch.zeros(1, 1, side, side + 10)
    point[0, 0, side // 2, side // 2] = 1
    assert int((blur(point)[0, 0, side // 2] > 0).sum()) == pixels


def test_blur_keeps_what_is_flat_and_is_separable() -> None:
    flat = torch.full((1, 3, 20, 24), 0.7)
    torch.testing.assert_close(blur(flat), flat)
    point = torch.zeros(1, 1, 101, 101)
    point[0, 0, 50, 50] = 1
    blurred = blur(point)[0, 0]
    assert blurred.sum().item() == pytest.approx(1)
    torch.testing.assert_close(blurred, blurred.mT)
    assert torch.linalg.matrix_rank(blurred) == 1
