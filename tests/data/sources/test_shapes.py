"""Generated shapes: functions of the seed, with exact masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camtrain.data.sources import shapes


def test_shapes_are_a_function_of_seed_and_split() -> None:
    one, again = shapes.generate(16, (3, 32, 32), 3, 0), shapes.generate(16, (3, 32, 32), 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (shapes.generate(16, (3, 32, 32), 4, 0), shapes.generate(16, (3, 32, 32), 3, 1)):
        assert not torch.equal(one[0], other[0])


def test_shapes_are_small_whole_and_of_every_class() -> None:
    images, target, masks = shapes.generate(160, (3, 64, 64), 0, 0)
    assert images.shape == (160, 3, 64, 64)
    assert torch.bincount(target).tolist() == [20] * len(shapes.CLASSES)
    share = masks.float().mean((1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.15
    edge = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], 1)
    assert edge.float().mean() < 0.01, "objects are cut off at the edge"


def test_shapes_mask_is_where_the_object_was_painted() -> None:
    # The disc's mask has the area and the roundness of a disc.
    _, target, masks = shapes.generate(8, (3, 256, 256), 0, 0)
    disc = masks[target == 0][0]
    rows, columns = disc.nonzero(as_tuple=True)
    height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert abs(height - width) <= 1
    assert int(disc.sum()) == pytest.approx(np.pi * (height / 2) ** 2, rel=0.03)
