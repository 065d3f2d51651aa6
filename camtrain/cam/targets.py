"""Which maps of which images: one for an image's class, or one for each of its positive classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.regions import VOID


class MapTargets(NamedTuple):
    """The image and the class of each map."""

    rows: Tensor  # (maps,) int64, numbers of images in the batch, ascending
    classes: Tensor  # (maps,) int64

    @property
    def occurrence(self) -> Tensor:
        """Of each map, how many maps of the same image come before it; (maps,) int64."""
        first = torch.searchsorted(self.rows, self.rows)
        return torch.arange(len(self.rows), device=self.rows.device) - first


def is_multilabel(target: Tensor) -> bool:
    """Whether targets are (batch, classes) of 0 and 1 rather than (batch,) class numbers."""
    return target.dim() == 2


def map_targets(target: Tensor) -> MapTargets:
    """A map for the class of every image, or for every positive class of every image."""
    if is_multilabel(target):
        rows, classes = target.nonzero(as_tuple=True)
        return MapTargets(rows, classes)
    return MapTargets(torch.arange(len(target), device=target.device), target)


def expand_to_maps(values: Tensor, target: Tensor, of: MapTargets) -> Tensor:
    """A tensor of the batch's images as one of its maps' images: a row for each map."""
    return values[of.rows] if is_multilabel(target) else values


def regions_of_maps(regions: Tensor, target: Tensor, of: MapTargets) -> Tensor:
    """The region of each map's class, (maps, height, width) uint8: 0 background, 255 void, other values the object.

    In a multi-label set an object's pixels hold its class number plus 1; what belongs to other classes is background.

    Args:
        regions: (batch, height, width) uint8.
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        of: whose maps.
    """
    if not is_multilabel(target):
        return regions
    of_image = regions[of.rows]
    own = of_image == (of.classes + 1)[:, None, None].to(of_image.dtype)
    return torch.where((of_image == VOID) | own, of_image, torch.zeros_like(of_image))
