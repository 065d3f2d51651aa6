"""Remove and debias against an exact sparse solution, grad-cam, and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import (  # type: ignore[import-untyped]
    NoisyLinearImputer,
    ROADCombined,
    ROADLeastRelevantFirst,
    ROADMostRelevantFirst,
    neighbors_weights,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget  # type: ignore[import-untyped]
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from camtrain.cam import stretch
from camtrain.metrics import road

COUNT, SIZE = 6, 32

beside_grad_cam = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
"""It calls numpy on tensors in a way that newer numpy warns of."""


def noise_images(count: int, height: int, width: int) -> Tensor:
    """Smooth ones, with some noise, of unit spread."""
    generator = torch.Generator().manual_seed(count + height + width)
    coarse = torch.randn(count, 3, 5, 5, generator=generator).relu()
    fine = torch.randn(count, 3, height, width, generator=generator)
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic") + 0.3 * fine


def exact(image: Tensor, removed: Tensor) -> Tensor:
    """Solution of the stated system in double precision; (3, height, width) of an image and (height, width)."""
    values, holes = image.double().numpy(), removed.numpy()
    height, width = holes.shape
    number = np.full(holes.shape, -1)
    number[holes] = np.arange(holes.sum())
    right = np.zeros((holes.sum(), 3))
    entries = []
    for (row, column), own in np.ndenumerate(number):
        if own < 0:
            continue
        for down in (-1, 0, 1):
            for along in (-1, 0, 1):
                other_row, other_column = row + down, column + along
                inside = 0 <= other_row < height and 0 <= other_column < width
                if not inside or (down == 0 and along == 0):
                    continue
                weight = 1 / 12 if down and along else 1 / 6
                entries.append((own, own, weight))
                if holes[other_row, other_column]:
                    entries.append((own, number[other_row, other_column], -weight))
                else:
                    right[own] += weight * values[:, other_row, other_column]
    rows, columns, weights = (np.array(part) for part in zip(*entries, strict=True))
    matrix = coo_array((weights, (rows.astype(np.int32), columns.astype(np.int32))), shape=(len(right), len(right)))
    solution = values.copy()
    solution[:, holes] = spsolve(matrix.tocsc(), right).reshape(-1, 3).T
    return torch.from_numpy(solution)


def holes(height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    down, along = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    chance = torch.rand(height, width, generator=generator)
    isolated = (down % 3 == 1) & (along % 3 == 1)
    corners = ((down < 3) | (down >= height - 2)) & ((along < 2) | (along >= width - 4))
    return {
        "isolated": isolated,
        "one corner": (down == 0) & (along == 0),
        "corners": corners,
        "edges": (down == 0) | (along == width - 1),
        "block": (down > 3) & (down < height - 4) & (along > 3) & (along < width - 6),
        "block at an edge": (down < 3 * height // 4) & (along > 5) & (along < width - 5),
        "half, at random": chance < 0.5,
        "nearly all, at random": chance < 0.95,
        "all but a corner": (down > 0) | (along > 0),
        "stripes": along % 4 < 3,
        "block, and pixels around": ((down > 10) & (along < 15)) | (chance < 0.2),
    }


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 27), (20, 45)])
def test_filling_solves_the_system(height: int, width: int) -> None:
    cases = holes(height, width)
    removed = torch.stack(list(cases.values()))
    images = noise_images(len(removed), height, width)
    found = road.impute(images, removed)
    assert found.dtype == images.dtype
    for name, image, hole, filled in zip(cases, images, removed, found, strict=True):
        assert (filled - exact(image, hole)).abs().max() < 1e-3, name


def test_a_large_hole_is_filled_closely_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    down, along = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    removed = ((down - 30) ** 2 + (along - 50) ** 2 < 44**2)[None]
    images = noise_images(1, 96, 96)
    monkeypatch.setattr(road, "ITERATIONS", 40)
    error = road.impute(images, removed)[0] - exact(images[0], removed[0])
    assert error.abs().max() < 1e-3
    # As exact as is asked for, down to what the precision leaves.
    closely = road.impute(images.double(), removed, tolerance=1e-8)[0] - exact(images[0], removed[0])
    assert closely.abs().max() < 1e-7


@beside_grad_cam
def test_filling_equals_grad_cam() -> None:
    removed = torch.stack([*holes(32, 32).values(), *(torch.full((32, 32), all_) for all_ in (False, True))])
    images = noise_images(len(removed), 32, 32)
    found = road.impute(images, removed)
    imputer = NoisyLinearImputer(noise=0)
    for image, hole, filled in zip(images, removed, found, strict=True):
        torch.testing.assert_close(filled, imputer(image, (~hole).float()), atol=1e-3, rtol=0)


def test_known_pixels_are_untouched() -> None:
    removed = torch.stack(list(holes(32, 32).values()))
    images = noise_images(len(removed), 32, 32)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    known = (~removed)[:, None].expand_as(images)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        given = images.to(dtype)
        found = road.impute(given, removed, noise)
        assert found.dtype == dtype
        assert torch.equal(found[known], given[known])
    torch.testing.assert_close(
        road.impute(images, removed, noise) - road.impute(images, removed),
        torch.where(known, 0, road.NOISE * noise),
        atol=1e-6,
        rtol=0,
    )


def test_nothing_and_everything_removed() -> None:
    # Beside an image with an ordinary hole, so that the solver goes on for it.
    images = noise_images(3, 16, 16)
    removed = torch.zeros(3, 16, 16, dtype=torch.bool)
    removed[1] = True
    removed[2, 4:12, 4:12] = True
    noise = torch.ones_like(images)
    found = road.impute(images, removed)
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], torch.zeros_like(images[1]))
    assert (found[2] - exact(images[2], removed[2])).abs().max() < 1e-3
    assert torch.equal(road.impute(images, removed, noise)[0], images[0])
    torch.testing.assert_close(road.impute(images, removed, noise)[1], road.NOISE * noise[1])
    assert road.impute(images[:0], removed[:0]).shape == (0, 3, 16, 16)


def test_a_ramp_is_filled_by_a_ramp() -> None:
    # The mean of a pixel's neighbours is that of a plane, and at an edge if the plane is level across it.
    slopes = torch.tensor([[0.1, 0.0], [0.0, -0.07], [0.05, 0.03]])
    down, along = torch.meshgrid(torch.arange(24.0), torch.arange(30.0), indexing="ij")
    images = (slopes[:, 0, None, None] * down + slopes[:, 1, None, None] * along)[None]
    inner = torch.zeros(1, 24, 30, dtype=torch.bool)
    inner[:, 2:20, 5:28] = True
    torch.testing.assert_close(road.impute(images, inner), images, atol=1e-3, rtol=0)
    across = torch.zeros(1, 24, 30, dtype=torch.bool)
    across[:, 8:20] = True
    filled = road.impute(images, across)
    torch.testing.assert_close(filled[:, 0], images[:, 0], atol=1e-3, rtol=0)
    assert (filled[:, 1] - images[:, 1]).abs().max() > 0.1
    # One pixel in a corner: its three neighbours alone, weights 1/6, 1/6 and 1/12.
    corner = torch.zeros(1, 24, 30, dtype=torch.bool)
    corner[:, 0, 0] = True
    assert road.impute(images, corner)[0, :, 0, 0].tolist() == pytest.approx((slopes.sum(1) * 0.6).tolist(), abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (2, 3), (5, 1)])
def test_narrow_images(height: int, width: int) -> None:
    images = noise_images(1, height, width)
    removed = torch.ones(1, height, width, dtype=torch.bool)
    removed[:, 0, -1] = height * width == 1
    expected = torch.zeros_like(images) if removed.all() else images[:, :, :1, -1:].expand_as(images)
    torch.testing.assert_close(road.impute(images, removed), expected, atol=1e-3, rtol=0)


def test_coarser_grids_are_corrected_symmetrically() -> None:
    # Otherwise conjugate gradients would not converge.
    generator = torch.Generator().manual_seed(0)
    for height, width in ((8, 8), (9, 6), (7, 13)):
        removed = torch.ones(1, 1, height, width, dtype=torch.bool)
        removed[..., :2, 1] = False
        grids = road._coarser(removed, torch.float64)
        assert grids
        units = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width) * removed
        matrix = road._precondition(units, grids).flatten(1)
        torch.testing.assert_close(matrix, matrix.mT)
        assert matrix[:, ~removed.flatten()].abs().max() == 0
        fine = torch.randn(1, 1, height, width, generator=generator)
        coarse = torch.randn(1, 1, -(-height // 2), -(-width // 2), generator=generator)
        stretched, shrunk = road._prolong(coarse, height, width), road._restrict(fine)
        torch.testing.assert_close((stretched * fine).sum(), (coarse * shrunk).sum())


class Case:
    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * SIZE * SIZE, 4)
            self.model = nn.Sequential(*layers).eval()
        self.images = noise_images(COUNT, SIZE, SIZE)
        # Maps as large as the images with no two values equal, not even subtracted from 1, as grad-cam does.
        generator = torch.Generator().manual_seed(1)
        stretched = stretch.upsample(torch.rand(COUNT, 4, 4, generator=generator), (SIZE, SIZE))
        stretched = stretched + 0.05 * torch.rand(COUNT, SIZE, SIZE, generator=generator)
        rank = stretched.flatten(1).argsort(1).argsort(1).reshape(COUNT, SIZE, SIZE)
        self.maps = (rank + 1) / SIZE**2
        self.classes = [0, 1, 2, 3, 0, 1]
        self.targets = [ClassifierOutputSoftmaxTarget(number) for number in self.classes]

    def probability(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.model(images).softmax(1)[torch.arange(COUNT), torch.tensor(self.classes)]
        return found


@pytest.fixture
def _without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, neighbors_weights))


@beside_grad_cam
@pytest.mark.usefixtures("_without_noise")
def test_road_equals_grad_cam() -> None:
    case = Case()
    metric = ROADCombined(list(road.PERCENTILES))
    expected = metric(case.images, case.maps.numpy(), case.targets, case.model)
    found = road.road(case.images, case.maps, case.probability)
    assert found.shape == (COUNT,)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=2e-4)


@beside_grad_cam
@pytest.mark.usefixtures("_without_noise")
@pytest.mark.parametrize("percentile", [5, 20, 50, 77, 90])
def test_images_of_both_orders_equal_grad_cam(percentile: int) -> None:
    case, seen = Case(), []

    def probability(images: Tensor) -> Tensor:
        seen.append(images)
        return case.probability(images)

    road.road(case.images, case.maps, probability, percentiles=[percentile])
    for metric, found in zip((ROADLeastRelevantFirst, ROADMostRelevantFirst), seen, strict=True):
        arguments = case.images, case.maps.numpy(), case.targets, case.model
        _, expected = metric(percentile)(*arguments, return_visualization=True)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_same_number_of_pixels_goes_where_the_map_is_flat() -> None:
    images = torch.ones(3, 3, 10, 10)
    maps = torch.zeros(3, 10, 10)
    maps[0, 4, 4] = 1  # flat elsewhere
    maps[1] = 1
    maps[2] = torch.arange(100.0).reshape(10, 10)
    gone = []

    def probability(filled: Tensor) -> Tensor:
        gone.append((filled[:, 0] != 1).sum((1, 2)).tolist())
        return filled[:, 0].mean((1, 2))

    road.road(images, maps, probability, torch.ones_like(images))
    assert gone == [[share] * 3 for share in (80, 80, 60, 60, 40, 40, 20, 20)]


def test_a_map_of_what_decides_scores_above_one_that_is_off_it() -> None:
    # The probability is how much of the object's brightness, a quarter of the image, is still there.
    images = torch.zeros(2, 3, 16, 16)
    images[:, :, 4:12, 4:12] = 1
    maps = torch.zeros(2, 4, 4)
    maps[0, 1:3, 1:3] = 1
    maps[1] = 1 - maps[0]

    def probability(changed: Tensor) -> Tensor:
        return changed[:, 0, 4:12, 4:12].mean((1, 2)).clamp(0, 1)

    good, bad = road.road(images, maps, probability).tolist()
    assert -0.5 <= bad < -0.2
    assert 0.2 < good <= 0.5


def test_noise_is_used() -> None:
    case = Case()
    noise = torch.randn(case.images.shape, generator=torch.Generator().manual_seed(0))
    without, with_noise = (road.road(case.images, case.maps, case.probability, draws) for draws in (None, noise))
    assert 0 < (without - with_noise).abs().max() < 0.05


def test_dead_maps_have_no_road() -> None:
    case = Case()
    case.maps[2] = -1
    found = road.road(case.images, case.maps, case.probability, percentiles=[50])
    assert found.isnan().tolist() == [number == 2 for number in range(COUNT)]
