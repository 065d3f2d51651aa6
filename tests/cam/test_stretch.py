"""Maps stretched from where their cells lie, against torch's interpolation and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import interpolate

from camtrain.cam.stretch import Axis, Placement, rank, tiles, upsample, weights


@pytest.mark.parametrize(("size", "grid"), [((64, 64), (8, 8)), ((30, 52), (4, 7)), ((9, 5), (3, 5)), ((4, 4), (7, 7))])
def test_equal_tiles_are_what_torch_interpolates(size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps = torch.randn(3, *grid, dtype=torch.float64)
    expected = interpolate(maps.relu()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(upsample(maps, size, tiles(size, grid)), expected)
    assert torch.equal(upsample(maps, size), expected)


def test_cells_keep_their_value_at_their_centres() -> None:
    placement = Placement(Axis(1.0, 3.0, 5.0), Axis(0.0, 4.0, 7.0))
    maps = torch.tensor([[[1.0, 5.0], [3.0, 0.0], [2.0, 2.0]]])
    stretched = upsample(maps, (9, 8), placement)[0]
    assert stretched[[1, 4, 7]][:, [0, 4]].tolist() == maps[0].tolist()
    assert stretched[1, :5].tolist() == [1, 2, 3, 4, 5]  # linear between the centres
    assert stretched[1, 4:].tolist() == [5, 5, 5, 5]  # and beyond the last one as there
    assert stretched[0].tolist() == stretched[1].tolist()
    assert weights(9, 3, placement.rows, maps).sum(1).tolist() == [1] * 9


def test_a_map_in_an_image_that_is_drawn_larger() -> None:
    maps, placement = torch.rand(1, 3, 3), Placement(Axis(1.5, 4.0, 9.0), Axis(3.0, 5.0, math.inf))
    larger = Placement(placement.rows.scaled(3), placement.columns.scaled(3))
    assert larger.columns.field == math.inf
    # The middle of three pixels is where the one was.
    torch.testing.assert_close(upsample(maps, (36, 48), larger)[:, 1::3, 1::3], upsample(maps, (12, 16), placement))


def test_offset_is_that_of_the_middles() -> None:
    assert Axis(0.0, 8.0, 47.0).offset(64, 8) == -3.5
    assert tiles((64, 90), (8, 5)).columns.offset(90, 5) == 0


def test_rank_is_the_place_in_descending_order() -> None:
    places = rank(torch.tensor([[[0.2, 0.9], [0.1, 0.5]]]))
    assert places.tolist() == [[[2, 0], [3, 1]]]
