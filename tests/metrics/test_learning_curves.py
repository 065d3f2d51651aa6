"""Curves over epochs, stability, and the correlation they are told by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from camtrain.cam import distribution, stretch
from camtrain.cam.stretch import Axis, Placement
from camtrain.metrics import learning_curves
from camtrain.metrics.classification import calibration_error, prediction_entropy
from camtrain.metrics.equivariance import Changed, changed, stability


def random_maps(count: int = 6, side: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed))


def test_correlation_is_that_of_numpy() -> None:
    first, second = random_maps(), random_maps(seed=1)
    expected = [np.corrcoef(a.relu().flatten(), b.relu().flatten())[0, 1] for a, b in zip(first, second, strict=True)]
    found = distribution.correlation(first, second)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    torch.testing.assert_close(distribution.correlation(first * 7, second * 1e-3), found)
    torch.testing.assert_close(distribution.correlation(first, first), torch.ones(6))


def test_dead_and_constant_maps_have_no_correlation() -> None:
    maps = random_maps(4)
    maps[0], maps[1] = -1, 0.3
    assert distribution.correlation(maps, random_maps(4, seed=2)).isnan().tolist() == [True, True, False, False]
    assert distribution.correlation(random_maps(4, seed=2), maps).isnan().tolist() == [True, True, False, False]


def test_similarities_of_epochs() -> None:
    first, second = random_maps(), random_maps(seed=1)
    before, final = learning_curves.similarities([learning_curves.keep(maps) for maps in (first, second, second * 3)])
    alike = float(distribution.correlation(first, second).double().mean())
    assert math.isnan(before[0])
    assert before[1:] == pytest.approx([alike, 1], abs=2e-3)
    assert final == pytest.approx([alike, 1, 1], abs=2e-3)
    assert len(learning_curves.keep(random_maps(learning_curves.KEPT + 5))) == learning_curves.KEPT


def test_settled_is_where_it_stays_above() -> None:
    assert learning_curves.settled([0.5, 0.95, 0.8, 0.92, 1.0]) == 4
    assert learning_curves.settled([0.95, 0.92, 1.0]) == 1
    assert learning_curves.settled([0.1, 0.2, 1.0]) == 3
    assert learning_curves.settled([math.nan, 0.95, 1.0]) == 2
    assert math.isnan(learning_curves.settled([0.5, math.nan]))
    assert math.isnan(learning_curves.settled([]))


def test_epochs_to_a_share_of_the_last_value() -> None:
    assert learning_curves.epochs_to([0.0, 0.5, 1.0]) == pytest.approx(2.8)
    assert learning_curves.epochs_to([0.95, 0.5, 1.0]) == 1
    assert learning_curves.epochs_to([0.2]) == 1
    assert learning_curves.epochs_to([0.2, 0.95, 0.3, 1.0]) == pytest.approx(1 + 0.7 / 0.75)
    assert math.isnan(learning_curves.epochs_to([]))
    assert learning_curves.mean_height([0.2, 0.4, 0.9]) == pytest.approx(0.5)


def test_course_belongs_to_the_epochs() -> None:
    kept = [learning_curves.keep(random_maps(seed=seed)) for seed in range(3)]
    rows = [{"accuracy/val": value} for value in (0.1, 0.5, 0.6)]
    found = learning_curves.course(rows, kept, "accuracy/val")
    assert [len(row) for row in found] == [2, 2, 5]
    assert found[-1]["settling/with_final"] == pytest.approx(1, abs=1e-5)
    assert found[-1]["effort/mean_performance"] == pytest.approx(0.4)


def test_a_network_that_follows_the_image_is_stable() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def follows(images: Tensor) -> Tensor:
        return images.mean(1)

    after = Changed(*map(follows, changed(images, (32, 32))))
    found = stability(follows(images), after, (32, 32))
    for value in found:
        torch.testing.assert_close(value, torch.ones(3))

    found = stability(follows(images), Changed(*[follows(images)] * 3), (32, 32))
    assert all(bool((value < 0.5).all()) for value in found)
    for dead in (-follows(images), 1e-6 - follows(images)):
        assert all(bool(value.isnan().all()) for value in stability(dead, after, (32, 32)))


def test_what_moves_out_of_sight_is_not_compared() -> None:
    maps = torch.zeros(5, 4, 4)
    maps[:2, 3, 3] = 1  # leaves the image
    maps[2:, 0, 0] = 1
    after = torch.zeros(5, 4, 4)
    after[0, 0, 0] = after[2, 0, 0] = 1  # in front of what was there
    after[3, 2, 2] = 1
    found = stability(maps, Changed(after, after, after), (32, 32))
    assert found.shift_far[[0, 1, 2]].isnan().all()
    assert found.shift_far[3] > 0
    assert found.shift_far[4] == 0, "killed"
    assert found.flip[1] == 0


def test_an_image_that_is_moved_out_of_itself_has_no_stability() -> None:
    rows, columns = Axis(0, 32, 65), Axis(0, 16, 33)
    maps = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    for placement in (Placement(rows, columns), Placement(columns, rows)):
        after = changed(torch.rand(3, 3, 40, 40), (2, 2), placement)
        assert {part.shape for part in after} == {(3, 3, 40, 40)}
        found = stability(maps, Changed(maps, maps, maps), (40, 40), placement)
        assert found.shift_far.isnan().all()
        assert found.shift.isfinite().all()


def test_rows_and_columns_move_by_their_own_strides() -> None:
    placement = Placement(Axis(1, 4, 9), Axis(2, 2, 3))
    images = torch.arange(12.0 * 9).reshape(1, 1, 12, 9)
    for down, right, image in zip((2, 6), (1, 3), changed(images, (3, 4), placement)[1:], strict=True):
        expected = images[0, 0, (torch.arange(12) - down).clamp_min(0)][:, (torch.arange(9) - right).clamp_min(0)]
        assert torch.equal(image[0, 0], expected)

    maps = torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    one, *after = [
        np.apply_along_axis(lambda cells: np.interp(np.arange(9), [2, 4, 6, 8], cells), 1, by_row)
        for cells in maps
        for by_row in [np.apply_along_axis(lambda cells: np.interp(np.arange(12), [1, 5, 9], cells), 0, cells)]
    ]
    expected = [
        np.corrcoef(before.ravel(), other.ravel())[0, 1]
        for before, other in (
            (one[:, ::-1], after[0]),
            (one[:10, :8], after[1][2:, 1:]),
            (one[:6, :6], after[2][6:, 3:]),
        )
    ]
    first, *others = torch.from_numpy(maps)[:, None]
    found = stability(first, Changed(*others), (12, 9), placement)
    assert torch.cat(found).tolist() == pytest.approx(expected)


def test_prediction_entropy_is_that_of_scipy() -> None:
    logits = random_maps(1, 8)[0] * 3
    expected = scipy.stats.entropy(logits.softmax(1).double().numpy(), axis=1)
    np.testing.assert_allclose(prediction_entropy(logits), expected, rtol=1e-5)


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.5, 0.5], dtype=torch.float64)
    right = torch.tensor([1.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    assert float(calibration_error(confidence, right)) == pytest.approx((4 * 0.2 + 2 * 0) / 6)
    assert float(calibration_error(torch.ones(4), torch.zeros(4))) == 1
    # A confidence on the edge of a bin belongs to the lower one, as published: (0, 1/15], (1/15, 2/15], ...
    edge = torch.tensor([2 / 3, 2 / 3 + 1e-6], dtype=torch.float64)
    assert float(calibration_error(edge, torch.tensor([1.0, 0.0]))) == pytest.approx(0.5, abs=1e-5)
    generator = np.random.default_rng(0)
    p = generator.uniform(0.2, 1, 20000)
    drawn = torch.from_numpy((generator.uniform(size=20000) < p).astype(float))
    assert float(calibration_error(torch.from_numpy(p), drawn)) < 0.02


def test_a_map_that_a_change_kills_has_nothing_in_common_with_the_one_before() -> None:
    maps = random_maps(3)
    after = maps.clone()
    after[1] = -1
    assert distribution.likeness(maps, after).tolist() == pytest.approx([1, 0, 1])
    assert distribution.likeness(after, maps).isnan().tolist() == [False, True, False]


def test_rank_is_descending_and_breaks_ties_in_one_random_order() -> None:
    assert stretch.rank(torch.tensor([[[0.2, 0.9], [0.3, 0.5]]])).tolist() == [[[3, 0], [2, 1]]]
    two = torch.zeros(2, 16, 16)
    two[1, 8:] = 1
    level, halves = stretch.rank(two)
    assert level.flatten().sort().values.tolist() == list(range(256))
    rows = torch.arange(256, dtype=torch.float64).reshape(16, 16)
    assert abs(float(torch.corrcoef(torch.stack([level.flatten(), rows.flatten()]))[0, 1])) < 0.2
    assert bool((halves[8:] < 128).all())
    assert bool((halves[:8] >= 128).all())
    # Within equal pixels the order is the same whatever the others are.
    assert torch.equal(halves[8:].flatten().argsort(), level[8:].flatten().argsort())
