r"""Does a map stay on what it shows when the image is mirrored or moved?

Likeness is the correlation of the two maps, see :func:`camtrain.cam.distribution.likeness`: 1 if they are alike up to a
factor, 0 if they have nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from camtrain.cam.distribution import distribution, likeness
from camtrain.cam.stretch import Placement, tiles, upsample

NEAR, FAR = 0.5, 1.5
"""Images are moved by so many strides. A whole stride would put the image in front of the next cells unchanged."""


class Stability(NamedTuple):
    """Likeness of each map to that of the changed image, (maps,), -1..1; nan for dead or constant maps, 0 where the
    change kills it."""

    flip: Tensor
    shift: Tensor
    shift_far: Tensor


def stability(
    images: Tensor, maps: Tensor, maps_of: Callable[[Tensor], Tensor], placement: Placement | None = None
) -> Stability:
    r"""Correlation of the mirrored map with the map of the mirrored image, and the same for a moved one.

    Where :math:`T` mirrors or moves, the correlation of :math:`T(L^+(x))` and :math:`L^+(T(x))`, pixel by pixel of
    stretched maps. A moved image goes right and down by half a stride of the map, or one and a half, its first row and
    column repeated; what both show is compared.

    Args:
        images: (batch, 3, height, width).
        maps: (maps, rows, columns) of these images, before ReLU.
        maps_of: from changed images to the maps of the same classes.
        placement: where the cells lie in the image; None: in equal tiles.
    """
    height, width = images.shape[2:]
    rows, columns = placement or tiles((height, width), (maps.shape[1], maps.shape[2]))

    def drawn(those: Tensor) -> Tensor:
        # Of the distribution, which is 0 where a map is dead: what is stretched no longer has a negative part.
        return upsample(distribution(those)[0], (height, width), placement)

    stretched = drawn(maps)

    def moved(strides: float) -> Tensor:
        down, right = (max(1, round(strides * axis.step)) for axis in (rows, columns))
        after = drawn(maps_of(pad(images, (right, 0, down, 0), mode="replicate")[..., :height, :width]))
        return likeness(stretched[:, : height - down, : width - right], after[:, down:, right:])

    return Stability(likeness(stretched.flip(2), drawn(maps_of(images.flip(3)))), moved(NEAR), moved(FAR))
