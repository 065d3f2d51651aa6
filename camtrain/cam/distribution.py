r"""A map as a distribution over its cells, :math:`P = L^+ / \sum L^+`, and what is computed from that alone."""

from __future__ import annotations

import torch
from torch import Tensor

DEAD_SHARE = 1e-4
r"""Share of a map's magnitude, :math:`\sum L^+ / \sum |L|`, up to which the map is dead, whatever its scale.

On grids of 7 x 7 to 14 x 14 that is one cell of 0.5 to 2 % of the mean :math:`|L|`, in a map that otherwise speaks
against the class: stretched to 0..1 it would look like a sharp map. Less than a tenth of it is
what rounding leaves of sums over thousands of channels in float32. A choice: no value is published.
"""


def magnitude(values: Tensor) -> Tensor:
    """Sum of the absolute values of each map, (maps, height, width), or image's logits, (images, classes), in float32
    or wider; (rows,). Not finite if a value is not."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32)).abs().flatten(1).sum(1)


def positive_part(maps: Tensor) -> Tensor:
    """:math:`L^+` in float32 or wider, (maps, height, width); all zero where a map is not finite."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return wide.relu().masked_fill(~magnitude(maps).isfinite()[:, None, None], 0)


def is_dead(maps: Tensor) -> Tensor:
    r"""Which maps explain nothing, (maps,) bool.

    A map is dead if :math:`\sum L^+ \le` :data:`DEAD_SHARE` :math:`\sum |L|`, or if it is not finite, or so small that
    its cells have lost digits (:math:`\sum |L|` below 1e-31 in float32: the smallest normal number over epsilon).
    """
    return _is_dead(maps, positive_part(maps).sum((1, 2)))


def _is_dead(maps: Tensor, total: Tensor) -> Tensor:
    scale = magnitude(maps)
    limits = torch.finfo(scale.dtype)
    return ~(total > DEAD_SHARE * scale) | (scale < limits.tiny / limits.eps)


def distribution(maps: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`P = L^+ / \sum L^+`, and which maps are dead.

    Returns:
        (maps, height, width), in float32 or wider, summing to 1 over the cells of a live map and all zero for a dead
        one; (maps,) bool, true where dead. Gradients are finite for both, at any scale of the map.
    """
    positive = positive_part(maps)
    dead = _is_dead(maps, positive.sum((1, 2)))
    # First over the power of two below the peak, which rounds nothing: the gradient of 1 / total is 1 / total squared,
    # which float32 does not hold where the total is 1e-20.
    peak = positive.detach().amax((1, 2)).masked_fill(dead, 1.0)
    positive = positive / (peak / (2 * torch.frexp(peak).mantissa))[:, None, None]
    # 0 for a dead map, without a 0/0 that would reach the backward pass.
    scale = (~dead).to(positive.dtype) / positive.sum((1, 2)).masked_fill(dead, 1.0)
    return positive * scale[:, None, None], dead


def nan_where_dead(values: Tensor, dead: Tensor) -> Tensor:
    return torch.where(dead, torch.full_like(values, torch.nan), values)


def shannon(shares: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum P \ln P` of distributions, in nats, 0..ln N; (maps, height, width) to (maps,).

    Zero for an all-zero row. The logarithm is cut off at the smallest normal number, so that value and gradient stay
    finite where :math:`P = 0`.
    """
    return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum((1, 2))


def covariance_determinant(shares: Tensor) -> Tensor:
    r"""Determinant :math:`\lambda_1 \lambda_2` of the covariance of cell position under distributions, cells to the
    fourth; (maps, height, width) to (maps,). Rounding can bring it slightly below 0.
    """
    height, width = shares.shape[-2:]
    rows = torch.arange(height, dtype=shares.dtype, device=shares.device) - (height - 1) / 2
    columns = torch.arange(width, dtype=shares.dtype, device=shares.device) - (width - 1) / 2
    row_shares, column_shares = shares.sum(2), shares.sum(1)
    dy = rows - (row_shares @ rows)[:, None]
    dx = columns - (column_shares @ columns)[:, None]
    var_y, var_x = (row_shares * dy**2).sum(1), (column_shares * dx**2).sum(1)
    cov = torch.einsum("bhw,bh,bw->b", shares, dy, dx)
    return var_y * var_x - cov**2


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    r"""Pearson's correlation of the cells of :math:`L^+` of two maps, -1..1.

    1 if they are alike up to a factor and an offset, near 0 if they have nothing in common, however sharp each is (CC
    of Bylinskii et al., TPAMI 2019).

    Args:
        maps: (maps, height, width).
        others: the same shape.

    Returns:
        (maps,); nan where one of the two is dead or the same everywhere.
    """
    first, second = (shares.flatten(1) for shares in (distribution(maps)[0], distribution(others)[0]))
    cells = first.shape[1]
    # What is left of a constant map but rounding is not a pattern.
    same = torch.finfo(first.dtype).eps * 16 / cells
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    flat = (first.abs().amax(1) <= same) | (second.abs().amax(1) <= same)
    length = first.norm(dim=1) * second.norm(dim=1)
    value = ((first * second).sum(1) / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp(-1, 1)
    return nan_where_dead(value, flat)


def likeness(before: Tensor, after: Tensor) -> Tensor:
    """:func:`correlation` of maps before and after a change, (maps,); 0 where it killed a map that was alive."""
    killed = is_dead(after) & ~is_dead(before)
    return correlation(before, after).masked_fill(killed, 0)
