r"""Does the network use what a map shows? Images are changed where the map is high, and the probability watched.

All functions take images that are normalised, so that 0 is the mean colour, and `probability`, see
:class:`Probability`. They are called without gradients. A dead map shows nothing: its values are ``nan``, and it is
counted in the dead rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from camtrain.cam.distribution import correlation, is_dead, nan_where_dead
from camtrain.cam.stretch import Placement, upsample
from camtrain.data.blur import blur
from camtrain.metrics import quadrature

CHUNK, CHUNK_OF_GPU = 2**20, 2**22
"""Pixels that go through the network at once while curves are measured: on a CPU more are no faster."""

LEAST = 0.05
"""Mean fall of the probability from whole to empty images, below which nothing is measured by it."""


class Probability(Protocol):
    """From images (n, 3, height, width), and the numbers (n,) of the maps to whose classes they belong, to their
    probabilities (n,). Without numbers there is an image for each map."""

    def __call__(self, images: Tensor, of: Tensor | None = None, /) -> Tensor: ...


class Ends(NamedTuple):
    """Probabilities of each map's class that no map changes, (maps,) each."""

    whole: Tensor  # of the image: deletion starts here, insertion ends
    mean: Tensor  # of the mean colour: deletion ends here
    blurred: Tensor  # of the blurred image: insertion starts here


class Falls(NamedTuple):
    """By how much a network's probabilities fall when images go, on average over them."""

    blurred: float
    mean: float

    @classmethod
    def of(cls, known: Sequence[Ends]) -> Falls:
        """Of all images, in parts; nan where it is less than :data:`LEAST`, so that nothing can be measured by it."""
        whole, mean, blurred = (torch.cat(parts).double().mean() for parts in zip(*known, strict=True))
        falls = (float(whole - blurred), float(whole - mean))
        return cls(*(fall if fall >= LEAST else math.nan for fall in falls))


def ends(images: Tensor, probability: Probability, whole: Tensor | None = None) -> Ends:
    """What maps of the same images and classes have in common; arguments as for :func:`curve_areas`.

    `whole`, (maps,), is the probability of the unchanged images, where it is known already.
    """
    whole = probability(images) if whole is None else whole
    return Ends(whole, probability(torch.zeros_like(images)), probability(blur(images)))


def shown(maps: Tensor, size: tuple[int, int], placement: Placement | None = None) -> Tensor:
    r"""The share of each pixel that a map shows, M: the stretched :math:`L^+` over its maximum, 0..1; 0 of a dead map.

    Args:
        maps: (maps, rows, columns), before ReLU.
        size: height and width of the image.
        placement: where the cells lie in it; None: in equal tiles.

    Returns:
        (maps, *size).
    """
    stretched = upsample(maps, size, placement)
    highest = stretched.amax((1, 2), keepdim=True).clamp_min(torch.finfo(stretched.dtype).tiny)
    return (stretched / highest).masked_fill(is_dead(maps)[:, None, None], 0)


class Confidence(NamedTuple):
    """What is left of the probability when only what the map shows is left of the image; (maps,) each."""

    drop: Tensor
    increase: Tensor


def confidence(whole: Tensor, left: Tensor, maps: Tensor) -> Confidence:
    r"""Average drop and increase in confidence (Chattopadhay et al., WACV 2018).

    .. math:: \text{drop} = \frac{\max(0, p(x) - p(x \odot M))}{p(x)}, \quad \text{increase} = [p(x \odot M) > p(x)]

    with M by :func:`shown`. As torch-cam's `ClassificationMetric`; grad-cam's `DropInConfidence` is the numerator
    alone. Lower drop and higher increase are better, both 0..1. Sharper maps leave less of the image, and so tend to
    drop more.

    Args:
        whole: (maps,), probability of the unchanged images.
        left: (maps,), probability of the images of which the maps' share is left, :math:`x \odot M`.
        maps: (maps, rows, columns), before ReLU.
    """
    drop = (whole - left).relu() / whole.clamp_min(torch.finfo(whole.dtype).tiny)
    return Confidence(*(nan_where_dead(value, is_dead(maps)) for value in (drop, (left > whole).to(drop.dtype))))


class Adcc(NamedTuple):
    """The terms of ADCC but for the drop, and ADCC; (maps,) each, 0..1."""

    coherency: Tensor
    complexity: Tensor
    adcc: Tensor


def adcc(maps: Tensor, of_left: Tensor, drop: Tensor, size: tuple[int, int], placement: Placement | None) -> Adcc:
    r"""Average drop, coherency and complexity in one (Poppi et al., CVPR Workshops 2021).

    .. math:: \text{coherency} = \frac{1 + \rho(M(x \odot M), M)}{2}, \quad \text{complexity} = \overline{M}, \quad
       \text{ADCC} = \frac{3}{1/\text{coherency} + 1/(1 - \text{complexity}) + 1/(1 - \text{drop})}

    with M by :func:`shown` and :math:`\rho` Pearson's correlation over pixels. As in the paper and its code
    (aimagelab/ADCC) the harmonic mean is taken for each image, and the figure of a set is the mean of these, not the
    harmonic mean of its means. As in that code coherency is 0 where the correlation is not defined, because one of the
    two maps is the same everywhere; and a harmonic mean with a 0 is 0. Higher coherency and ADCC, and lower complexity,
    are better. A map that shows one pixel has hardly any complexity: the drop has to outweigh it.

    Args:
        maps: (maps, rows, columns), before ReLU.
        of_left: (maps, rows, columns), the maps of :math:`x \odot M` by the same method, network and class.
        drop: (maps,), by :func:`confidence`.
        size: height and width of the image.
        placement: where the cells lie in it; None: in equal tiles.
    """
    mask = shown(maps, size, placement)
    alike = correlation(mask, shown(of_left, size, placement))
    coherency, complexity = ((1 + alike) / 2).nan_to_num(0), mask.mean((1, 2)).clamp_max(1)
    terms = torch.stack([coherency, 1 - complexity, 1 - drop])
    dead = is_dead(maps)
    return Adcc(*(nan_where_dead(value, dead) for value in (coherency, complexity, 3 / (1 / terms).sum(0))))


class Areas(NamedTuple):
    """Under the curves of deletion and insertion, (orders, maps) each; nan where not asked for."""

    deletion: Tensor  # lower is better
    insertion: Tensor  # higher is better

    def contrast(self, falls: Falls) -> Tensor:
        r"""Insertion minus deletion, each in units of the mean fall, (orders, maps).

        .. math:: \frac{I}{\overline{p(x) - p(\text{blurred})}} - \frac{D}{\overline{p(x) - p(\text{mean})}}

        Networks differ in how the probability falls as pixels go, whichever these are. That cancels when the figure of
        another order of the same network is taken off, as do the values of the empty images. The mean over images is
        then a ratio of means: a mean of ratios, by the fall of each image, is one of the few images whose probability
        hardly falls, as those of the class that a network sees in an empty image, and differs from one training to the
        next by more than from map to map.
        """
        return self.insertion / falls.blurred - self.deletion / falls.mean


def curve_areas(
    images: Tensor,
    orders: Tensor,
    wanted: Tensor,
    probability: Probability,
    known: Ends,
    tolerance: float = quadrature.TOLERANCE,
) -> Areas:
    """Areas under the curves of deletion and insertion (RISE, Petsiuk et al., BMVC 2018), 0..1, in several orders.

    Pixels change in the given order: to the mean colour in deletion, from a blurred image to the image itself in
    insertion. The probability is looked at after every quarter of the pixels, and in between where it changes, down to
    every 64th; :mod:`camtrain.metrics.quadrature`. Beside 65 points, areas of single maps are off by 0.002 to 0.005
    (drawn shapes, 5 to 12 points between the ends) or 0.01 (photographs, whose curves rise and fall again and again, 15
    points), hardly to one side; with 15 equidistant points by 0.003 and 0.012. Of equal orders of a map only the first
    is computed.

    Args:
        images: (maps, 3, height, width), normalised.
        orders: (orders, maps, height, width) int, the place of each pixel, 0 the first, see
            :func:`camtrain.cam.stretch.rank`.
        wanted: (orders, maps) bool, which curves are asked for.
        probability: of each map's class.
        known: of these images and classes, by :func:`ends`.
        tolerance: of :func:`camtrain.metrics.quadrature.areas`.
    """
    first = _first_equal(orders, wanted)
    computed = wanted & (first == torch.arange(len(orders), device=first.device)[:, None])
    inserts, order, row = computed.expand(2, -1, -1).nonzero(as_tuple=True)
    blurred, pixels = blur(images), orders[0, 0].numel()
    chunk = max(1, (CHUNK if images.device.type == "cpu" else CHUNK_OF_GPU) // pixels)

    def values(curves: Tensor, at: Tensor) -> Tensor:
        """Of curves (n,) after so many 64ths of the pixels."""
        count = (at * pixels + quadrature.FINEST // 2).div(quadrature.FINEST, rounding_mode="floor")
        found = []
        for number, changed in zip(torch.split(curves, chunk), torch.split(count, chunk), strict=True):
            of, inserting = row[number], inserts[number].bool()[:, None, None]
            whole = (orders[order[number], of] < changed[:, None, None]) == inserting
            empty = blurred[of] * inserting[:, None]
            found.append(probability(torch.where(whole[:, None], images[of], empty), of))
        return torch.cat(found)

    sides = torch.stack([known.whole, known.blurred]), torch.stack([known.mean, known.whole])
    start, end = (side[inserts, row] for side in sides)
    area = quadrature.areas(values, start, end, tolerance)
    found = torch.full((2, *wanted.shape), torch.nan, dtype=known.whole.dtype, device=area.device)
    found[inserts, order, row] = area.to(found.dtype)
    return Areas(*found.gather(1, first.expand(2, -1, -1)).masked_fill(~wanted, torch.nan))


def _first_equal(orders: Tensor, wanted: Tensor) -> Tensor:
    """The first order that is wanted and the same as each one, of every map, (orders, maps) int64; else its own."""
    first = torch.arange(len(orders), device=orders.device)[:, None].repeat(1, orders.shape[1])
    for number in range(1, len(orders)):
        for earlier in reversed(range(number)):
            same = (orders[earlier] == orders[number]).flatten(1).all(1) & wanted[earlier]
            first[number] = torch.where(same, earlier, first[number])
    return first


def blocks(height: int, width: int, places: Tensor) -> Tensor:
    """A map of square blocks in a random order, (height, width), which knows nothing of the image.

    Args:
        height: of the image.
        width: of the image.
        places: (n,), a permutation, of which the first ones are taken; n at least the number of blocks, see
            :func:`block_counts`.
    """
    edge, rows, columns = block_counts(height, width)
    grid = places[: rows * columns].reshape(rows, columns)
    return grid.repeat_interleave(edge, 0).repeat_interleave(edge, 1)[:height, :width]


def block_counts(height: int, width: int) -> tuple[int, int, int]:
    """Edge of the blocks in pixels, an eighth of the image's shorter side, and how many rows and columns there are."""
    edge = max(1, round(min(height, width) / 8))
    return edge, -(-height // edge), -(-width // edge)
