r"""The sharpened baseline: the reference arm's maps, each raised to a power.

Any network's maps can be concentrated in this way, without training anything. What a treatment gains over the sharpened
baseline, it gains by more than sharpness.
"""

from __future__ import annotations

import math

from torch import Tensor

from camtrain.cam.distribution import is_dead, positive_part
from camtrain.metrics.concentration import entropy

LOWEST, HIGHEST = 1 / 64, 64.0
"""Powers that are tried."""

HALVINGS = 40


def sharpened(maps: Tensor, power: float) -> Tensor:
    r""":math:`(L^+ / \max L^+)^\gamma`, (maps, height, width); a dead map stays 0. Power 1 changes no distribution."""
    positive = positive_part(maps)
    live = ~is_dead(maps)[:, None, None]
    return (positive / positive.amax((1, 2), keepdim=True).where(live, 1.0)) ** power * live


def power_for(maps: Tensor, mean_entropy: float) -> float:
    r"""The :math:`\gamma` for which :func:`sharpened` maps have this mean entropy, by bisection.

    The entropy of :math:`P^\gamma / \sum P^\gamma` falls as :math:`\gamma` rises, map by map, and so does the mean.
    Where no power between :data:`LOWEST` and :data:`HIGHEST` reaches it, the nearer of the two.

    Args:
        maps: (maps, height, width), before ReLU.
        mean_entropy: nats, over maps that are not dead.

    Returns:
        1 if every map is dead, or there is none, or the entropy is not defined.
    """
    values = entropy(maps)
    live = maps[values.isfinite()]
    if len(live) == 0 or not math.isfinite(mean_entropy):
        return 1.0
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(entropy(sharpened(live, math.exp(middle))).double().mean()) > mean_entropy:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
