"""Does a map lie on the object? Energy in mask and the pointing game: one value per map."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement, upsample
from camtrain.regions import has_object, known_mask, object_mask

TOLERANCE = 15, 500
"""Published tolerance of the pointing game, and longer side of the images for which it was made, in pixels."""


def energy_in_mask(maps: Tensor, region: Tensor, placement: Placement | None = None) -> Tensor:
    r"""Share of the stretched map inside the object, 0..1 (energy-based pointing game, Wang et al., CVPR-W 2020).

    Args:
        maps: (maps, height, width).
        region: (maps, image height, image width) uint8, 0 background, 255 void, other values the object.
        placement: where the cells lie in the image; None: in equal tiles.

    Returns:
        (maps,); 0 for dead maps, nan where the region holds no object.
    """
    stretched = upsample(maps, (region.shape[-2], region.shape[-1]), placement)
    inside, known = object_mask(region), known_mask(region)
    total = (stretched * known).sum((1, 2))
    share = (stretched * inside).sum((1, 2)) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return _scored(torch.where(is_dead(maps), torch.zeros_like(share), share), region)


def pointing(maps: Tensor, region: Tensor, placement: Placement | None = None) -> Tensor:
    """Whether the maximum of the stretched map lies in the object, 0 or 1 (pointing game, Zhang et al., ECCV 2016).

    Without the original's tolerance, which :func:`pointing_tolerant` has. Void pixels cannot be pointed at. Arguments
    as for :func:`energy_in_mask`.

    Returns:
        (maps,); 0 for dead maps, nan where the region holds no object.
    """
    return _pointing(maps, region, placement, 0, 1)


def pointing_tolerant(maps: Tensor, region: Tensor, placement: Placement | None = None) -> Tensor:
    r"""Whether the maximum of the stretched map lies in the object or close to it, 0 or 1.

    A hit if the distance from the peak's pixel :math:`q` to the nearest pixel of the object :math:`O` is at most 3 % of
    the image's longer side:

    .. math:: \min_{o \in O} \lVert q - o \rVert_2 \le \frac{15}{500} \max(h, w)

    Zhang et al., 'Top-down neural attention by excitation backprop' (ECCV 2016, IJCV 2018), allow 15 pixels, in images
    of PASCAL VOC and COCO in their own size, some 500 pixels wide. The tolerance is scaled with the image here, to 1.9
    pixels of 64 and 6.7 of 224: 15 pixels of an image of 64 would take in nearly all of it. Void pixels cannot be
    pointed at. Arguments as for :func:`energy_in_mask`.

    Returns:
        (maps,); 0 for dead maps, nan where the region holds no object.
    """
    return _pointing(maps, region, placement, *TOLERANCE)


def _pointing(maps: Tensor, region: Tensor, placement: Placement | None, part: int, whole: int) -> Tensor:
    """Whether the peak is at most part / whole of the longer side away from the object."""
    height, width = region.shape[-2:]
    stretched = upsample(maps, (height, width), placement)
    peak = stretched.masked_fill(~known_mask(region), -1).flatten(1).argmax(1)[:, None]
    rows, columns = (torch.arange(side, device=peak.device) for side in (height, width))
    squared = (rows - peak // width).square()[:, :, None] + (columns - peak % width).square()[:, None]
    near = squared * whole**2 <= (part * max(height, width)) ** 2  # in whole numbers, which do not round
    hit = (near & object_mask(region)).flatten(1).any(1) & ~is_dead(maps)
    return _scored(hit.to(stretched.dtype), region)


def _scored(values: Tensor, region: Tensor) -> Tensor:
    return torch.where(has_object(region), values, torch.full_like(values, torch.nan))
