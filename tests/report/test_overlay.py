"""Images of maps: one colour scale, dead maps dark, the outline around the object."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from camtrain.report.overlay import GAP, TILE, Drawn, View, density, strip

ARMS = ("baseline", "regularised")


def drawn(baseline: Tensor, regularised: Tensor) -> Drawn:
    region = torch.zeros(32, 32, dtype=torch.uint8)
    region[8:16, 8:16] = 1
    densities = dict(zip(ARMS, density(torch.stack([baseline, regularised])), strict=True))
    return Drawn(torch.full((3, 32, 32), 0.5), region, "disc", densities, {}, {}, {})


def tiles(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[:, start : start + TILE] for start in range(0, pixels.shape[1], TILE + GAP)]


def test_size_and_colour_of_equal_maps() -> None:
    maps = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    pixels = strip(drawn(maps, maps * 7))
    assert pixels.shape == (TILE, 3 * TILE + 2 * GAP, 3)
    _, first, second = tiles(pixels)
    assert np.array_equal(first, second), "the scale of a map must not matter"


def test_a_sharper_map_is_brighter_on_the_shared_scale() -> None:
    diffuse, sharp = torch.ones(8, 8), torch.zeros(8, 8)
    diffuse[4:6, 4:6] = 2.0
    sharp[5, 5] = 1.0
    _, first, second = tiles(strip(drawn(diffuse, sharp)))
    # Away from the object's outline, which is bright in both.
    assert second[100:, 100:].astype(int).sum(2).max() > first[100:, 100:].astype(int).sum(2).max()


def test_a_dead_map_is_dark_everywhere() -> None:
    dead, live = -torch.ones(8, 8), torch.zeros(8, 8)
    live[1, 1] = 1.0
    _, first, _ = tiles(strip(drawn(dead, live)))
    inside = first[120:, 120:]
    assert np.ptp(inside.reshape(-1, 3), axis=0).max() == 0


def test_density_has_mean_one() -> None:
    values = density(torch.rand(3, 5, 6))
    torch.testing.assert_close(values.mean((1, 2)), torch.ones(3))


def hot(place: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A map whose attention is in one cell."""
    cells = torch.zeros(1, *grid)
    cells[0, *place] = 1
    return density(cells)[0]


def brightest(tile: np.ndarray) -> tuple[float, float]:
    """Row and column of the brightest pixels' middle, as shares of the tile."""
    light = tile.astype(int).sum(2)
    rows, columns = (light >= light.max() - 20).nonzero()
    return (rows.mean() + 0.5) / tile.shape[0], (columns.mean() + 0.5) / tile.shape[1]


@pytest.mark.parametrize("place", [(0, 5), (2, 0), (1, 3)])
def test_a_map_of_a_wide_input_lies_where_its_cells_are(place: tuple[int, int]) -> None:
    seen = Drawn(torch.full((3, 48, 96), 0.2), torch.zeros(48, 96), "", {"arm": hot(place, (3, 6))}, {}, {}, {})
    pixels = strip(seen)
    assert pixels.shape == (TILE // 2, 2 * TILE + GAP, 3)
    row, column = brightest(tiles(pixels)[1])
    assert row == pytest.approx((place[0] + 0.5) / 3, abs=0.1)
    assert column == pytest.approx((place[1] + 0.5) / 6, abs=0.1)


def test_a_view_leaves_the_padding_out_and_gives_the_aspect_back() -> None:
    image, cells = torch.full((3, 64, 64), 0.9), hot((3, 4), (8, 8))
    image[:, 16:48] = 0.2  # what is not padding: the middle half
    seen = Drawn(image, torch.zeros(64, 64), "", {"arm": cells}, {}, {}, {})
    plain, mapped = tiles(strip(seen, View((0, 16, 64, 48), 0.5)))
    assert plain.shape == mapped.shape == (TILE // 2, TILE, 3)
    assert np.abs(plain.astype(int) - 51).max() <= 1
    row, column = brightest(mapped)
    assert row == pytest.approx((3.5 - 2) / 4, abs=0.05)
    assert column == pytest.approx(4.5 / 8, abs=0.05)
    tall, _ = tiles(strip(seen, View((0, 0, 64, 64), 2)))
    assert tall.shape == (2 * TILE, TILE, 3)


@pytest.mark.parametrize(
    ("channels", "colour"), [(1, (26, 26, 26)), (2, (38, 38, 38)), (3, (26, 51, 76)), (4, (26, 51, 76))]
)
def test_what_is_drawn_of_other_channels(channels: int, colour: tuple[int, int, int]) -> None:
    image = torch.tensor([0.1, 0.2, 0.3, 0.9])[:channels, None, None].expand(-1, 8, 8)
    seen = Drawn(image, torch.zeros(8, 8), "", {"arm": hot((0, 0), (2, 2))}, {}, {}, {})
    assert tiles(strip(seen))[0][5, 5].tolist() == list(colour)
