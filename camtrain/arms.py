"""Arms by name, and what is compared with what.

An experiment has two arms or more. The first one is the *reference*; each of the others is a *treatment*, and is
compared with it. Beside every treatment stands the *sharpened baseline*: the reference's maps, sharpened afterwards to
the treatment's entropy, and a second time to its elliptical area (:mod:`camtrain.evaluation.sharpened`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

BASELINE, REGULARISED = "baseline", "regularised"
"""The arms of the default experiment."""

CONTROL, CONTROL_AREA = "control", "control_area"
"""Names under which the figures of the sharpened baseline are kept: sharpened to the entropy, and to the area."""


class Contrast(NamedTuple):
    """A comparison of two arms."""

    reference: str
    treatment: str
    control: str  # under which the figures of the reference's maps are kept, sharpened to the treatment's entropy
    control_area: str  # likewise, sharpened to its elliptical area


def contrasts(arms: Iterable[str]) -> list[Contrast]:
    """The comparisons of an experiment: every arm but the first with the first.

    The first comparison's sharpened baselines are called `control` and `control_area`, those of another treatment
    `control:TREATMENT` and `control_area:TREATMENT`.
    """
    reference, *treatments = arms
    return [
        Contrast(reference, treatment, *(f"{name}:{treatment}" if number else name for name in (CONTROL, CONTROL_AREA)))
        for number, treatment in enumerate(treatments)
    ]


def is_control(name: str) -> bool:
    """Whether a name is that of a sharpened baseline."""
    return name.partition(":")[0] in (CONTROL, CONTROL_AREA)
