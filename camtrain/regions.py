"""Where the object is: (height, width) uint8, 0 background, 255 void (in no score), other values the object."""

from __future__ import annotations

from torch import Tensor

VOID = 255
"""Value of region pixels that are left out of every score."""


def has_object(region: Tensor) -> Tensor:
    """Which regions show an object, (maps,) bool."""
    return ((region > 0) & (region != VOID)).any(2).any(1)
