"""Localisation against hand-made maps, OpenCV's components threshold by threshold, scikit-learn, and properties."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from camtrain.metrics import localisation
from camtrain.metrics.localisation import LEVELS, THRESHOLDS
from camtrain.regions import has_object

Box = tuple[int, int, int, int]


def image(height: int, width: int, *boxes: tuple[slice, slice, float]) -> Tensor:
    """One map or region of the image's size, so that stretching leaves it as it is."""
    values = torch.zeros(1, height, width)
    for rows, columns, value in boxes:
        values[0, rows, columns] = value
    return values


def shape(values: Tensor) -> Tensor:
    return values.to(torch.uint8)


def random_maps(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_maps(seed: int, number: int, height: int, width: int) -> Tensor:
    """A few blobs each."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.arange(height) / height, torch.arange(width) / width
    centre = torch.rand(2, number, 3, 1, 1, generator=draw)
    spread = 0.05 + 0.2 * torch.rand(number, 3, 1, 1, generator=draw)
    distance = (y[:, None] - centre[0]).square() + (x - centre[1]).square()
    return (-distance / (2 * spread.square())).exp().sum(1)


def random_regions(seed: int, number: int, height: int, width: int) -> Tensor:
    """Rectangles of objects, the last ones void, that may touch or cover each other."""
    draw = np.random.default_rng(seed)
    region = np.zeros((number, height, width), dtype=np.uint8)
    for one in region:
        for value in (1, 2, 1, 3, 255, 255):
            top, left = draw.integers(height - 3), draw.integers(width - 3)
            tall, wide = draw.integers(1, height // 2), draw.integers(1, width // 2)
            one[top : top + tall, left : left + wide] = value
    return torch.from_numpy(region)


# By definition: one threshold, one component, one pair of boxes at a time.


def slow_boxes(mask: NDArray[np.bool_]) -> list[Box]:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [(y, x, y + tall, x + wide) for x, y, wide, tall, _ in stats[1:].tolist()]


def slow_iou(a: Box, b: Box) -> float:
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def masks_of(one: Tensor) -> list[NDArray[np.bool_]]:
    return [(one > step / THRESHOLDS).numpy() for step in range(THRESHOLDS)]


def slow_box_overlap(maps: Tensor, region: Tensor) -> Tensor:
    marks = localisation.scaled(maps, (region.shape[1], region.shape[2]))
    curves = []
    for one, known in zip(marks, region.numpy(), strict=True):
        truth = slow_boxes((known > 0) & (known != 255))
        found = [[slow_iou(a, b) for a in slow_boxes(mask) for b in truth] for mask in masks_of(one)]
        curves.append([max(pairs, default=0.0) if truth else math.nan for pairs in found])
    return torch.tensor(curves, dtype=marks.dtype)


def slow_overlap(maps: Tensor, region: Tensor) -> Tensor:
    marks = localisation.scaled(maps, (region.shape[1], region.shape[2]))
    curves = []
    for one, values in zip(marks, region.numpy(), strict=True):
        known = values != 255
        inside = (values > 0) & known
        pairs = [((mask & inside).sum(), ((mask & known) | inside).sum()) for mask in masks_of(one)]
        curves.append([float(common / union) if inside.any() else math.nan for common, union in pairs])
    return torch.tensor(curves, dtype=marks.dtype)


def test_scaled_by_hand() -> None:
    maps = torch.tensor([[[-5.0, 2.0], [4.0, 6.0]], [[2.0, 3.0], [4.0, 6.0]]])
    expected = torch.tensor([[[0, 2 / 6], [4 / 6, 1]], [[0, 0.25], [0.5, 1]]])
    torch.testing.assert_close(localisation.scaled(maps, (2, 2)), expected)
    stretched = localisation.scaled(maps, (7, 5))
    assert stretched.shape == (2, 7, 5)
    assert stretched.amin((1, 2)).tolist() == [0, 0]
    assert stretched.amax((1, 2)).tolist() == [1, 1]
    half = maps.to(torch.float16)
    assert localisation.scaled(half, (7, 5)).dtype == torch.float32


@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3, 3e5, 1e-9])
def test_a_constant_map_marks_the_whole_image(value: float) -> None:
    maps = torch.full((1, 7, 7), value)
    assert (localisation.scaled(maps, (61, 45)) == 1).all()  # though stretching rounds
    region = shape(image(60, 40, (slice(10, 40), slice(0, 20), 1)))
    assert localisation.overlap(maps, region).tolist() == [[0.25] * THRESHOLDS]
    assert localisation.box_overlap(maps, region).tolist() == [[0.25] * THRESHOLDS]


def test_maps_that_mark_nothing() -> None:
    maps = torch.zeros(4, 8, 8)
    maps[0] = -1.0
    maps[1, 3, 3] = torch.nan
    maps[2, 3, 3] = torch.inf
    maps[3, 0, 0] = 1.0  # missed where an image smaller than the map is sampled
    assert (localisation.scaled(maps, (2, 2)) == 0).all()
    region = torch.ones(4, 2, 2, dtype=torch.uint8)
    for curve in (localisation.overlap, localisation.box_overlap):
        assert (curve(maps, region) == 0).all()


def test_no_object_and_no_maps() -> None:
    maps = torch.rand(3, 4, 4)
    region = torch.zeros(3, 8, 8, dtype=torch.uint8)
    region[0, 2:4, 2:4] = 1
    region[1, 2:4] = 255  # only void
    for curve in (localisation.overlap, localisation.box_overlap):
        assert curve(maps, region).isnan().all(1).tolist() == [False, True, True]
        assert curve(maps, region)[0].isfinite().all()
        assert curve(maps[:0], region[:0]).shape == (0, THRESHOLDS)
    assert localisation.size_share(region).isnan().tolist() == [False, True, True]
    assert localisation.size_share(region[:0]).shape == (0,)
    assert localisation.pixel_counts(maps, region).sum() == 64
    assert localisation.pixel_counts(maps[:0], region[:0]).tolist() == [[0] * 1000] * 2


def test_overlap_by_hand() -> None:
    #  s: 1.0 on 2 pixels (1 of the object), 0.5 on 2 more (1 of the object, 1 void), else 0. Object: 4 pixels.
    maps = torch.tensor([[[2.0, 1.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]]])
    region = torch.tensor([[[1, 1, 2, 1], [0, 255, 0, 0]]], dtype=torch.uint8)
    curve = localisation.overlap(maps, region)
    assert curve.shape == (1, THRESHOLDS)
    assert curve[0, :50].tolist() == [pytest.approx(2 / 5)] * 50  # 0.5 > 0.49
    assert curve[0, 50:].tolist() == [pytest.approx(1 / 5)] * 50  # but not > 0.5


def test_one_box_by_hand() -> None:
    # A box of 4 x 4 at 1 within one of 4 x 8 at 0.3; the object is 4 x 6.
    maps = image(10, 12, (slice(2, 6), slice(2, 10), 0.3), (slice(2, 6), slice(2, 6), 1))
    region = shape(image(10, 12, (slice(2, 6), slice(2, 8), 1)))
    curve = localisation.box_overlap(maps, region)[0]
    assert curve.tolist() == [pytest.approx(24 / 32)] * 30 + [pytest.approx(16 / 24)] * 70


def test_the_best_of_several_components_and_objects() -> None:
    # Three components: far off, half of the first object, exactly the second object, which only shows below 0.6.
    maps = image(
        12, 12, (slice(0, 1), slice(11, 12), 1), (slice(0, 4), slice(0, 2), 0.8), (slice(6, 12), slice(6, 12), 0.6)
    )
    region = shape(image(12, 12, (slice(0, 4), slice(0, 4), 3), (slice(6, 12), slice(6, 12), 1)))
    curve = localisation.box_overlap(maps, region)[0]
    assert curve.tolist() == [1.0] * 60 + [0.5] * 20 + [0.0] * 20


def test_a_hole_is_no_component() -> None:
    # A ring of 6 x 6 around the object of 4 x 4. OpenCV's list of outlines would have a box around the hole.
    maps = image(8, 8, (slice(1, 7), slice(1, 7), 1), (slice(2, 6), slice(2, 6), 0))
    region = shape(image(8, 8, (slice(2, 6), slice(2, 6), 1)))
    assert localisation.box_overlap(maps, region).tolist() == [[pytest.approx(16 / 36)] * THRESHOLDS]
    # And the other way round: an object with a hole has one box.
    assert localisation.box_overlap(region.float(), shape(maps)).tolist() == [[pytest.approx(16 / 36)] * THRESHOLDS]


@pytest.mark.parametrize("mirrored", [False, True])
def test_pixels_that_touch_at_a_corner_are_connected(mirrored: bool) -> None:
    diagonal = torch.eye(4)[None].flip(2) if mirrored else torch.eye(4)[None]
    square = torch.ones(1, 4, 4, dtype=torch.uint8)
    assert localisation.box_overlap(diagonal, square).tolist() == [[1.0] * THRESHOLDS]
    assert localisation.box_overlap(torch.ones(1, 4, 4), shape(diagonal)).tolist() == [[1.0] * THRESHOLDS]
    apart = torch.tensor([[[1, 0, 1, 0]]], dtype=torch.uint8)
    assert localisation.box_overlap(torch.ones(1, 1, 4), apart).tolist() == [[0.25] * THRESHOLDS]


def test_objects_that_touch_are_one_and_void_is_none() -> None:
    maps = image(4, 8, (slice(0, 4), slice(0, 4), 1))
    region = shape(image(4, 8, (slice(0, 4), slice(0, 4), 1), (slice(0, 4), slice(4, 8), 2)))
    assert localisation.box_overlap(maps, region)[0, 0] == 0.5
    # Void between them takes nothing off the map's box, and joins nothing.
    region[0, :, 3:5] = 255
    assert localisation.box_overlap(maps, region)[0, 0] == 0.75


@pytest.mark.parametrize("size", [(24, 24), (33, 20), (17, 31)])
@pytest.mark.parametrize("kind", ["random", "smooth", "plateaus", "pixels"])
def test_curves_are_those_of_one_threshold_at_a_time(kind: str, size: tuple[int, int]) -> None:
    number = 3
    maps = {
        "random": random_maps(1, number, 6, 5),
        "smooth": smooth_maps(2, number, 9, 9),
        "plateaus": random_maps(3, number, 7, 7).mul(2).round(),
        "pixels": random_maps(4, number, *size).abs(),
    }[kind]
    maps[2] = maps[2].clamp(max=maps[2].mean())  # one large plateau on top
    region = random_regions(5, number, *size)
    torch.testing.assert_close(localisation.overlap(maps, region), slow_overlap(maps, region))
    torch.testing.assert_close(localisation.box_overlap(maps, region), slow_box_overlap(maps, region))


def test_values_on_the_thresholds() -> None:
    # Float32 has no 0.29; it is to be compared as in masks > 0.29, or it would be above itself.
    values = torch.arange(101, dtype=torch.float32) / 100
    maps = values[None, None]
    region = torch.ones(1, 1, 101, dtype=torch.uint8)
    expected = torch.arange(100, 0, -1) / 101
    torch.testing.assert_close(localisation.overlap(maps, region), expected[None])
    torch.testing.assert_close(localisation.box_overlap(maps, region), expected[None])


def one_fold(curves: Tensor) -> Tensor:
    """All maps in one fold: the threshold is fitted on all."""
    return torch.zeros(len(curves), dtype=torch.int64)


def at_best(curves: Tensor) -> Tensor:
    return localisation.at_best(curves, one_fold(curves))


def box_accuracy(curves: Tensor) -> Tensor:
    return localisation.box_accuracy(curves, one_fold(curves))


def test_at_best_by_hand() -> None:
    nan = math.nan
    curves = torch.tensor([[0.1, 0.6, 0.9], [0.5, 0.6, 0.0], [nan, nan, nan]])
    torch.testing.assert_close(at_best(curves), torch.tensor([0.6, 0.6, nan]), equal_nan=True)
    assert at_best(torch.tensor([[0.2, 0.8], [0.8, 0.2]])).tolist() == pytest.approx([0.2, 0.8])
    assert at_best(torch.full((2, 5), nan)).isnan().tolist() == [True, True]
    assert at_best(torch.zeros(0, 5)).shape == (0,)


def test_each_fold_is_judged_at_what_is_best_on_the_other() -> None:
    nan = math.nan
    curves = torch.tensor([[0.1, 0.6, 0.9], [0.5, 0.6, 0.0], [0.8, 0.2, 0.3], [nan, nan, nan], [0.7, 0.7, 0.1]])
    # The first fold is best at the second threshold (1.2 of 2), the other at the first (1.5).
    found = localisation.at_best(curves, torch.tensor([0, 0, 1, 1, 1]))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.5, 0.2, nan, 0.7]), equal_nan=True)
    # The other fold has no object: all maps are taken, 2.1 of 4 at the first two thresholds, here 2.2 at the first.
    curves[0, 0] = 0.2
    found = localisation.at_best(curves, torch.tensor([0, 0, 0, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([0.2, 0.5, 0.8, nan, 0.7]), equal_nan=True)


def test_box_accuracy_by_hand() -> None:
    curves = torch.tensor([[0.3, 0.7, 0.0], [0.5, 0.2, 0.1], [0.0, 0.0, 0.0], [math.nan] * 3])
    # 0.3 is best at the first threshold (2 maps); 0.5 at the first two (1 map each), so the first; 0.7 at the second.
    expected = torch.tensor([2 / 3, 2 / 3, 0.0, math.nan])
    torch.testing.assert_close(box_accuracy(curves), expected, equal_nan=True)
    assert box_accuracy(curves[3:]).isnan().tolist() == [True]
    assert box_accuracy(curves[:0]).shape == (0,)
    # The first map at the best thresholds of the others: 0.3 and 0.5 at the first, 0.7 nowhere, and so at the first.
    # The others at those of the first map: 0.3 at the first, 0.5 and 0.7 at the second.
    folds = localisation.box_accuracy(curves, torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(folds, torch.tensor([1 / 3, 1 / 3, 0.0, math.nan]), equal_nan=True)


@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=30)
def test_box_accuracy_by_a_double_loop(seed: int, number: int, kind: torch.dtype) -> None:
    curves = torch.rand(number, 20, generator=torch.Generator().manual_seed(seed)).mul(10).round().div(10).to(kind)
    if number > 2:
        curves[1] = torch.nan
    known = curves[~curves.isnan().any(1)]
    best = []
    for level in LEVELS:
        shares = []
        for step in range(20):
            limit = torch.tensor(level, dtype=kind).item()
            shares.append(sum(value >= limit for value in known[:, step].tolist()) / len(known))
        best.append(max(shares))
    accuracy = box_accuracy(curves)
    assert accuracy.dtype == kind
    assert accuracy.nanmean().item() == pytest.approx(sum(best) / 3, abs=1e-6)
    assert torch.equal(accuracy.isnan(), curves.isnan().all(1))


def test_pixel_counts_by_hand() -> None:
    maps = torch.tensor([[[4.0, 1.0, 3.0], [0.0, 2.0, 2.0]], [[-1.0] * 3] * 2, [[1.0, 2.0, 3.0]] * 2])
    region = torch.tensor([[[1, 0, 255], [0, 2, 0]], [[1, 1, 0], [0, 0, 255]], [[0] * 3] * 2], dtype=torch.uint8)
    # First map: object at 1 and 0.5, background at 0.25, 0 and 0.5. Second: dead. Third: no object.
    counts = localisation.pixel_counts(maps, region, bins=4)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1 + 3, 1, 1, 0], [2, 0, 1, 1]]
    assert localisation.pixel_counts(maps, region).shape == (2, 1000)


@pytest.mark.parametrize("bins", [10, 1000])
def test_pixel_counts_are_histograms(bins: int) -> None:
    maps, region = random_maps(6, 4, 5, 5), random_regions(7, 4, 23, 30)
    marks = localisation.scaled(maps, (23, 30)).numpy()
    edges = np.append(np.arange(bins) / bins, 1.0)
    known = region.numpy()
    expected = [np.histogram(marks[mask], edges)[0] for mask in (known == 0, (known > 0) & (known < 255))]
    assert localisation.pixel_counts(maps, region, bins=bins).tolist() == np.stack(expected).tolist()


def wsol_area(counts: NDArray[np.int64]) -> float:
    """The definition of MaskEvaluator.compute: histograms with empty bins at the top, differences of recall."""
    empty = np.zeros(1, dtype=np.int64)
    background, inside = (np.concatenate([side, empty])[::-1].cumsum() for side in counts)
    recall = inside / inside[-1]
    some = (background + inside) > 0
    precision = np.zeros(len(recall))
    precision[some] = inside[some] / (background + inside)[some]
    return float((precision[1:] * np.diff(recall))[some[1:]].sum())


@given(st.integers(0, 2**31), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_pixel_average_precision_is_that_of_scikit_learn_and_of_wsol(seed: int, bins: int) -> None:
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 4, (2, bins)) * draw.integers(0, 2, (2, bins))
    counts[1, draw.integers(bins)] += 1
    value = localisation.pixel_average_precision(torch.from_numpy(counts))
    assert value.dtype == torch.float64
    assert value.shape == ()
    scores = np.concatenate([np.repeat(np.arange(bins), side) for side in counts])
    labels = np.repeat([0, 1], counts.sum(1))
    assert value.item() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert value.item() == pytest.approx(wsol_area(counts), abs=1e-12)


def test_pixel_average_precision_by_hand() -> None:
    counts = torch.tensor([[2, 0, 1, 0, 0], [0, 0, 1, 1, 0]])
    # Nothing at the top; then 1 of 1, half of the object; then 2 of 3, the other half.
    assert localisation.pixel_average_precision(counts).item() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert localisation.pixel_average_precision(torch.tensor([[3, 1], [0, 0]])).isnan()
    assert localisation.pixel_average_precision(torch.tensor([[3, 1], [2, 0]])).item() == pytest.approx(2 / 6)


def test_pooled_pixels() -> None:
    """From maps to PxAP, with scores that lie far from the edges of the bins."""
    maps = torch.randint(0, 8, (3, 9, 11), generator=torch.Generator().manual_seed(8)).float()
    maps[:, 0, 0], maps[:, 0, 1] = 0, 7
    region = random_regions(9, 3, 9, 11)
    known = (region != 255) & has_object(region)[:, None, None]
    value = localisation.pixel_average_precision(localisation.pixel_counts(maps, region))
    expected = average_precision_score((region > 0)[known].numpy(), maps[known].numpy())
    assert value.item() == pytest.approx(expected)


def test_size_share_by_hand() -> None:
    region = torch.tensor([[[1, 0, 255], [0, 2, 0]], [[255, 255, 255], [255, 255, 7]]], dtype=torch.uint8)
    torch.testing.assert_close(localisation.size_share(region), torch.tensor([2 / 5, 1.0]))


def test_trivial_maps() -> None:
    assert localisation.uniform(2, 3).tolist() == [[1.0] * 3] * 2
    gaussian = localisation.centred_gaussian(9, 17)
    assert gaussian.shape == (9, 17)
    assert gaussian[4, 8] == 1
    assert gaussian.argmax() == 4 * 17 + 8
    assert gaussian[0, 8].item() == pytest.approx(math.exp(-0.5 * (4 / (9 / 4)) ** 2))
    assert gaussian[4, 0].item() == pytest.approx(math.exp(-0.5 * (8 / (17 / 4)) ** 2))
    torch.testing.assert_close(gaussian, gaussian.flip(0))
    torch.testing.assert_close(gaussian, gaussian.flip(1))
    # The object in the middle is found; one in the corner is not.
    region = shape(image(40, 40, (slice(10, 30), slice(10, 30), 1)))
    away = shape(image(40, 40, (slice(0, 10), slice(0, 10), 1)))
    maps = localisation.centred_gaussian(8, 8)[None]
    assert localisation.box_overlap(maps, region).max() > 0.9
    assert localisation.box_overlap(maps, away).max() < 0.1


def clear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Thresholds that no pixel lies on but for rounding, (maps, THRESHOLDS): between two cells there are fractions."""
    marks = localisation.scaled(maps, size).flatten(1)[:, :, None]
    return ((marks - torch.arange(THRESHOLDS) / THRESHOLDS).abs() > 1e-6).all(1)


drawn = (st.integers(0, 2**31), st.sampled_from([(12, 12), (9, 20), (16, 7)]))


@given(*drawn, st.integers(-20, 20), st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=20)
def test_the_scale_of_a_map_does_not_matter(seed: int, size: tuple[int, int], power: int, scale: float) -> None:
    maps, region = random_maps(seed, 4, 4, 5), random_regions(seed, 4, *size)
    torch.testing.assert_close(localisation.scaled(maps * scale, size), localisation.scaled(maps, size))
    # By a power of two there is no rounding.
    assert torch.equal(localisation.pixel_counts(maps * 2.0**power, region), localisation.pixel_counts(maps, region))
    at = clear(maps, size)
    for curve in (localisation.overlap, localisation.box_overlap):
        values = curve(maps, region)
        assert torch.equal(curve(maps * 2.0**power, region).nan_to_num(-1), values.nan_to_num(-1))
        torch.testing.assert_close(curve(maps * scale, region)[at], values[at], equal_nan=True)
        torch.testing.assert_close(curve(maps.flip(2), region.flip(2))[at], values[at], equal_nan=True)
        turned = curve(maps.transpose(1, 2), region.transpose(1, 2))
        torch.testing.assert_close(turned[at], values[at], equal_nan=True)


@given(*drawn)
@settings(deadline=None, max_examples=20)
def test_ranges(seed: int, size: tuple[int, int]) -> None:
    maps, region = random_maps(seed, 4, 4, 5), random_regions(seed, 4, *size)
    maps[3] = -maps[3].abs()
    missing = ~has_object(region)
    everything = torch.ones(4, *size, dtype=torch.uint8)
    for curve in (localisation.overlap, localisation.box_overlap):
        values = curve(maps, region)
        assert torch.equal(values.isnan(), missing[:, None].expand_as(values))
        assert ((values >= 0) & (values <= 1))[~missing].all()
        assert (values[3].nan_to_num() == 0).all()
        best = at_best(values)
        assert torch.equal(best.isnan(), missing)
        if not missing.all():
            assert best.nanmean().item() == pytest.approx(values[~missing].mean(0).max().item())
        # A mask shrinks as the threshold rises: less of an object that is everywhere is covered.
        assert (curve(maps, everything).diff() <= 0).all()
    marks = localisation.scaled(maps, size)
    assert ((marks >= 0) & (marks <= 1)).all()
    accuracy = box_accuracy(localisation.box_overlap(maps, region))
    assert torch.equal(accuracy.isnan(), missing)
    assert ((accuracy >= 0) & (accuracy <= 1))[~missing].all()
    counts = localisation.pixel_counts(maps, region)
    assert counts.sum() == ((region != 255) & ~missing[:, None, None]).sum()
    precision = localisation.pixel_average_precision(counts)
    assert precision.isnan() if missing.all() else 0 < precision <= 1
    share = localisation.size_share(region)
    assert torch.equal(share.isnan(), missing)
    assert ((share > 0) & (share <= 1))[~missing].all()
    of_all = localisation.overlap(localisation.uniform(2, 2).expand(4, 2, 2), region)[:, 0]
    torch.testing.assert_close(of_all, share, equal_nan=True)
