r"""Does a map stay on what it shows when the image is mirrored or moved?

Likeness is the correlation of the two maps, see :func:`camtrain.cam.distribution.likeness`: 1 if they are alike up to a
factor, 0 if they have nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from camtrain.cam.distribution import likeness, upsample

SHIFT = 8
"""Images are moved by their side over this number."""


class Stability(NamedTuple):
    """Likeness of each map to that of the changed image, (maps,), -1..1; nan for dead or constant maps, 0 where the
    change kills it."""

    flip: Tensor
    shift: Tensor


def stability(images: Tensor, maps: Tensor, maps_of: Callable[[Tensor], Tensor]) -> Stability:
    r"""Correlation of the mirrored map with the map of the mirrored image, and the same for a moved one.

    Where :math:`T` mirrors or moves, the correlation of :math:`T(L^+(x))` and :math:`L^+(T(x))`. A moved image goes
    right and down by an eighth of its side, its first row and column repeated; what both show is compared, of maps
    stretched to the image's size, so that the move need not be one of whole cells.

    Args:
        images: (batch, 3, height, width).
        maps: (maps, rows, columns) of these images, before ReLU.
        maps_of: from changed images to the maps of the same classes.
    """
    height, width = images.shape[2:]
    down, right = height // SHIFT, width // SHIFT
    moved = pad(images, (right, 0, down, 0), mode="replicate")[..., :height, :width]
    before = upsample(maps, (height, width))[:, : height - down, : width - right]
    after = upsample(maps_of(moved), (height, width))[:, down:, right:]
    return Stability(likeness(maps.flip(2), maps_of(images.flip(3))), likeness(before, after))
