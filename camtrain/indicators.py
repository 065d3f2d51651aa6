r"""Indicators of a class activation map: pure functions, one value per map.

Notation: :math:`L` is the map before ReLU, shape (maps, height, width); :math:`L^+ = \mathrm{relu}(L)`;
:math:`P = L^+ / \sum L^+` its distribution; :math:`N` = height times width. A map whose :math:`\sum L^+` is not above
:data:`DEAD_BELOW` is *dead*: it explains nothing. A dead map has no concentration (``nan`` here, left out of every
mean), counts as a miss in energy in mask and pointing, and is counted in the dead rate.

All of them are computed in float32 at least, whatever precision the network runs in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

DEAD_BELOW = 1e-12
"""Sum of :math:`L^+` at or below which a map is dead."""

VOID = 255
"""Value of region pixels that are left out of every score."""


def positive_part(maps: Tensor) -> Tensor:
    """:math:`L^+` in float32 or wider, (maps, height, width)."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32)).relu()


def is_dead(maps: Tensor) -> Tensor:
    """Which maps explain nothing, (maps,) bool."""
    return positive_part(maps).sum((1, 2)) <= DEAD_BELOW


def distribution(maps: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`P = L^+ / \sum L^+`, and which maps are dead.

    Returns:
        (maps, height, width), summing to 1 over the cells of a live map and all zero for a dead one;
        (maps,) bool, true where dead. Gradients are finite for both.
    """
    positive = positive_part(maps)
    total = positive.sum((1, 2))
    dead = total <= DEAD_BELOW
    # 0 for a dead map, without a 0/0 that would reach the backward pass.
    scale = (~dead).to(total.dtype) / total.masked_fill(dead, 1.0)
    return positive * scale[:, None, None], dead


def _live(values: Tensor, dead: Tensor) -> Tensor:
    return torch.where(dead, torch.full_like(values, torch.nan), values)


def shannon(shares: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum P \ln P` of distributions, in nats, 0..ln N; (maps, height, width) to (maps,).

    Zero for an all-zero row. The logarithm is cut off at the smallest normal number, so that value and gradient stay
    finite where :math:`P = 0`.
    """
    return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum((1, 2))


def entropy(maps: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum P \ln P` in nats, 0..ln N: how much area is active; lower is sharper (Schöttl 2020, CE).

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    return _live(shannon(shares), dead)


def area(maps: Tensor) -> Tensor:
    r"""Elliptical area :math:`\sqrt{\lambda_1 \lambda_2}` in cells; lower is tighter (Schöttl 2020, CA).

    :math:`\lambda` are the eigenvalues of the covariance of the cell position under :math:`P`; their product is its
    determinant. 0 for a single cell, :math:`(n^2 - 1) / 12` for a uniform n x n map.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    return _live(covariance_determinant(shares).clamp_min(0).sqrt(), dead)


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


def dispersion(maps: Tensor) -> Tensor:
    r"""Squared coefficient of variation :math:`\mathrm{var}(L^+) / \mathrm{mean}(L^+)^2`, 0..N-1 (Schöttl 2020, CD).

    How distinct the decision is; higher is clearer. It equals :math:`N \sum P^2 - 1`, so it is no independent evidence
    beside the entropy. Computed on :math:`P`, so that no epsilon is needed and the scale of the map does not matter.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    cells = shares.shape[1] * shares.shape[2]
    return _live((shares * cells - 1).square().mean((1, 2)), dead)


def contrast(maps: Tensor) -> Tensor:
    r"""(mean of active cells - mean of inactive cells) / mean of :math:`L^+`; higher is clearer, 0..N.

    Active cells have at least half the maximum. Our reading of the "relative difference of active against inactive
    regions" of Schöttl 2020. 0 where every cell is active.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    cells = shares.shape[1] * shares.shape[2]
    active = (shares >= 0.5 * shares.amax((1, 2), keepdim=True)).to(shares.dtype)
    inactive = 1 - active
    mean_active = (shares * active).sum((1, 2)) / active.sum((1, 2)).clamp_min(1)
    mean_inactive = (shares * inactive).sum((1, 2)) / inactive.sum((1, 2)).clamp_min(1)
    difference = (mean_active - mean_inactive) * cells
    return _live(torch.where(inactive.sum((1, 2)) > 0, difference, torch.zeros_like(difference)), dead)


def gini(maps: Tensor) -> Tensor:
    r"""Gini index of the cells of :math:`L^+`, 0 for a uniform map to 1 - 1/N for a single cell; higher is sharper.

    .. math:: G = \frac{\sum_{k=1}^{N} (2k - N - 1)\, P_{(k)}}{N}, \quad P_{(1)} \le \dots \le P_{(N)}

    The sparseness of an explanation of Chalasani et al. (ICML 2020), as Quantus' `Sparseness` has it, of the map's
    cells.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    ascending = shares.flatten(1).sort(1).values
    cells = ascending.shape[1]
    rank = 2 * torch.arange(1, cells + 1, dtype=ascending.dtype, device=ascending.device) - cells - 1
    return _live(ascending @ rank / cells, dead)


def top_tenth(maps: Tensor) -> Tensor:
    r"""Share of :math:`L^+` in the highest tenth of the cells, 0.1 for a uniform map to 1; higher is sharper.

    Of the cell that the tenth cuts, the part inside counts, so that grids of any size can be compared.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    descending = shares.flatten(1).sort(1, descending=True).values
    cells = descending.shape[1]
    counted = (cells / 10 - torch.arange(cells, dtype=descending.dtype, device=descending.device)).clamp(0, 1)
    return _live(descending @ counted, dead)


def border_mass(maps: Tensor) -> Tensor:
    r"""Share of :math:`L^+` in the outermost cells, 0..1; (2h + 2w - 4) / N for a uniform map.

    What a network reads off its padding, and not off the object, gathers there.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    inner = shares[:, 1:-1, 1:-1].sum((1, 2))
    return _live((1 - inner).clamp(0, 1), dead)


def peak(maps: Tensor) -> Tensor:
    """Number of the cell with the maximum, counted row by row, (maps,) int64; -1 for dead maps."""
    shares, dead = distribution(maps)
    return shares.flatten(1).argmax(1).masked_fill(dead, -1)


def peak_entropy(peaks: Tensor, cells: int) -> Tensor:
    r"""Entropy of where maps peak, :math:`-\sum_c f_c \ln f_c / \ln N`, 0..1; scalar.

    :math:`f_c` is the share of live maps that peak in cell c. 0: every map peaks in the same place, whatever the
    picture. m maps reach ln m / ln N at most, so that only the same number of maps can be compared.

    Args:
        peaks: (maps,), as :func:`peak` gives them.
        cells: N, of each map.

    Returns:
        nan if there is no live map, or only one cell.
    """
    live = peaks[peaks >= 0]
    if len(live) == 0 or cells < 2:
        return torch.tensor(torch.nan)
    shares = live.bincount(minlength=cells).double() / len(live)
    summands: Tensor = torch.special.xlogy(shares, shares)
    return -summands.sum() / math.log(cells)


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
    return _live(value, flat)


def likeness(before: Tensor, after: Tensor) -> Tensor:
    """:func:`correlation` of maps before and after a change, (maps,); 0 where it killed a map that was alive."""
    killed = is_dead(after) & ~is_dead(before)
    return correlation(before, after).masked_fill(killed, 0)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """:math:`L^+` stretched bilinearly to the picture's size, (maps, *size)."""
    return interpolate(positive_part(maps)[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def rank(stretched: Tensor) -> Tensor:
    """Place of each pixel in the descending order of its map, 0 the highest; equal ones row by row; same shape."""
    order = stretched.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(stretched.shape)


def energy_in_mask(maps: Tensor, region: Tensor) -> Tensor:
    r"""Share of the stretched map inside the object, 0..1 (energy-based pointing game, Wang et al., CVPR-W 2020).

    Args:
        maps: (maps, height, width).
        region: (maps, picture height, picture width) uint8, 0 background, 255 void, other values the object.

    Returns:
        (maps,); 0 for dead maps, nan where the region holds no object.
    """
    stretched = upsample(maps, (region.shape[-2], region.shape[-1]))
    inside, known = (region > 0) & (region != VOID), region != VOID
    total = (stretched * known).sum((1, 2))
    share = (stretched * inside).sum((1, 2)) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return _scored(torch.where(is_dead(maps), torch.zeros_like(share), share), region)


def pointing(maps: Tensor, region: Tensor) -> Tensor:
    """Whether the maximum of the stretched map lies in the object, 0 or 1 (pointing game, Zhang et al., ECCV 2016).

    Without the original's tolerance of 15 pixels. Void pixels cannot be pointed at. Arguments as for
    :func:`energy_in_mask`.

    Returns:
        (maps,); 0 for dead maps, nan where the region holds no object.
    """
    stretched = upsample(maps, (region.shape[-2], region.shape[-1]))
    inside = (region > 0) & (region != VOID)
    at = stretched.masked_fill(region == VOID, -1).flatten(1).argmax(1)
    hit = inside.flatten(1).gather(1, at[:, None])[:, 0] & ~is_dead(maps)
    return _scored(hit.to(stretched.dtype), region)


def has_object(region: Tensor) -> Tensor:
    """Which regions show an object, (maps,) bool."""
    return ((region > 0) & (region != VOID)).any(2).any(1)


def _scored(values: Tensor, region: Tensor) -> Tensor:
    return torch.where(has_object(region), values, torch.full_like(values, torch.nan))
