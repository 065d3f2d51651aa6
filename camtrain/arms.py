"""Arms by name, and what is compared with what.

An experiment has two arms or more. The first one is the *reference*; each of the others is a *treatment*, and is
compared with it. Beside every treatment stands the *sharpened baseline*: the reference's maps, sharpened afterwards to
the treatment's entropy, and a second time to its elliptical area (:mod:`camtrain.evaluation.sharpened`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from camtrain.errors import UserError

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


def spread(arms: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """The reference, and in place of the treatment an arm for every value, or every combination of values.

    Args:
        arms: the reference and one treatment.
        by: lists of values by the key of `cam` that they belong to; empty: the arms stay.

    Returns:
        By the arm's name, such as `share_0_3`, the settings in which it differs.

    Raises:
        UserError: there are other arms, a key has no list of values, or two of them give one name.
    """
    if not by:
        return dict(arms)
    reference, *treatments = arms
    if len(treatments) > 1:
        raise UserError(
            f"arms_by makes the arms, but `arms` or a preset has {', '.join(treatments)} already; leave it out"
        )
    for key, values in by.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"arms_by.{key}={values} does not fit; it must be a list of values, such as [A,B]")
    own = arms[treatments[0]].get("cam", {})
    found = {reference: arms[reference]}
    for values in itertools.product(*by.values()):
        differences = dict(zip(by, values, strict=True))
        name = re.sub("[^a-z0-9]+", "_", "_".join(f"{key}_{value}" for key, value in differences.items()).lower())
        if name in found:
            raise UserError(f"arms_by: two arms would be called {name}; give each value once")
        found[name] = {"cam": {**own, **differences}}
    return found


def is_control(name: str) -> bool:
    """Whether a name is that of a sharpened baseline."""
    return name.partition(":")[0] in (CONTROL, CONTROL_AREA)
