"""Where the object is: (..., height, width) uint8, 0 background, 255 void (in no score), other values the object."""

from __future__ import annotations

from torch import Tensor

VOID = 255
"""Value of region pixels that are left out of every score."""


def object_mask(region: Tensor) -> Tensor:
    """Which pixels show the object, bool of the region's shape."""
    return (region > 0) & (region != VOID)


def known_mask(region: Tensor) -> Tensor:
    """Which pixels count in scores, object or background, bool of the region's shape."""
    return region != VOID


def has_object(region: Tensor) -> Tensor:
    """Which of the regions (maps, height, width) show an object, (maps,) bool."""
    return object_mask(region).any(2).any(1)
