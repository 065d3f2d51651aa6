"""Does a map lie on the object? Energy in mask and the pointing game: one value per map."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement, upsample
from camtrain.regions import has_object, known_mask, object_mask


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

    Without the original's tolerance of 15 pixels. Void pixels cannot be pointed at. Arguments as for
    :func:`energy_in_mask`.

    Returns:
        (maps,); 0 for dead maps, nan where the region holds no object.
    """
    stretched = upsample(maps, (region.shape[-2], region.shape[-1]), placement)
    inside = object_mask(region)
    at = stretched.masked_fill(~known_mask(region), -1).flatten(1).argmax(1)
    hit = inside.flatten(1).gather(1, at[:, None])[:, 0] & ~is_dead(maps)
    return _scored(hit.to(stretched.dtype), region)


def _scored(values: Tensor, region: Tensor) -> Tensor:
    return torch.where(has_object(region), values, torch.full_like(values, torch.nan))
