r"""ROAD, Remove And Debias (Rong et al., ICML 2022): pixels are removed in the order of the map, and filled smoothly.

A pixel that is set to a colour still tells by its outline what was there, and a network can read the outline. Here the
removed pixels are filled by noisy linear imputation: each is the weighted mean of its eight neighbours, so that hardly
anything of the outline is left. Conventions as in :mod:`camtrain.metrics.faithfulness`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement, rank, upsample

NOISE = 0.01
"""Standard deviation of the noise on filled pixels, in normalised units, as published."""

PERCENTILES = (20, 40, 60, 80)
"""Percentiles of the map at which the image is cut, as grad-cam counts them: at 20, 80 % of the pixels go."""

TOLERANCE = 2.5e-4
r"""Where the solver stops: at this energy norm :math:`\sqrt{e^\top A e}` of the error e, as it estimates it.

No pixel's error exceeds that norm times the root of its entry in the diagonal of :math:`A^{-1}`, which grows only with
the logarithm of the size of the hole; a residual alone would have to be smaller by the square of that size. Measured
up to 384 x 384, the largest error is below 0.0003, a thirtieth of the noise and less than that of one of 255 grey
levels; if a single pixel is known, single precision makes it 0.001.
"""

ITERATIONS = 200
"""Bound of the solver; measured are 15 to 46 at up to 384 x 384."""


@torch.no_grad()
def impute(images: Tensor, removed: Tensor, noise: Tensor | None = None, tolerance: float = TOLERANCE) -> Tensor:
    r"""Fill removed pixels by noisy linear imputation.

    .. math:: x_i \sum_j w_{ij} = \sum_j w_{ij} x_j \quad \text{for each removed pixel } i

    over its neighbours j, with w 1/6 for the four direct and 1/12 for the four diagonal ones. At the image's edge
    only the neighbours inside it count, and the sum on the left is theirs, as in the authors' code and grad-cam's copy
    of it. An image of which nothing is known gets the mean colour 0.

    The systems :math:`Ax = b` of all maps and channels are solved together by conjugate gradients. A is symmetric and
    positive definite wherever a pixel is known. The number of iterations hardly depends on the size of the holes,
    because the residuals are also corrected on coarser grids (Bramble, Pasciak and Xu, Math. Comp. 1990).

    Args:
        images: (maps, 3, height, width), normalised.
        removed: (maps, height, width) bool.
        noise: (maps, 3, height, width) standard normal draws, added times :data:`NOISE` to the filled pixels.
        tolerance: in normalised units, see :data:`TOLERANCE`.

    Returns:
        (maps, 3, height, width); known pixels are those of `images`, bit for bit.
    """
    holes = removed[:, None]
    start = images.to(torch.promote_types(images.dtype, torch.float32)).masked_fill(holes, 0)
    hole = holes.to(start.dtype)
    degree = _neighbours(torch.ones_like(start[:1, :1]))
    grids = _coarser(holes, start.dtype)
    tiny = torch.finfo(start.dtype).tiny  # keeps what is solved already, or holds nothing to solve, from 0/0

    # Starting from the known pixels' mean, or from a filling in of coarse to fine, saves no time.
    filled = torch.zeros_like(start)
    residual = _neighbours(start).mul_(hole)
    corrected = _precondition(residual, grids)
    direction, energy = corrected, _dot(residual, corrected)
    for _ in range(ITERATIONS):
        if not (energy > tolerance**2).any():
            break
        image = (direction * degree).sub_(_neighbours(direction)).mul_(hole)
        step = energy / _dot(direction, image).clamp_min(tiny)
        filled.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        corrected = _precondition(residual, grids)
        before, energy = energy, _dot(residual, corrected)
        direction = torch.addcmul(corrected, direction, energy / before.clamp_min(tiny))
    if noise is not None:
        filled = filled + NOISE * noise
    return torch.where(holes, filled.to(images.dtype), images)


def road(
    images: Tensor,
    maps: Tensor,
    probability: Callable[[Tensor], Tensor],
    noise: Tensor | None = None,
    placement: Placement | None = None,
    percentiles: Sequence[float] = PERCENTILES,
) -> Tensor:
    r"""ROAD, combined over both orders of removal.

    .. math:: \frac{1}{2n} \sum_{q} \left( p(x^{\text{least}}_q) - p(x^{\text{most}}_q) \right)

    over n percentiles q, where the :math:`100 - q` per cent of the pixels that are the least, or the most, relevant in
    the stretched :math:`L^+` are removed and filled by :func:`impute`. The filled image is what decides whether the
    pixels mattered, not the outline of the hole. Higher is better, -1/2..1/2; about 0 for a map that orders
    pixels by chance.

    As grad-cam's `ROADCombined` at the same percentiles, where the map has no equal values. Of equal ones, as where
    the map is 0, grad-cam removes all or none; here pixels go by rank, equal ones in a fixed random order
    (:func:`camtrain.cam.stretch.rank`), so that always the same number is removed.

    Args:
        images: (maps, 3, height, width), normalised.
        maps: (maps, rows, columns), before ReLU.
        probability: from images (maps, 3, height, width) to that of each map's class (maps,).
        noise: (maps, 3, height, width) standard normal draws, the same at each percentile; none if left out.
        placement: where the cells lie in the image; None: in equal tiles.
        percentiles: 0..100 each.

    Returns:
        (maps,); nan for dead maps.
    """
    places = rank(upsample(maps, (images.shape[2], images.shape[3]), placement))
    cells = images.shape[2] * images.shape[3]
    differences = []
    for percentile in percentiles:
        kept = math.ceil((cells - 1) * percentile / 100)  # the values below numpy's percentile, if no two are equal
        least = probability(impute(images, places >= kept, noise))
        most = probability(impute(images, places < cells - kept, noise))
        differences.append((least - most) / 2)
    return torch.stack(differences).mean(0).masked_fill(is_dead(maps), torch.nan)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((2, 3), keepdim=True)


def _blur(values: Tensor, mirrored: bool) -> Tensor:
    """Sum over 3 x 3 pixels with weights (1, 2, 1) along both axes; outside is 0, or the edge repeated.

    Not a convolution of torch's, which is slower here on a CPU and which a GPU may round to ten bits.
    """
    for axis in (2, 3):
        size = values.shape[axis]
        summed = values * 2
        summed.narrow(axis, 1, size - 1).add_(values.narrow(axis, 0, size - 1))
        summed.narrow(axis, 0, size - 1).add_(values.narrow(axis, 1, size - 1))
        if mirrored:
            summed.narrow(axis, 0, 1).add_(values.narrow(axis, 0, 1))
            summed.narrow(axis, size - 1, 1).add_(values.narrow(axis, size - 1, 1))
        values = summed
    return values


def _neighbours(values: Tensor) -> Tensor:
    """Sum over the neighbours inside the image, with weights 1/6 and 1/12."""
    return _blur(values, mirrored=False).sub_(values, alpha=4).div_(12)


def _coarser(holes: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Cells of each coarser grid that reach, stretched by :func:`_prolong`, over removed pixels only; 1 or 0."""
    grids, known = [], (~holes).to(dtype)
    while max(known.shape[2:]) > 1:
        known = max_pool2d(known, 4, stride=2, padding=1, ceil_mode=True)
        if known.all():
            break
        grids.append(1 - known)
    return grids


def _precondition(residual: Tensor, grids: list[Tensor]) -> Tensor:
    """Sum of the residual and of its coarser versions, stretched: a symmetric approximate inverse of the system.

    In two dimensions a bilinear hat has the same energy, about 1, on each grid, so that none needs a weight; others
    were measured to be slower.
    """
    if not grids:
        return residual.clone()
    coarse = _precondition(_restrict(residual).mul_(grids[0]), grids[1:])
    return _prolong(coarse, residual.shape[2], residual.shape[3]).add_(residual)


def _prolong(values: Tensor, height: int, width: int) -> Tensor:
    """Stretched bilinearly to twice the size, or one pixel less."""
    doubled = values.repeat_interleave(2, 3).repeat_interleave(2, 2)[:, :, :height, :width]
    return _blur(doubled, mirrored=True).div_(16)


def _restrict(values: Tensor) -> Tensor:
    """The transpose of :func:`_prolong`."""
    height, width = values.shape[2:]
    spread = pad(_blur(values, mirrored=True), (0, width % 2, 0, height % 2))
    rows = spread[:, :, ::2] + spread[:, :, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]).div_(16)
