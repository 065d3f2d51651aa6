"""Which maps of which images: one for an image's class, or one for each of its positive classes.

A *map* belongs to an image and one of its classes. With one class per image there are as many maps as images; with
several, every positive class of every image has a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.regions import VOID


def is_multilabel(target: Tensor) -> bool:
    """Whether targets are (batch, classes) of 0 and 1 rather than (batch,) class numbers."""
    return target.dim() == 2


class MapTargets(NamedTuple):
    """The image and the class of each map."""

    rows: Tensor  # (maps,) int64, numbers of images in the batch, ascending
    classes: Tensor  # (maps,) int64
    multilabel: bool  # images may have several classes: probabilities are sigmoids
    one_each: bool  # every image has one map, in order

    @classmethod
    def of(cls, target: Tensor) -> MapTargets:
        """A map for the class of every image, or for every positive class of every image.

        Args:
            target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        """
        if is_multilabel(target):
            rows, classes = target.nonzero(as_tuple=True)
            return cls(rows, classes, multilabel=True, one_each=False)
        return cls(torch.arange(len(target), device=target.device), target, multilabel=False, one_each=True)

    @property
    def occurrence(self) -> Tensor:
        """Of each map, how many maps of the same image come before it; (maps,) int64."""
        first = torch.searchsorted(self.rows, self.rows)
        return torch.arange(len(self.rows), device=self.rows.device) - first

    def select(self, chosen: Tensor) -> MapTargets:
        """Some of the maps, by (maps,) bool, or by their numbers."""
        return self._replace(rows=self.rows[chosen], classes=self.classes[chosen], one_each=False)

    def apart(self) -> MapTargets:
        """The same maps, each of an image of its own: of a batch that was expanded by :meth:`expand`."""
        return self._replace(rows=torch.arange(len(self.rows), device=self.rows.device), one_each=True)

    def expand(self, values: Tensor) -> Tensor:
        """A tensor of the batch's images, (batch, ...), as one of the maps' images, (maps, ...)."""
        return values if self.one_each else values[self.rows]

    def regions(self, regions: Tensor) -> Tensor:
        """The region of each map's class, (maps, height, width) uint8: 0 background, 255 void, other values the object.

        In a multi-label set an object's pixels hold its class number plus 1; what belongs to other classes is
        background.

        Args:
            regions: (batch, height, width) uint8.
        """
        expanded = self.expand(regions)
        if not self.multilabel:
            return expanded
        own = expanded == (self.classes + 1)[:, None, None].to(expanded.dtype)
        return torch.where((expanded == VOID) | own, expanded, torch.zeros_like(expanded))
