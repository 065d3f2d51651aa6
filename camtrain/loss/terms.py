r"""What can be asked of a map in the loss: one number per map, lower is what is asked for.

Each is a pure function of the map's distribution :math:`P = L^+ / \sum L^+`, shape (maps, height, width), so that the
scale of the map does not matter. A dead map's :math:`P` is zero, and so is its term. Gradients are finite everywhere.
The published term is the entropy (Schöttl, arXiv 2009.12546); the paper leaves others as future work. All but
:func:`energy_outside` cost next to nothing beside the map itself: a few operations on (maps, height, width).

The terms differ in scale, so a weight that suits one does not suit another: `cam.weight=auto` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from camtrain.cam.distribution import covariance_determinant, distribution, shannon
from camtrain.cam.stretch import Placement, weights
from camtrain.config.options import EntropyUnit, Term
from camtrain.regions import has_object, known_mask, object_mask


def entropy(shares: Tensor, unit: EntropyUnit) -> Tensor:
    r"""Entropy :math:`-\sum P \ln P`, in nats (0..ln N) or divided by :math:`\ln N` (0..1).

    Source: Schöttl 2020, CE.
    """
    values, cells = shannon(shares), shares.shape[1] * shares.shape[2]
    # A map of one cell has ln N = 0, and its entropy is 0 in any unit.
    return values / (math.log(cells) if cells > 1 and unit is EntropyUnit.normalised else 1.0)


def beyond_enough(entropies: Tensor, enough: float, cells: int, unit: EntropyUnit) -> Tensor:
    r"""What an entropy is above that of a map spread evenly over `enough` cells: :math:`\max(0, H - \ln n)`.

    Value and gradient are 0 for maps that cover no more: nothing presses on them.

    Args:
        entropies: (maps,), in `unit`.
        enough: :math:`n`, at least 1.
        cells: :math:`N` of each map.
        unit: nats, or divided by :math:`\ln N`.
    """
    whole = math.log(cells) if cells > 1 and unit is EntropyUnit.normalised else 1.0
    return (entropies - math.log(enough) / whole).relu()


def area(shares: Tensor) -> Tensor:
    r"""Elliptical area relative to that of a uniform map: :math:`12 \sqrt{\lambda_1 \lambda_2 + \epsilon^2} /
    \sqrt{(h^2 - 1)(w^2 - 1)}` less its value at 0.

    :math:`\lambda` are the eigenvalues of the covariance of cell position under :math:`P`; 0 for one cell, 1 for a
    uniform map, up to about 3 for a map in opposite corners. :math:`\epsilon` is 1e-3 cells squared: the root alone has
    an infinite slope at 0. Unlike the entropy it sees distance: two far cells are worse than two near ones. It is as
    well served by a map on a line, whose smaller eigenvalue is 0.

    Source: Schöttl 2020, CA, there an indicator.
    """
    height, width = shares.shape[-2:]
    uniform = max(math.sqrt((height**2 - 1) * (width**2 - 1)) / 12, 1e-12)
    epsilon = 1e-3
    return ((covariance_determinant(shares).clamp_min(0) + epsilon**2).sqrt() - epsilon) / uniform


def dispersion(shares: Tensor) -> Tensor:
    r"""Reciprocal dispersion :math:`1 / (1 + \mathrm{CD}) = 1 / (N \sum P^2)`, 1/N..1.

    The share of the cells that a map with as many equal cells would light; the indicator itself is higher for a
    sharper map and has no bound but N - 1.

    Source: Schöttl 2020, CD, there an indicator.
    """
    total = shares.square().sum((1, 2))
    dead = total == 0
    return (~dead).to(total.dtype) / (shares.shape[1] * shares.shape[2] * total.masked_fill(dead, 1.0))


def total_variation(shares: Tensor) -> Tensor:
    r"""Anisotropic total variation of :math:`P` over 4: :math:`\frac14 \sum |\nabla P|`, differences to the cell below
    and to the right; 0 (uniform) to 1 (one inner cell).

    It asks for a smooth map, not for a concentrated one: the opposite of the other terms, where maps are speckled.

    Source: Rudin, Osher and Fatemi 1992, here of the distribution.
    """
    down, right = shares.diff(dim=1).abs().sum((1, 2)), shares.diff(dim=2).abs().sum((1, 2))
    return (down + right) / 4


def energy_outside(shares: Tensor, region: Tensor, placement: Placement | None = None) -> Tensor:
    r"""One less the energy in mask, 0..1: the share of the stretched map outside the object.

    Guided training: needs masks or boxes of the training images. The stretch is linear, so the region is brought down
    to the map's grid by its transpose, once per batch and without a gradient; the value is exactly that of
    :func:`camtrain.metrics.pointing.energy_in_mask`. Void pixels count for nothing. Costs two small
    matrix products with the region.

    Args:
        shares: (maps, height, width).
        region: (maps, image height, image width) uint8, 0 background, 255 void, other values the object.
        placement: where the cells lie in the image; None: in equal tiles.

    Returns:
        (maps,); 0 where the map is dead or the region holds no object.

    Source: as a loss, Ross et al., IJCAI 2017 (right for the right reasons), there on input gradients; the energy is
    that of Wang et al., CVPR-W 2020.
    """
    inside, known = object_mask(region), known_mask(region)
    rows, columns = (
        weights(pixels, cells, axis, shares)
        for pixels, cells, axis in zip(region.shape[1:], shares.shape[1:], placement or (None, None), strict=True)
    )
    on_object, on_known = (rows.mT @ mask.to(shares.dtype) @ columns for mask in (inside, known))
    total = (shares * on_known).sum((1, 2))
    nothing = (total <= torch.finfo(total.dtype).tiny) | ~has_object(region)
    share = (shares * on_object).sum((1, 2)) / total.masked_fill(nothing, 1.0)
    return (1 - share).masked_fill(nothing, 0.0)


TERMS: dict[Term, Callable[[Tensor, EntropyUnit, Tensor | None, Placement | None], Tensor]] = {
    Term.none: lambda shares, *_: shares.new_zeros(len(shares)),
    Term.entropy: lambda shares, unit, *_: entropy(shares, unit),
    Term.area: lambda shares, *_: area(shares),
    Term.dispersion: lambda shares, *_: dispersion(shares),
    Term.total_variation: lambda shares, *_: total_variation(shares),
    Term.energy_outside: lambda shares, _, region, placement: energy_outside(shares, _needed(region), placement),
}
"""From a map's distribution (maps, height, width), the entropy's unit, each map's region and where its cells lie in the
image to (maps,)."""

NEED_REGIONS = frozenset({Term.energy_outside})
"""Terms that are defined only where the object is known."""


def term_values(
    kind: Term, maps: Tensor, region: Tensor | None, unit: EntropyUnit, placement: Placement | None = None
) -> tuple[Tensor, Tensor]:
    """The chosen term of each map, (maps,), and which maps it is defined for, (maps,) bool.

    Dead maps are left out, and for a term of :data:`NEED_REGIONS` maps of images without a region.

    Args:
        kind: which term.
        maps: (maps, height, width), before ReLU.
        region: of each map, (maps, image height, image width) uint8; for a term of :data:`NEED_REGIONS` alone.
        unit: of the entropy.
        placement: where the cells lie in the image, for the same; None: in equal tiles.
    """
    shares, dead = distribution(maps)
    defined = ~dead & has_object(_needed(region)) if kind in NEED_REGIONS else ~dead
    return TERMS[kind](shares, unit, region, placement), defined


def _needed(region: Tensor | None) -> Tensor:
    assert region is not None, "this term was chosen for images without regions"
    return region
