r"""Does the network use what a map shows? Images are changed where the map is high, and the probability watched.

All functions take images that are normalised, so that 0 is the mean colour, and `probability`, a function from such
images (maps, 3, height, width) to the probability of each map's class (maps,). They are called without gradients.
A dead map shows nothing: its values are ``nan``, and it is counted in the dead rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement, rank, upsample

Probability = Callable[[Tensor], Tensor]

STEPS = 16
"""Intervals of the deletion and insertion curves."""

BLUR_EDGE, BLUR_SIGMA = 11, 5.0
"""Of the blurred image that insertion starts from, in pixels, as published with RISE."""


class Ends(NamedTuple):
    """Probabilities of each map's class that no map changes, (maps,) each."""

    whole: Tensor  # of the image: deletion starts here, insertion ends
    mean: Tensor  # of the mean colour: deletion ends here
    blurred: Tensor  # of the blurred image: insertion starts here


def ends(images: Tensor, probability: Probability) -> Ends:
    """What maps of the same images and classes have in common; arguments as for :func:`curves`."""
    return Ends(probability(images), probability(torch.zeros_like(images)), probability(blur(images)))


class Confidence(NamedTuple):
    """What is left of the probability when only what the map shows is left of the image; (maps,) each."""

    drop: Tensor
    increase: Tensor


def confidence(
    images: Tensor, maps: Tensor, probability: Probability, whole: Tensor, placement: Placement | None = None
) -> Confidence:
    r"""Average drop and increase in confidence (Chattopadhay et al., WACV 2018).

    .. math:: \text{drop} = \frac{\max(0, p(x) - p(x \odot M))}{p(x)}, \quad \text{increase} = [p(x \odot M) > p(x)]

    with M the stretched :math:`L^+` over its maximum. As torch-cam's `ClassificationMetric`; grad-cam's
    `DropInConfidence` is the numerator alone. Lower drop and higher increase are better, both 0..1. Sharper maps leave
    less of the image, and so tend to drop more.

    Args:
        images: (maps, 3, height, width), normalised.
        maps: (maps, rows, columns), before ReLU.
        probability: of each map's class.
        whole: (maps,), that of the unchanged images.
        placement: where the cells lie in the image; None: in equal tiles.
    """
    shown = upsample(maps, (images.shape[2], images.shape[3]), placement)
    shown = shown / shown.amax((1, 2), keepdim=True).clamp_min(torch.finfo(shown.dtype).tiny)
    left = probability(images * shown[:, None].to(images.dtype))
    drop = (whole - left).relu() / whole.clamp_min(torch.finfo(whole.dtype).tiny)
    return Confidence(*(value.masked_fill(is_dead(maps), torch.nan) for value in (drop, (left > whole).to(drop.dtype))))


class Curves(NamedTuple):
    """Probability of each map's class along the two curves, (maps, steps + 1) each; nan for dead maps."""

    deletion: Tensor
    insertion: Tensor


def curves(
    images: Tensor,
    maps: Tensor,
    probability: Probability,
    known: Ends,
    placement: Placement | None = None,
    steps: int = STEPS,
) -> Curves:
    """Deletion and insertion (RISE, Petsiuk et al., BMVC 2018).

    Pixels change in the descending order of the stretched map: to the mean colour in deletion, from a blurred image
    to the image itself in insertion. Pixels of equal value, as where the map is 0, change row by row.

    Args:
        images: (maps, 3, height, width), normalised.
        maps: (maps, rows, columns), before ReLU.
        probability: of each map's class.
        known: of these images and classes, by :func:`ends`.
        placement: where the cells lie in the image; None: in equal tiles.
        steps: intervals; after each of them the same number of pixels more has changed, but for rounding.
    """
    height, width = images.shape[2:]
    places = rank(upsample(maps, (height, width), placement))[:, None]
    mean, blurred = torch.zeros((), dtype=images.dtype, device=images.device), blur(images)
    deleted, inserted = [known.whole], [known.blurred]
    for step in range(1, steps):
        changed = places < round(step * height * width / steps)
        deleted.append(probability(torch.where(changed, mean, images)))
        inserted.append(probability(torch.where(changed, images, blurred)))
    deleted.append(known.mean)
    inserted.append(known.whole)
    dead = is_dead(maps)[:, None]
    return Curves(*(torch.stack(curve, 1).masked_fill(dead, torch.nan) for curve in (deleted, inserted)))


def area_under(curve: Tensor) -> Tensor:
    """Mean of a curve by the trapezoidal rule, (maps, steps + 1) to (maps,), 0..1.

    Of a deletion curve lower is better, of an insertion curve higher.
    """
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


def blur(images: Tensor) -> Tensor:
    """Gaussian blur of :data:`BLUR_SIGMA` pixels, the image's edges repeated."""
    at = torch.arange(BLUR_EDGE, dtype=images.dtype, device=images.device) - BLUR_EDGE // 2
    weights = torch.exp(-(at**2) / (2 * BLUR_SIGMA**2))
    weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    half = BLUR_EDGE // 2
    across = conv2d(pad(images, (half, half, 0, 0), mode="replicate"), weights, groups=images.shape[1])
    return conv2d(pad(across, (0, 0, half, half), mode="replicate"), weights.mT, groups=images.shape[1])
