"""The rule by which a network is called more interpretable, condition by condition, each judged by its interval.

A map can be sharp and wrong, or dead, and a network can pay for it with accuracy; so no single figure settles it. The
claim is made only if every condition holds over its whole 95 % interval (an intersection-union test: all must hold, so
that none needs a correction for their number). That the claim failed follows from a single contradicted condition, and
is not corrected: of some dozen that all lie just within their limits, now and then one is contradicted by chance.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

from camtrain.analysis.intervals import NOTHING, Interval
from camtrain.config.options import CamVariant
from camtrain.config.schema import ReportConfig
from camtrain.metrics.classification import ACCURACY, PRECISION

HELD_OUT_NEEDED = 2
"""Maps that were not trained on and have to be no less faithful."""

SAME_MAP = 0.99
"""Correlation from which on, in both arms, a map is another one under another name, and no witness.

In both, because very sharp maps are alike whatever they are made from.
"""


PERFORMANCE = {ACCURACY: "accuracy", PRECISION: "mean average precision"}


DEAD_RATE = "dead rate"


class Outcome(enum.Enum):
    met = "met"
    failed = "failed"
    open = "open"  # the interval holds both what is asked for and what is not
    unmeasured = "not measured"


class Condition(NamedTuple):
    part: str  # of the rule
    name: str
    asked: str
    found: Interval  # regularised minus baseline, or minus the control
    outcome: Outcome


class Claim(NamedTuple):
    margins: ReportConfig
    doubles: Sequence[CamVariant]  # measured maps that are no witnesses
    conditions: Sequence[Condition]
    beyond: Sequence[Condition]  # is it more than sharpening? Not needed for the claim, but said beside it

    @property
    def changed(self) -> list[str]:
        """Margins that are not those of the default rule; wider ones let more pass."""
        pairs = ((entry.name, getattr(self.margins, entry.name), entry.default) for entry in fields(ReportConfig))
        return [
            f"{name} {value:g} ({'wider' if value > usual else 'narrower'} than {usual:g})"
            for name, value, usual in pairs
            if value != usual
        ]

    @property
    def rule(self) -> str:
        return "the rule with other margins" if self.changed else "the rule"

    @property
    def outcome(self) -> Outcome:
        """met if all conditions are; failed if one is; else open."""
        outcomes = {condition.outcome for condition in self.conditions}
        if outcomes == {Outcome.met}:
            return Outcome.met
        return Outcome.failed if Outcome.failed in outcomes else Outcome.open


def below(found: Interval, limit: float, strict: bool) -> Outcome:
    """Whether a difference lies below the limit: by its whole interval, not at all, or perhaps.

    An improvement has to be `strict`ly below; a margin may be used up.
    """
    if not math.isfinite(found.margin):
        return Outcome.unmeasured
    if found.high < limit or (not strict and found.high == limit):
        return Outcome.met
    return Outcome.failed if found.low > limit or (strict and found.low == limit) else Outcome.open


def above(found: Interval, limit: float, strict: bool) -> Outcome:
    """As :func:`below`, from the other side."""
    return below(Interval(-found.estimate, found.margin, found.p), -limit, strict)


def measured_methods(finals: Sequence[Mapping[str, float]]) -> list[CamVariant]:
    """Maps that were measured beside the trained one; argument as for :func:`witnesses`."""
    return [
        variant
        for variant in CamVariant
        if any(f"other_maps/{variant.value}/with_trained" in final for final in finals)
    ]


def held_out_methods(finals: Sequence[Mapping[str, float]]) -> list[CamVariant]:
    """Measured maps that are neither the trained one under another name, nor another witness.

    Args:
        finals: last figures of every arm of every run, with `other_maps/<map>/with_trained` and `.../like_<map>`.
    """
    kept: list[CamVariant] = []
    for variant in measured_methods(finals):
        group = f"other_maps/{variant.value}"
        names = [f"{group}/with_trained"]
        for other in kept:
            names += [f"{group}/like_{other.value}", f"other_maps/{other.value}/like_{variant.value}"]
        likeness = ([final[name] for final in finals if math.isfinite(final.get(name, math.nan))] for name in names)
        if not any(values and min(values) >= SAME_MAP for values in likeness):
            kept.append(variant)
    return kept


def judge(
    differences: Mapping[str, Interval],
    beside_control: Mapping[str, Interval],
    witnesses: Sequence[CamVariant],
    margins: ReportConfig,
    performance: str,
    doubles: Sequence[CamVariant] = (),
) -> Claim:
    """Tick off the rule.

    Args:
        differences: of each tag, regularised minus baseline.
        beside_control: of each tag, regularised minus the baseline's maps sharpened to the same entropy.
        witnesses: maps that were not trained on, whose tags are `other_maps/<map>/deletion` and so on.
        margins: what "not worse" means.
        performance: tag of accuracy or mean average precision.
        doubles: maps that were measured but are no witnesses.
    """

    def condition(
        part: str, name: str, tag: str, limit: float | None, low: bool, of: Mapping[str, Interval] = differences
    ) -> Condition:
        """Without a limit an improvement is asked for."""
        found = of.get(tag, NOTHING)
        outcome = (below if low else above)(found, limit or 0.0, limit is None)
        asked = f"{'below' if low else 'above'} {0 if limit is None else f'{limit:+g}'}"
        return Condition(part, name, asked, found, outcome)

    faithful, health = margins.faithfulness_margin, margins.health_margin
    conditions = [
        condition("concentration improves", "entropy, nats", "cam/entropy", None, True),
        condition("concentration improves", "elliptical area, cells", "cam/area", None, True),
        condition(
            "accuracy is kept",
            PERFORMANCE[performance.partition("/")[0]],
            performance,
            -margins.accuracy_margin,
            False,
        ),
    ]
    for name, low in (("deletion", True), ("insertion", False)):
        limit = faithful if low else -faithful
        conditions.append(condition("faithfulness is kept", f"{name}, trained map", f"faithfulness/{name}", limit, low))
    for variant in witnesses:
        for name, low in (("deletion", True), ("insertion", False)):
            limit = faithful if low else -faithful
            tag = f"other_maps/{variant.value}/{name}"
            conditions.append(condition("faithfulness is kept", f"{name}, {variant.value}", tag, limit, low))
    missing = HELD_OUT_NEEDED - len(witnesses)
    if missing > 0:
        asked = f"{HELD_OUT_NEEDED} maps that were not trained on"
        conditions.append(
            Condition("faithfulness is kept", f"{missing} more to measure", asked, NOTHING, Outcome.unmeasured)
        )
    conditions += [
        condition(
            "faithfulness is kept",
            "drop in confidence, beside the control",
            "faithfulness/drop",
            faithful,
            True,
            beside_control,
        ),
        condition("maps stay alive", DEAD_RATE, "cam/dead_rate", health, True),
        condition("maps stay alive", "mass at the border", "cam/border_mass", health, True),
    ]
    beyond = [
        condition(
            "more than sharpening",
            "energy in mask, beside the control",
            "cam/energy_in_mask",
            None,
            False,
            beside_control,
        ),
        condition(
            "more than sharpening",
            "insertion, beside the control",
            "faithfulness/insertion",
            None,
            False,
            beside_control,
        ),
        condition(
            "more than sharpening", "deletion, beside the control", "faithfulness/deletion", None, True, beside_control
        ),
    ]
    return Claim(margins, doubles, conditions, beyond)


VERDICTS = {
    Outcome.met: "more interpretable",
    Outcome.failed: "not more interpretable",
    Outcome.open: "not settled",
}

HEADLINES = {
    Outcome.met: "More interpretable {where}, by {rule}.",
    Outcome.failed: "Not more interpretable {where}, by {rule}.",
    Outcome.open: "Not settled {where}: more interpretable could not be shown by {rule}.",
}


def sentences(claim: Claim, seeds: Sequence[int]) -> list[str]:
    """The claim in one sentence, then what stands against it or keeps it open, then what sharpening would not do.

    Args:
        claim: judged.
        seeds: of the runs that it was judged by.
    """
    one = len(seeds) == 1
    where = f"in this one run (seed {seeds[0]})" if one else f"over {len(seeds)} seeds"
    lines = [HEADLINES[claim.outcome].format(where=where, rule=claim.rule)]
    if claim.changed:
        lines.append(f"Other margins than the default: {'; '.join(claim.changed)}.")
    for outcome, words in (
        (Outcome.failed, "Against it"),
        (Outcome.open, "Open"),
        (Outcome.unmeasured, "Not measured"),
    ):
        names = [condition.name for condition in claim.conditions if condition.outcome is outcome]
        if names:
            lines.append(f"{words}: {'; '.join(names)}.")
    if claim.doubles:
        names = [variant.value for variant in claim.doubles]
        lines.append(
            f"Not counted as a witness, being the trained map or a witness under another name: {', '.join(names)}."
        )
    if any(condition.outcome is not Outcome.unmeasured for condition in claim.beyond):
        better = [condition.name for condition in claim.beyond if condition.outcome is Outcome.met]
        lines.append(
            f"More than sharpening the baseline's maps would do: {'; '.join(better)}."
            if better
            else "Nothing was shown here that sharpening the baseline's maps afterwards would not do as well."
        )
    worse = [condition.name for condition in claim.beyond if condition.outcome is Outcome.failed]
    if worse:
        lines.append(f"Worse than sharpening the baseline's maps: {'; '.join(worse)}.")
    if one:
        lines.append(
            "One run is one seed, whose chance is in none of these intervals: train with seed=0,1,2,3,4, then"
            " task=report."
        )
    elif len(seeds) == 2:
        lines.append("Two seeds say hardly anything about the chance of the seed: train with seed=0,1,2,3,4.")
    return lines
