"""Pareto fronts: which settings of a sweep no other one beats in two figures at once."""

from __future__ import annotations

import math
from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point, whether no other is at least as good in both figures and better in one; higher is better.

    Points with a figure that is not defined are never on the front.
    """
    return [
        all(map(math.isfinite, point))
        and not any(
            other[0] >= point[0] and other[1] >= point[1] and other != point
            for other in points
            if all(map(math.isfinite, other))
        )
        for point in points
    ]
