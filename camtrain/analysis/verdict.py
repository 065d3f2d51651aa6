"""The rule by which a network is called more interpretable, condition by condition, each judged by its interval.

A map can be sharp and wrong, or dead, and a network can pay for it with accuracy; so no single figure decides. The
claim is made only if every condition holds over its whole 95 % interval (an intersection-union test: all must hold, so
that none needs a correction for their number). That the claim failed follows from a single contradicted condition, and
is not corrected: of a dozen that all lie just within their limits, now and then one is contradicted by chance.
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
from camtrain.metrics.catalogue import INDICATORS, other_map_tag

HELD_OUT_NEEDED = 2
"""Held-out methods that have to be no less faithful: methods whose maps were not trained on."""

SAME_MAP = 0.99
"""Correlation of maps from which on, in all arms, a method is equivalent to another one, and no further evidence.

In all arms, because very sharp maps are alike however they are made.
"""

DEAD_RATE = INDICATORS["cam/dead_rate"].title

CONCENTRATION, ACCURACY, FAITHFULNESS, HEALTH, BEYOND = (
    "concentration improves",
    "accuracy is kept",
    "faithfulness is kept",
    "maps stay alive",
    "more than sharpening",
)
"""Parts of the rule; the last one is not needed for the claim."""


class Outcome(enum.Enum):
    met = "met"
    failed = "failed"
    open = "open"  # the interval holds both what is asked for and what is not
    unmeasured = "not measured"


class Condition(NamedTuple):
    part: str  # of the rule
    name: str
    asked: str
    found: Interval  # treatment minus reference, or minus the sharpened baseline
    outcome: Outcome


class Claim(NamedTuple):
    margins: ReportConfig
    equivalent: Sequence[CamVariant]  # measured methods that are equivalent to the trained one or to a held-out one
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
    """Methods whose maps were measured beside the trained one's; argument as for :func:`held_out_methods`."""
    return [
        method for method in CamVariant if any(other_map_tag(method.value, "with_trained") in final for final in finals)
    ]


def held_out_methods(finals: Sequence[Mapping[str, float]]) -> list[CamVariant]:
    """Measured methods that are equivalent neither to the trained one nor to each other.

    Args:
        finals: last figures of every arm of every run, with `other_maps/METHOD/with_trained` and `.../like_METHOD`.
    """
    kept: list[CamVariant] = []
    for method in measured_methods(finals):
        names = [other_map_tag(method.value, "with_trained")]
        for other in kept:
            names.append(other_map_tag(method.value, f"like_{other.value}"))
            names.append(other_map_tag(other.value, f"like_{method.value}"))
        likeness = ([final[name] for final in finals if math.isfinite(final.get(name, math.nan))] for name in names)
        if not any(values and min(values) >= SAME_MAP for values in likeness):
            kept.append(method)
    return kept


class _Asked(NamedTuple):
    """What a condition asks of a difference."""

    part: str
    name: str
    tag: str
    low: bool  # that it lies below the limit; else above
    limit: float | None = None  # None: an improvement is asked for

    def judged(self, differences: Mapping[str, Interval]) -> Condition:
        found, limit = differences.get(self.tag, NOTHING), self.limit or 0.0
        outcome = (below if self.low else above)(found, limit, strict=self.limit is None)
        asked = f"{'below' if self.low else 'above'} {0 if self.limit is None else f'{self.limit:+g}'}"
        return Condition(self.part, self.name, asked, found, outcome)


def judge(
    differences: Mapping[str, Interval],
    beside_sharpened: Mapping[str, Interval],
    held_out: Sequence[CamVariant],
    margins: ReportConfig,
    primary: str,
    equivalent: Sequence[CamVariant] = (),
) -> Claim:
    """Judge the conditions of the rule.

    Args:
        differences: of each tag, treatment minus reference.
        beside_sharpened: of each tag, treatment minus sharpened baseline.
        held_out: methods that were not trained on, whose tags are `other_maps/METHOD/deletion` and so on.
        margins: what "not worse" means.
        primary: tag of accuracy or mean average precision.
        equivalent: methods that were measured and are equivalent to others.
    """
    faithful, health = margins.faithfulness_margin, margins.health_margin
    title = {tag: indicator.title for tag, indicator in INDICATORS.items()}
    asked = [
        _Asked(CONCENTRATION, title["cam/entropy"], "cam/entropy", low=True),
        _Asked(CONCENTRATION, title["cam/area"], "cam/area", low=True),
        _Asked(ACCURACY, title[primary], primary, low=False, limit=-margins.accuracy_margin),
    ]
    groups = [("faithfulness", "trained map"), *((f"other_maps/{method.value}", method.value) for method in held_out)]
    for group, words in groups:
        asked.append(_Asked(FAITHFULNESS, f"deletion, {words}", f"{group}/deletion", low=True, limit=faithful))
        asked.append(_Asked(FAITHFULNESS, f"insertion, {words}", f"{group}/insertion", low=False, limit=-faithful))
    conditions = [one.judged(differences) for one in asked]
    missing = HELD_OUT_NEEDED - len(held_out)
    if missing > 0:
        name, wanted = f"{missing} more to measure", f"{HELD_OUT_NEEDED} held-out methods"
        conditions.append(Condition(FAITHFULNESS, name, wanted, NOTHING, Outcome.unmeasured))

    def against(tag: str) -> str:
        return f"{title[tag]}, against the sharpened baseline"

    drop = "faithfulness/drop"
    conditions += [
        _Asked(FAITHFULNESS, against(drop), drop, low=True, limit=faithful).judged(beside_sharpened),
        _Asked(HEALTH, DEAD_RATE, "cam/dead_rate", low=True, limit=health).judged(differences),
        _Asked(HEALTH, title["cam/border_mass"], "cam/border_mass", low=True, limit=health).judged(differences),
    ]
    directions = (("cam/energy_in_mask", False), ("faithfulness/insertion", False), ("faithfulness/deletion", True))
    beyond = [_Asked(BEYOND, against(tag), tag, low).judged(beside_sharpened) for tag, low in directions]
    return Claim(margins, equivalent, conditions, beyond)


VERDICTS = {
    Outcome.met: "more interpretable",
    Outcome.failed: "not more interpretable",
    Outcome.open: "not settled",
}

HEADLINES = {
    Outcome.met: "More interpretable {where}, by {rule}.",
    Outcome.failed: "Not more interpretable {where}, by {rule}.",
    Outcome.open: "Not settled {where}: by {rule} it is neither shown nor refuted to be more interpretable.",
}


def sentences(claim: Claim, seeds: Sequence[int]) -> list[str]:
    """The claim in one sentence, then what contradicts it or leaves it open, then what goes beyond sharpening.

    Args:
        claim: judged.
        seeds: of the runs that it was judged by.
    """
    one = len(seeds) == 1
    where = f"in this one run (seed {seeds[0]})" if one else f"over {len(seeds)} seeds"
    lines = [HEADLINES[claim.outcome].format(where=where, rule=claim.rule)]
    if claim.changed:
        lines.append(f"Margins other than the default: {'; '.join(claim.changed)}.")
    for outcome, words in (
        (Outcome.failed, "Contradicted"),
        (Outcome.open, "Open"),
        (Outcome.unmeasured, "Not measured"),
    ):
        names = [condition.name for condition in claim.conditions if condition.outcome is outcome]
        if names:
            lines.append(f"{words}: {'; '.join(names)}.")
    if claim.equivalent:
        names = [method.value for method in claim.equivalent]
        lines.append(f"Not counted as held out, because equivalent to another measured method: {', '.join(names)}.")
    if any(condition.outcome is not Outcome.unmeasured for condition in claim.beyond):
        better = _indicators(claim.beyond, Outcome.met)
        lines.append(
            f"Better than the sharpened baseline: {better}."
            if better
            else "Not shown to be better in anything than the sharpened baseline, which takes no training."
        )
    worse = _indicators(claim.beyond, Outcome.failed)
    if worse:
        lines.append(f"Worse than the sharpened baseline: {worse}.")
    return lines


def caution(seeds: Sequence[int]) -> list[str]:
    """What has to be said where a claim was judged by one seed or two."""
    if len(seeds) == 1:
        return [
            "One run is one seed, and the intervals do not include the variation between seeds: train with"
            " seed=0,1,2,3,4, then task=report."
        ]
    if len(seeds) == 2:
        return ["Two seeds tell hardly anything about the variation between seeds: train with seed=0,1,2,3,4."]
    return []


def _indicators(beyond: Sequence[Condition], outcome: Outcome) -> str:
    """Names of the indicators whose condition has an outcome."""
    return "; ".join(condition.name.partition(",")[0] for condition in beyond if condition.outcome is outcome)
