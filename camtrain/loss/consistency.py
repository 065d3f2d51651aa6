r"""Consistency: the map should follow its image.

.. math::
    D = \frac12 \sum \left| g P(x) - P(g x) \right|, \qquad P = L^+ / \sum L^+

with g a known transformation of the image, and the same of its map: 0 where the map goes with the image, 1 where the
two have no cell in common, which has no gradient. Elsewhere it goes through both maps. g moves the cells where they
really lie in the image (:mod:`camtrain.cam.stretch`), by linear interpolation between their centres; cells of the view
for which the image has none, as at the edge of maps that do not reach it, are left out of both. D counts by the share
of :math:`P(x)` that is in view, and not at all below half of it.

Costs the forward and backward pass of the views, and a few operations on the maps.

Source: equivariance of maps as a loss is Wang et al., CVPR 2020 (SEAM), there of weakly supervised segmentation with
an affine g and an L1 distance of the maps; of class activation maps as explanations Pillai et al., CVPR 2022 (CGC),
there contrastive. As distance of distributions, of true classes and beside the entropy it is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.stretch import Placement, tiles

LEAST_IN_VIEW = 0.5
"""Share of the map that a view has to show."""


class Moved(NamedTuple):
    """The map of an image as a view of the image should have it."""

    shares: Tensor  # (views, height, width), summing to 1, or all zero where nothing of the map is in view
    comparable: Tensor  # (views, height, width) bool: the cells for which the image has a place
    in_view: Tensor  # (views,) share of the map that the view shows


class Motion(NamedTuple):
    """What a view does to the cells of a map: found where its matrix lies, and needed where the maps do."""

    down: Tensor  # (views, height, width, height) parts of the image's rows of cells in each cell of the view
    across: Tensor  # (views, height, width, width) the same of its columns
    drawn: Tensor  # (views, height, width) bool: the cells that show something of the image
    comparable: Tensor  # (views, height, width) bool: those, and the cells beside the image
    visible: Tensor  # (views, height, width) bool: the cells of the image that are in view


def motion(matrix: Tensor, size: tuple[int, int], grid: tuple[int, int], placement: Placement | None = None) -> Motion:
    """Of maps with so many rows and columns of cells; other arguments as for :func:`consistency`."""
    axes = placement or tiles(size, grid)
    middle = matrix.new_tensor([(side - 1) / 2 for side in size])
    first, step = (matrix.new_tensor([getattr(axis, name) for axis in axes]) for name in ("first", "step"))
    sides = [torch.arange(side, device=matrix.device, dtype=matrix.dtype) for side in grid]
    cells = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
    pixels = cells * step + first - middle  # of the view's cells, from its middle
    at = pixels @ matrix[:, None, :, :2].mT + matrix[:, None, None, :, 2]
    in_image = (at.abs() <= middle + 0.5).all(-1)
    # The place in the image as a number of cells; whole to the digits that float32 has for it.
    number = ((at + middle - first) / step * 1024).round() / 1024
    has_cell = ((number >= -0.5) & (number <= number.new_tensor(grid) - 0.5)).all(-1)
    # Of a smaller view a cell takes in more than one of the image's.
    width = matrix[:, :, :2].abs().amax((1, 2)).clamp_min(1)[:, None, None, None]
    down, across = (
        (1 - (number[..., axis, None].clamp(0, len(side) - 1) - side).abs() / width).clamp_min(0)
        for axis, side in enumerate(sides)
    )
    back = (pixels - matrix[:, None, None, :, 2]) @ _inverse(matrix[:, :, :2])[:, None].mT
    visible = (back.abs() <= middle + 0.5).all(-1)
    return Motion(down, across, in_image & has_cell, has_cell | ~in_image, visible)


def _inverse(matrix: Tensor) -> Tensor:
    """Of (views, 2, 2)."""
    (a, b), (c, d) = matrix.permute(1, 2, 0)
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    inverse: Tensor = adjugate / (a * d - b * c)[:, None, None]
    return inverse


def moved(shares: Tensor, matrix: Tensor, size: tuple[int, int], placement: Placement | None = None) -> Moved:
    """g P(x): distributions, moved as their images are.

    Args:
        shares: (views, height, width), of the image of each view.
        matrix: (views, 2, 3), see :mod:`camtrain.data.views`; on the CPU no device is waited for.
        size: height and width of the images.
        placement: where the cells lie in them; None: in equal tiles.
    """
    found = motion(matrix.to(shares.dtype), size, (shares.shape[1], shares.shape[2]), placement)
    down, across, drawn, comparable, visible = (part.to(shares.device, non_blocking=True) for part in found)
    image = torch.einsum("vijh,vhw,vijw->vij", down, shares, across) * drawn
    return Moved(_normalised(image), comparable, (shares.detach() * visible).sum((1, 2)))


def _normalised(shares: Tensor) -> Tensor:
    """Divided by their sums, where these are not 0."""
    total = shares.sum((1, 2), keepdim=True)
    return shares / total.masked_fill(total <= torch.finfo(total.dtype).tiny, 1.0)


class Compared(NamedTuple):
    """The map of an image and that of its view, where both are known; each sums to 1, or is all zero."""

    expected: Tensor  # (views, height, width), of the image, moved
    found: Tensor  # (views, height, width), of the view
    both: Tensor  # (views,) bool: neither of the two is all zero
    in_view: Tensor  # (views,) share of the map that the view shows


def compared(
    shares: Tensor, of_views: Tensor, matrix: Tensor, size: tuple[int, int], placement: Placement | None = None
) -> Compared:
    """What belongs together; arguments as for :func:`consistency`."""
    expected, comparable, in_view = moved(shares, matrix, size, placement)
    found = _normalised(of_views * comparable)
    both = (expected.detach().sum((1, 2)) > 0) & (found.detach().sum((1, 2)) > 0)
    return Compared(expected, found, both, in_view)


def consistency(
    shares: Tensor, of_views: Tensor, matrix: Tensor, size: tuple[int, int], placement: Placement | None = None
) -> tuple[Tensor, Tensor]:
    r""":math:`D = \frac12 \sum | g P(x) - P(g x) |` of each view, 0..1, and what it counts by, 0..1; both (views,).

    Args:
        shares: :math:`P(x)`, (views, height, width), of the image of each view.
        of_views: :math:`P(g x)`, the same of the view.
        matrix: (views, 2, 3), see :mod:`camtrain.data.views`.
        size: height and width of the images.
        placement: where the cells lie in them; None: in equal tiles.
    """
    expected, found, both, in_view = compared(shares, of_views, matrix, size, placement)
    distance = (expected - found).abs().sum((1, 2)) / 2
    return distance * both, in_view * (in_view >= LEAST_IN_VIEW) * both
