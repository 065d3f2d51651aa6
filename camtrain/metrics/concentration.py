r"""Indicators of a class activation map: pure functions, one value per map.

Notation: :math:`L` is the map before ReLU, shape (maps, height, width); :math:`L^+ = \mathrm{relu}(L)`;
:math:`P = L^+ / \sum L^+` its distribution; :math:`N` = height times width. A map whose :math:`\sum L^+` is at most
1e-4 :math:`\sum |L|`, or that is not finite, is *dead* (:func:`camtrain.cam.distribution.is_dead`): it explains
nothing. A dead map has no concentration (``nan`` here, left out of every mean), counts as a miss in energy in mask and
pointing, and is counted in the dead rate.

All of them are computed in float32 at least, whatever precision the network runs in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camtrain.cam.distribution import covariance_determinant, distribution, nan_where_dead, shannon


def entropy(maps: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum P \ln P` in nats, 0..ln N: how much area is active; lower is sharper (Schöttl 2020, CE).

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    return nan_where_dead(shannon(shares), dead)


def area(maps: Tensor) -> Tensor:
    r"""Elliptical area :math:`\sqrt{\lambda_1 \lambda_2}` in cells; lower is tighter (Schöttl 2020, CA).

    :math:`\lambda` are the eigenvalues of the covariance of the cell position under :math:`P`; their product is its
    determinant. 0 for a single cell, :math:`(n^2 - 1) / 12` for a uniform n x n map.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    return nan_where_dead(covariance_determinant(shares).clamp_min(0).sqrt(), dead)


def dispersion(maps: Tensor) -> Tensor:
    r"""Squared coefficient of variation :math:`\mathrm{var}(L^+) / \mathrm{mean}(L^+)^2`, 0..N-1 (Schöttl 2020, CD).

    How distinct the decision is; higher is clearer. It equals :math:`N \sum P^2 - 1`, so it is no independent evidence
    beside the entropy. Computed on :math:`P`, so that no epsilon is needed and the scale of the map does not matter.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    cells = shares.shape[1] * shares.shape[2]
    return nan_where_dead((shares * cells - 1).square().mean((1, 2)), dead)


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
    return nan_where_dead(torch.where(inactive.sum((1, 2)) > 0, difference, torch.zeros_like(difference)), dead)


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
    return nan_where_dead(ascending @ rank / cells, dead)


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
    return nan_where_dead(descending @ counted, dead)


def border_mass(maps: Tensor) -> Tensor:
    r"""Share of :math:`L^+` in the outermost cells, 0..1; (2h + 2w - 4) / N for a uniform map.

    What a network reads off its padding, and not off the object, gathers there.

    Returns:
        (maps,); nan for dead maps.
    """
    shares, dead = distribution(maps)
    inner = shares[:, 1:-1, 1:-1].sum((1, 2))
    return nan_where_dead((1 - inner).clamp(0, 1), dead)


def peak(maps: Tensor) -> Tensor:
    """Number of the cell with the maximum, counted row by row, (maps,) int64; -1 for dead maps."""
    shares, dead = distribution(maps)
    return shares.flatten(1).argmax(1).masked_fill(dead, -1)


def peak_entropy(peaks: Tensor, cells: int) -> Tensor:
    r"""Entropy of where maps peak, :math:`-\sum_c f_c \ln f_c / \ln N`, 0..1; scalar.

    :math:`f_c` is the share of live maps that peak in cell c. 0: every map peaks in the same place, whatever the
    image. m maps reach ln m / ln N at most, so that only the same number of maps can be compared.

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
