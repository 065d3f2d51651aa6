r"""The sharpened baseline: the reference arm's maps, each raised to a power.

Any network's maps can be concentrated in this way, without training anything. What a treatment gains over the sharpened
baseline, it gains by more than sharpness. The power is found on other images than it is used for, in two folds, and
twice: for the mean entropy of the treatment's maps, and for their mean elliptical area. Maps of the same entropy need
not be as tight: what is gained over both is gained by more than either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from camtrain.arms import Contrast
from camtrain.cam.distribution import is_dead, positive_part

LOWEST, HIGHEST, STEPS = 1 / 64, 64.0, 24
"""Powers that are tried, and steps between them, each of the same ratio."""

HALVINGS = 30


def sharpened(maps: Tensor, power: float | Tensor) -> Tensor:
    r""":math:`(L^+ / \max L^+)^\gamma`, (maps, height, width); a dead map stays 0. Power 1 changes no distribution.

    Args:
        maps: (maps, height, width), before ReLU.
        power: of all maps, or of each, (maps,).
    """
    positive = positive_part(maps)
    live = ~is_dead(maps)[:, None, None]
    powers = torch.as_tensor(power, dtype=positive.dtype, device=positive.device).reshape(-1, 1, 1)
    return (positive / positive.amax((1, 2), keepdim=True).where(live, 1.0)) ** powers * live


def power_for(maps: Tensor, wanted: float, measure: Callable[[Tensor], Tensor]) -> float:
    r"""The :math:`\gamma` for which :func:`sharpened` maps have this mean, by bisection between powers that enclose it.

    The entropy of :math:`P^\gamma / \sum P^\gamma` falls as :math:`\gamma` rises, map by map, and so does the mean. The
    elliptical area need not where a map has several peaks; of several powers it is the one nearest to 1, on the scale
    of their logarithms. Where none is found between :data:`LOWEST` and :data:`HIGHEST`, it is the nearest one tried.

    Args:
        maps: (maps, height, width), before ReLU.
        wanted: mean over maps that are not dead.
        measure: from maps to (maps,), nan for dead ones.

    Returns:
        1 if every map is dead, or there is none, or the mean is not defined.
    """
    live = maps[measure(maps).isfinite()]
    if len(live) == 0 or not math.isfinite(wanted):
        return 1.0

    def excess(logarithm: float) -> float:
        return float(measure(sharpened(live, math.exp(logarithm))).double().mean()) - wanted

    first, last = math.log(LOWEST), math.log(HIGHEST)
    tried = [first + (last - first) * step / STEPS for step in range(STEPS + 1)]
    found = list(map(excess, tried))
    enclosing = [step for step in range(STEPS) if (found[step] > 0) != (found[step + 1] > 0)]
    if not enclosing:
        return math.exp(tried[min(range(STEPS + 1), key=lambda step: abs(found[step]))])
    step = min(enclosing, key=lambda step: abs(tried[step] + tried[step + 1]))
    low, high = tried[step], tried[step + 1]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (excess(middle) > 0) == (found[step] > 0) else (low, middle)
    return math.exp((low + high) / 2)


def powers_for(reference: Tensor, treatment: Tensor, fold: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """The powers for the maps of either fold, (2,) float64, each found on the maps of the other fold.

    Where in the other fold all maps of one arm are dead, or there are none, it is found on all maps.

    Args:
        reference: (maps, height, width), what is sharpened.
        treatment: (maps, height, width), whose mean it is to have.
        fold: (maps,) int64, 0 or 1.
        measure: as for :func:`power_for`.
    """
    known = measure(treatment).double()
    live = known.isfinite() & ~is_dead(reference)
    powers = []
    for half in (0, 1):
        other = fold.to(live.device) != half
        if not bool((live & other).any()):
            other = torch.ones_like(other)
        powers.append(power_for(reference[other], float(known[other].nanmean()), measure))
    return torch.tensor(powers, dtype=torch.float64)


Change = Callable[[Tensor], Tensor]
"""From a network's maps to those that are measured: the same, or sharpened."""


def changes(arm: str, contrasts: Iterable[Contrast], powers: Mapping[str, Tensor], fold: Tensor) -> dict[str, Change]:
    """What is measured of an arm's maps, by name: the maps as they are, and where it is a reference, sharpened to the
    entropy of each treatment.

    Args:
        arm: whose maps they are.
        contrasts: which arms are compared.
        powers: by sharpened baseline, of the maps of either fold, (2,).
        fold: (maps,) int64, 0 or 1.
    """
    own: dict[str, Change] = {arm: lambda maps: maps}
    return own | {
        pair.control: partial(sharpened, power=powers[pair.control][fold])
        for pair in contrasts
        if pair.reference == arm
    }
