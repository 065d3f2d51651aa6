r"""How well a class activation map says where the object is: pure functions, a map's value per threshold or per map.

The measures of weakly supervised object localisation (WSOL) of Choe et al., 'Evaluating Weakly Supervised Object
Localization Methods Right' (CVPR 2020), and of its extension, 'Evaluation for Weakly Supervised Object Localization:
Protocol, Metrics, and Datasets' (TPAMI, arXiv 2007.04178), which defines MaxBoxAccV2 and PxAP. Reference code:
`evaluation.py` and `inference.py` of clovaai/wsolevaluation, called WSOL below.

Notation: :math:`s` is the map stretched to the image and brought to 0..1 (:func:`scaled`); its mask at the threshold
:math:`\tau` is :math:`\{s > \tau\}`, with the strict comparison of WSOL; *void* pixels (255) are neither object nor
background. How high the map's values are says nothing about where the object ends, so that every threshold is tried and
the best one is taken, one for all maps, not one for each. It is chosen on other images than it is judged on: of two
halves of the images, each is judged at what is best for the other (:func:`at_best`).

Where the map comes from differs from WSOL in two points: it is :math:`L^+`, what every other indicator measures, not
the map before ReLU; and it is stretched bilinearly, not by a cubic, which overshoots. In WSOL, s is rounded to 8 bits
before boxes are drawn; here it is not.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement, upsample
from camtrain.regions import VOID, has_object, known_mask, object_mask

THRESHOLDS = 100
r"""Number of thresholds :math:`\tau` = 0, 0.01, ..., 0.99. WSOL's default is 1000 of them, in steps of 0.001."""

LEVELS = (0.3, 0.5, 0.7)
r"""The overlaps :math:`\delta` of boxes at which MaxBoxAccV2 counts a map as correct."""

_FLAT = 16
"""Range of a stretched map, in roundings of its maximum, up to which it is constant: stretching rounds."""

_RANK_BITS, _INDEX_BITS = 23, 31
_LEVEL_SHIFT = _RANK_BITS + 1 + _INDEX_BITS


def scaled(maps: Tensor, size: tuple[int, int], placement: Placement | None = None) -> Tensor:
    r""":math:`s = (u - \min u) / (\max u - \min u)` of the stretched :math:`L^+`, u; 0..1 (WSOL's normalize_scoremap).

    A constant live map is 1 everywhere: it marks the whole image. WSOL makes it 0, that is, no mark at all; then the
    uniform map, the least a map has to beat, would have no score. A dead map is 0 everywhere, and a map that is not
    finite is as well, as in WSOL one with a nan.

    Args:
        maps: (maps, height, width), before ReLU.
        size: height and width of the image.
        placement: where the cells lie in it; None: in equal tiles.

    Returns:
        (maps, *size), float32 or wider.
    """
    stretched = upsample(maps, size, placement)
    bottom, top = stretched.amin((1, 2), keepdim=True), stretched.amax((1, 2), keepdim=True)
    spread = top - bottom
    # Not <= 0: interpolation between equal cells differs in the last digit, which must not be blown up to 0..1.
    flat = spread <= _FLAT * torch.finfo(top.dtype).eps * top
    normal = torch.where(flat, 1.0, (stretched - bottom) / torch.where(flat, 1.0, spread))
    # An image smaller than the map can miss the live cells: top is 0 then. It is nan, and this false, where a cell is
    # nan or infinite (interpolation has infinity times 0).
    live = ~is_dead(maps)[:, None, None] & (top > 0)
    return torch.where(live, normal, 0.0).contiguous()


def overlap(maps: Tensor, region: Tensor, placement: Placement | None = None) -> Tensor:
    r"""Intersection over union of the mask and the object's pixels at every threshold, 0..1.

    .. math:: \mathrm{IoU}(\tau) = \frac{|\{s > \tau\} \cap O|}{|\{s > \tau\} \cup O|}

    Void pixels are left out of both. Not a measure of WSOL, whose masks only go into PxAP; thresholds as there.

    Args:
        maps: (maps, height, width).
        region: (maps, image height, image width) uint8, 0 background, 255 void, other values the object.
        placement: as for :func:`scaled`.

    Returns:
        (maps, THRESHOLDS); 0 for dead maps, nan in the whole row where the region holds no object.
    """
    marks = scaled(maps, (region.shape[-2], region.shape[-1]), placement)
    counts = _counts(_passed(marks), region, THRESHOLDS + 1)
    # Column t: pixels that pass more than t thresholds, that is, whose value is above the t-th.
    above = counts.flip(2).cumsum(2).flip(2)[:, :, 1:]
    pixels = counts[:, 1].sum(1, keepdim=True)
    # The union is the object and what is marked outside of it.
    ratio = above[:, 1].double() / (pixels + above[:, 0]).clamp_min(1)
    return ratio.masked_fill(~has_object(region)[:, None], torch.nan).to(marks.dtype)


def box_overlap(maps: Tensor, region: Tensor, placement: Placement | None = None) -> Tensor:
    r"""Best overlap of a box drawn around the mask with a box around an object at every threshold, 0..1 (MaxBoxAccV2).

    .. math:: \max_{i, j}\ \mathrm{IoU}(B_i(\tau), G_j)

    :math:`B_i(\tau)` is the bounding box of the i-th 8-connected component of :math:`\{s > \tau\}`, :math:`G_j` that of
    the j-th 8-connected component of the object's pixels. Void pixels are not an object; the map may mark them. The
    data has no boxes of its own here, so that objects that touch count as one.

    Boxes cover whole pixels: from the first up to, not including, the one after the last. WSOL adds 1 to both sides in
    its overlap although its boxes are of that kind already, and cuts them at width - 1: not followed. It also draws
    boxes around the holes of a component, as OpenCV lists their outlines: not followed, as the paper speaks of
    components. Without a component it has the box (0, 0, 0, 0), one pixel by its count; here the overlap is 0.

    Computed on the CPU, for all thresholds at once: see :func:`_boxes`.

    Args:
        maps: (maps, height, width).
        region: as for :func:`overlap`.
        placement: as for :func:`scaled`.

    Returns:
        (maps, THRESHOLDS) on the device of the maps; 0 for dead maps, nan in the whole row without an object.
    """
    marks = scaled(maps, (region.shape[-2], region.shape[-1]), placement)
    keys = _keys(marks).cpu().numpy()
    inside = object_mask(region).cpu().numpy()
    curves = np.full((len(keys), THRESHOLDS), np.nan)
    for curve, key, objects in zip(curves, keys, inside, strict=True):
        labels, number = ndimage.label(objects, np.ones((3, 3), dtype=np.int64))
        if number:
            found = ndimage.find_objects(labels)
            truth = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found]
            curve[:] = _best(_boxes(key), truth)
    return torch.from_numpy(curves).to(marks.device, marks.dtype)


def at_best(curves: Tensor, fold: Tensor) -> Tensor:
    r"""The values at the threshold that is best for the maps of the other fold, f' = 1 - f.

    .. math:: c_i(\tau_{f'(i)}), \quad \tau_f = \arg\max_\tau \underset{i \in f}{\mathrm{nanmean}}\, c_i(\tau)

    One threshold for all maps of a fold, the lowest if several are best. Where the other fold has no value at all, the
    threshold is the best one for all maps. WSOL takes the best one for the maps that are judged; with all maps in one
    fold, the nanmean of the values here is its "max over the thresholds of the mean".

    Args:
        curves: (maps, thresholds), nan where a map has no value.
        fold: (maps,) int64, 0 or 1.

    Returns:
        (maps,); nan for rows of nan.
    """
    values = curves.new_empty(len(curves))
    for half in (0, 1):
        judged, others = fold == half, curves[fold != half]
        fitted = curves if bool(others.isnan().all()) else others
        mean = fitted.double().nanmean(0).nan_to_num(nan=-torch.inf)
        # Not argmax, which may take any of several.
        values[judged] = curves[judged, (mean == mean.max()).nonzero()[0, 0]]
    return values


def box_accuracy(curves: Tensor, fold: Tensor) -> Tensor:
    r"""MaxBoxAccV2 as a value of each map, 0..1: its nanmean over the maps is MaxBoxAccV2 over two folds.

    .. math:: \frac{1}{3} \sum_{\delta} [c_i(\tau_\delta) \ge \delta], \quad
              \tau_\delta = \arg\max_\tau \mathrm{nanmean}_i\, [c_i(\tau) \ge \delta], \quad \delta = 0.3, 0.5, 0.7

    As in WSOL, every :math:`\delta` has a threshold of its own; :func:`at_best` says on which maps it is chosen, and
    which of several. WSOL gives per cent.

    Args:
        curves: (maps, thresholds), as :func:`box_overlap` gives them.
        fold: (maps,) int64, 0 or 1.

    Returns:
        (maps,); nan for rows of nan.
    """
    missing = curves.isnan()
    correct = [at_best((curves >= level).to(curves.dtype).masked_fill(missing, torch.nan), fold) for level in LEVELS]
    return torch.stack(correct).mean(0)


def pixel_counts(maps: Tensor, region: Tensor, placement: Placement | None = None, bins: int = 1000) -> Tensor:
    r"""Histogram of s over background pixels [0] and object pixels [1], summed over the maps that have an object.

    Bin l holds :math:`l / bins \le s < (l + 1) / bins`, the last one 1 as well. In WSOL, 1 has a bin of its own; that
    is the peak of each map, one pixel as a rule, and not worth a row of another length. Void pixels are left out. The
    pixels of a dead map are in the lowest bin. Counts of several calls may be added.

    Args:
        maps: (maps, height, width).
        region: as for :func:`overlap`.
        placement: as for :func:`scaled`.
        bins: as many as WSOL has by default.

    Returns:
        (2, bins) int64.
    """
    marks = scaled(maps, (region.shape[-2], region.shape[-1]), placement)
    edges = (torch.arange(bins, dtype=torch.float64, device=marks.device) / bins).to(marks.dtype)
    # By the edges, as in np.histogram; s * bins would round.
    number = torch.bucketize(marks, edges, right=True) - 1
    return (_counts(number, region, bins) * has_object(region)[:, None, None]).sum(0)


def pixel_average_precision(counts: Tensor) -> Tensor:
    r"""PxAP, the area under the curve of precision against recall of all pixels pooled, 0..1; scalar float64.

    .. math:: \mathrm{PxAP} = \sum_l \mathrm{precision}(\tau_l)\,
              (\mathrm{recall}(\tau_l) - \mathrm{recall}(\tau_{l-1})), \quad \tau_l \text{ descending}

    Precision and recall are those of :math:`\{s \ge \tau_l\}`, the lower edges of the bins. As in WSOL, points at which
    nothing is marked are skipped. WSOL gives per cent.

    Args:
        counts: (2, bins), as :func:`pixel_counts` gives them.

    Returns:
        nan without an object pixel.
    """
    background, inside = counts.flip(1).double()
    marked = (background + inside).cumsum(0)
    precision = inside.cumsum(0) / marked.clamp_min(1)
    # The increase of recall is what the bin itself adds; 0/0 without an object.
    area: Tensor = (precision * inside).sum() / inside.sum()
    return area


def size_share(region: Tensor) -> Tensor:
    """Share of the known pixels, those that are not void, that are the object, 0..1; (maps,), nan without object."""
    known = known_mask(region)
    share: Tensor = ((region > 0) & known).sum((1, 2)) / known.sum((1, 2)).clamp_min(1)
    return share.masked_fill(~has_object(region), torch.nan)


def uniform(height: int, width: int) -> Tensor:
    """The map that marks everything, (height, width) ones: what a map that says nothing scores."""
    return torch.ones(height, width)


def centred_gaussian(height: int, width: int) -> Tensor:
    r"""The map that says "in the middle", :math:`\exp(-(y - \bar y)^2 / 2\sigma_y^2 - (x - \bar x)^2 / 2\sigma_x^2)`.

    Its standard deviations are a quarter of each side, its centre is that of the image. WSOL compares with a centred
    Gaussian as well, and finds it hard to beat.

    Returns:
        (height, width), 0..1.
    """
    y = (torch.arange(height) - (height - 1) / 2) / (height / 4)
    x = (torch.arange(width) - (width - 1) / 2) / (width / 4)
    return (-0.5 * (y.square()[:, None] + x.square())).exp()


def _passed(marks: Tensor) -> Tensor:
    """How many thresholds each value is above, 0..THRESHOLDS, int64, in the shape of the values."""
    # In the precision of the values: 0.3 is not above 0.3.
    thresholds = (torch.arange(THRESHOLDS, dtype=torch.float64, device=marks.device) / THRESHOLDS).to(marks.dtype)
    return torch.bucketize(marks, thresholds)


def _counts(number: Tensor, region: Tensor, bins: int) -> Tensor:
    """Pixels of each map by bin, (maps, 2, bins) int64: [:, 0] background, [:, 1] object; void ones are not counted."""
    kind = (region > 0).long() + (region == VOID)
    rows = kind + 3 * torch.arange(len(region), device=region.device)[:, None, None]
    counts: Tensor = (rows * bins + number).flatten().bincount(minlength=len(region) * 3 * bins)
    return counts.reshape(len(region), 3, bins)[:, :2]


def _keys(marks: Tensor) -> Tensor:
    """The pixels of each map in one strict order, (maps, height, width) int64.

    By the thresholds they pass, then by value (rounded, to fit), then by position: the number holds all three.
    """
    height, width = marks.shape[-2:]
    rank = (marks * 2**_RANK_BITS).long()
    index = torch.arange(height * width, device=marks.device).reshape(height, width)
    keys: Tensor = (_passed(marks) << _LEVEL_SHIFT) | (rank << _INDEX_BITS) | index
    return keys


def _boxes(key: NDArray[np.int64]) -> NDArray[np.int32]:
    """Bounding boxes of the 8-connected components of one map's masks, at all thresholds.

    Labelling a hundred masks reads the image a hundred times; this reads it once. Every pixel belongs to the peak
    that it reaches by climbing to its highest neighbour. A peak's pixels above a threshold are connected through the
    peak, so that their box is a running minimum over the thresholds. Two peaks are in the same component below the
    highest pass between them; peaks are joined in the order of these passes, highest first (Kruskal).

    Args:
        key: (height, width), as :func:`_keys` gives it for each map.

    Returns:
        (4, peaks, THRESHOLDS): top, left, -bottom, -right, half-open. At each threshold every component has one entry,
        and the others are empty: (height, width, 0, 0).
    """
    height, width = key.shape
    level = (key >> _LEVEL_SHIFT).astype(np.int32)
    basin, peaks = _basins(key)

    boxes = np.empty((4, peaks, THRESHOLDS), dtype=np.int32)
    empty = np.array([height, width, 0, 0], dtype=np.int32)
    boxes[:] = empty[:, None, None]
    at = np.flatnonzero(level)
    entry = basin.ravel()[at] * THRESHOLDS + level.ravel()[at] - 1
    rows, columns = np.divmod(at.astype(np.int32), np.int32(width))
    for side, values in zip(boxes.reshape(4, -1), (rows, columns, -rows - 1, -columns - 1), strict=True):
        np.minimum.at(side, entry, values)
    boxes = np.minimum.accumulate(boxes[:, :, ::-1], axis=2)[:, :, ::-1]

    parent = list(range(peaks))

    def root(peak: int) -> int:
        while parent[peak] != peak:
            parent[peak] = parent[parent[peak]]
            peak = parent[peak]
        return peak

    for first, second, height_of_pass in _passes(level, basin, peaks):
        a, b = root(first), root(second)
        if a != b:
            parent[b] = a
            joined = boxes[:, a, :height_of_pass]
            np.minimum(joined, boxes[:, b, :height_of_pass], out=joined)
            boxes[:, b, :height_of_pass] = empty[:, None]
    return boxes


def _basins(key: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """The number of the peak that each pixel climbs to, (height, width), and how many peaks pass a threshold.

    The number of a pixel that passes no threshold means nothing.
    """
    across = key.copy()
    np.maximum(across[:, 1:], key[:, :-1], out=across[:, 1:])
    np.maximum(across[:, :-1], key[:, 1:], out=across[:, :-1])
    highest = across.copy()
    np.maximum(highest[1:], across[:-1], out=highest[1:])
    np.maximum(highest[:-1], across[1:], out=highest[:-1])
    target = (highest & (2**_INDEX_BITS - 1)).ravel()
    tops = np.flatnonzero((highest == key) & (key >> _LEVEL_SHIFT > 0))
    while True:  # twice as far each time
        further = target[target]
        if np.array_equal(further, target):
            break
        target = further
    number = np.zeros(key.size, dtype=np.int32)
    number[tops] = np.arange(len(tops))
    return number[target].reshape(key.shape), len(tops)


def _passes(level: NDArray[np.int32], basin: NDArray[np.int32], peaks: int) -> list[list[int]]:
    """Pairs of neighbouring peaks and the number of thresholds that their highest pass is above, highest first."""
    found = []
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        at = (basin[one] != basin[other]).nonzero()
        a, b = basin[one][at], basin[other][at]
        lower = np.minimum(level[one][at], level[other][at])
        pair = np.minimum(a, b).astype(np.int64) * peaks + np.maximum(a, b)
        found.append((pair * (THRESHOLDS + 1) + lower)[lower > 0])
    pair, lower = np.divmod(np.sort(np.concatenate(found)), THRESHOLDS + 1)
    last = np.append(pair[1:] != pair[:-1], True)[: len(pair)]
    pair, lower = pair[last], lower[last]
    order = np.argsort(-lower, kind="stable")
    first, second = np.divmod(pair[order], max(peaks, 1))
    passes: list[list[int]] = np.stack([first, second, lower[order]], 1).tolist()
    return passes


def _best(boxes: NDArray[np.int32], truth: list[tuple[int, int, int, int]]) -> NDArray[np.float64]:
    """Highest overlap of any box with any true one (top, left, bottom, right), at every threshold, (THRESHOLDS,)."""
    top, left, bottom, right = boxes[0], boxes[1], -boxes[2], -boxes[3]
    area = (bottom - top) * (right - left)
    best = np.zeros(THRESHOLDS)
    for y0, x0, y1, x1 in truth:
        # An empty box ends before it begins: no side in common, and an area above 0.
        rows = (np.minimum(bottom, y1) - np.maximum(top, y0)).clip(0)
        columns = (np.minimum(right, x1) - np.maximum(left, x0)).clip(0)
        common = rows * columns
        ratio = common / (area + (y1 - y0) * (x1 - x0) - common)
        best = np.maximum(best, ratio.max(0, initial=0))
    return best
