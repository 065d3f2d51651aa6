"""Images of maps: one colour scale, dead maps dark, the outline around the object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camtrain.report.overlay import GAP, TILE, Drawn, density, strip

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
