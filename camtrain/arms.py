"""Arms by name, and what is compared with what.

An experiment has two arms or more. The first one is the *reference*; each of the others is a *treatment*, and is
compared with it. Beside every treatment stands the *sharpened baseline*: the reference's maps, sharpened afterwards to
the treatment's entropy (:mod:`camtrain.evaluation.sharpened`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

BASELINE, REGULARISED = "baseline", "regularised"
"""The arms of the default experiment."""

CONTROL = "control"
"""Name under which the figures of the sharpened baseline are kept."""


class Contrast(NamedTuple):
    """A comparison of two arms."""

    reference: str
    treatment: str
    control: str  # under which the figures of the reference's sharpened maps are kept


def contrasts(arms: Iterable[str]) -> list[Contrast]:
    """The comparisons of an experiment: every arm but the first with the first.

    The first comparison's sharpened baseline is called `control`, that of another treatment `control:TREATMENT`.
    """
    reference, *treatments = arms
    return [
        Contrast(reference, treatment, CONTROL if number == 0 else f"{CONTROL}:{treatment}")
        for number, treatment in enumerate(treatments)
    ]
