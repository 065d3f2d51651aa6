"""Areas under many curves at once, whose values are costly: more are asked for where a curve changes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

FINEST = 64
"""Values are taken at multiples of a 64th."""

COARSEST = 4
"""Intervals of which every curve has the values."""

TOLERANCE = 0.015
"""Width times change of a part of a curve, up to which it is looked at no more closely; for curves over 0..1."""

Values = Callable[[Tensor, Tensor], Tensor]
"""From numbers of curves (n,) and places in them (n,), int64, in 64ths, to the curves' values (n,)."""


def areas(values: Values, first: Tensor, last: Tensor, tolerance: float) -> Tensor:
    r"""Area under each curve over 0..1, by adaptive bisection.

    Every curve starts with :data:`COARSEST` intervals. One from a to b is halved, down to a 64th, while

    .. math:: (b - a) \max\left(|f(b) - f(a)|, \tfrac{1}{4} |f(l) - 2 f(m) + f(r)|\right) > \text{tolerance}

    with the second difference of the interval that it is a half of or, at first, at its ends. That finds where a curve
    falls and, as it need not be monotone, much of where it rises again. Two halves that are halved no further are taken
    together by Simpson's rule, the rest, and 64ths, by the trapezoidal rule.

    All intervals of a width are halved in one go, so that `values` is called few times, with many places. Which places
    these are depends on the curve alone.

    Args:
        values: at the places in between.
        first: (curves,), the values at 0.
        last: (curves,), the values at 1.
        tolerance: see above; negative: every 64th is looked at.

    Returns:
        (curves,) float64.
    """
    count, width = len(first), FINEST // COARSEST
    if count == 0:
        return first.double()
    curve = torch.arange(count, device=first.device)
    inner = torch.arange(width, FINEST, width, device=first.device)
    middle = values(curve.repeat_interleave(len(inner)), inner.repeat(count)).reshape(count, -1)
    known = torch.cat([first[:, None], middle, last[:, None]], 1).double()
    bend = pad(_bend(known[:, :-2], known[:, 1:-1], known[:, 2:]), (1, 1))
    left, right, bend = (
        part.flatten() for part in (known[:, :-1], known[:, 1:], torch.maximum(bend[:, :-1], bend[:, 1:]))
    )
    curve, start = curve.repeat_interleave(COARSEST), torch.arange(0, FINEST, width, device=first.device).repeat(count)

    total = torch.zeros(count, dtype=torch.float64, device=first.device)
    halved = _changes(left, right, bend, width) > tolerance
    total.index_add_(0, curve, torch.where(halved, 0, (left + right) / 2 * width / FINEST))
    while width > 1:
        curve, start, left, right = (part[halved] for part in (curve, start, left, right))
        if len(curve) == 0:
            break
        width //= 2
        middle = values(curve, start + width).double()
        left, right = torch.stack([left, middle]), torch.stack([middle, right])
        halved = (_changes(left, right, _bend(left[0], middle, right[1]), width) > tolerance) & (width > 1)
        apart = torch.where(halved, 0, (left + right) / 2).sum(0)
        together = (left[0] + 4 * middle + right[1]) / 3
        total.index_add_(0, curve, torch.where(halved.any(0) | (width == 1), apart, together) * width / FINEST)
        curve, start = curve.repeat(2), torch.cat([start, start + width])
        left, right, halved = left.flatten(), right.flatten(), halved.flatten()
    return total


def _bend(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    return (left - 2 * middle + right).abs() / 4


def _changes(left: Tensor, right: Tensor, bend: Tensor, width: int) -> Tensor:
    return torch.maximum((right - left).abs(), bend) * width / FINEST
