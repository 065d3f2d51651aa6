"""The rule: two statements, each by conditions that are judged by their intervals; docs/verdict.md states it.

*Better maps* is a claim of superiority, *nothing lost* one of non-inferiority. Each is made only if all of its
conditions hold at the one-sided 5 % level (an intersection-union test, Berger 1982: as all must hold, none needs a
correction for their number), and neither is made if a single seed fell off a cliff.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

from camtrain.analysis.intervals import NOTHING, Interval
from camtrain.analysis.planning import CLIFF, WANTED, Needed, missed, needed
from camtrain.config.options import CamVariant
from camtrain.config.schema import ReportConfig
from camtrain.metrics.catalogue import INDICATORS, other_map_tag
from camtrain.metrics.tags import ENERGY

HELD_OUT_NEEDED = 2
"""Held-out methods over which faithfulness has to be kept: methods whose maps were not trained on."""

SAME_MAP = 0.99
"""Correlation of maps from which on, in both arms of a comparison, a method is equivalent to another one, and is no
further evidence.

In all arms, because very sharp maps are alike however they are made.
"""

CLIFF_MARGINS = 3
"""Margins beyond which no seed may lie with its whole interval."""

GAIN, HELD_OUT_GAIN, DEAD_RATE = (
    "faithfulness/gain",
    "other_maps/gain",  # mean over the held-out methods
    "cam/dead_rate",
)
STABILITY = ("stability/flip", "stability/shift")

BETTER, NOTHING_LOST, BESIDE = "better maps", "nothing lost", "reported beside them"
"""The two statements, and what is not needed for either."""


class Outcome(enum.Enum):
    shown = "shown"
    refuted = "refuted"
    open = "open"  # the interval holds both what is asked for and what is not
    unmeasured = "not measured"


class Condition(NamedTuple):
    part: str  # of the rule
    name: str
    found: Interval  # treatment minus reference, or minus the sharpened baseline
    limit: float
    low: bool  # the difference has to lie below the limit; else above

    @property
    def asked(self) -> str:
        return f"{'below' if self.low else 'above'} {f'{self.limit:+g}' if self.limit else '0'}"

    @property
    def room(self) -> float:
        """How far the estimate lies on the right side of the limit."""
        return (self.limit - self.found.estimate) * (1 if self.low else -1)

    @property
    def outcome(self) -> Outcome:
        """Shown if the one-sided 95 % bound keeps the limit; refuted if the whole 95 % interval lies beyond it."""
        if not math.isfinite(self.found.bound):
            return Outcome.unmeasured
        if self.found.bound < self.room:
            return Outcome.shown
        return Outcome.refuted if self.found.margin < -self.room else Outcome.open


class Cliff(NamedTuple):
    """A figure of one seed whose own 95 % interval lies wholly beyond three margins."""

    seed: int
    name: str
    found: Interval

    def words(self, trained: bool) -> str:
        """With the seed, where arms were trained by one."""
        return f"{self.name}{f' of seed {self.seed}' * trained}, {self.found.estimate:+.3f} ± {self.found.margin:.3f}"


def margins_of(config: ReportConfig) -> dict[str, float]:
    """The margins of the rule, by key."""
    return {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name.endswith("_margin")}


class Claim(NamedTuple):
    margins: ReportConfig
    seeds: Sequence[int]
    equivalent: Sequence[CamVariant]  # measured methods that are equivalent to the trained one or to a held-out one
    conditions: Sequence[Condition]
    beside: Sequence[Condition]  # not needed for either statement
    cliffs: Sequence[Cliff] = ()
    trained: bool = True  # the arms are of a run that trained them, and not any two networks

    @property
    def changed(self) -> list[str]:
        """Margins that are not those of the default rule; wider ones let more pass."""
        usually = margins_of(ReportConfig())
        pairs = ((name, value, usually[name]) for name, value in margins_of(self.margins).items())
        return [
            f"{name} {value:g} ({'wider' if value > usual else 'narrower'} than {usual:g})"
            for name, value, usual in pairs
            if value != usual
        ]

    @property
    def rule(self) -> str:
        return "the rule with other margins" if self.changed else "the rule"

    def of(self, statement: str, *outcomes: Outcome) -> list[Condition]:
        """Conditions of a statement that have one of these outcomes, all if none is given."""
        return [one for one in self.conditions if one.part == statement and (not outcomes or one.outcome in outcomes)]

    def stated(self, statement: str) -> Outcome:
        """Shown if all of its conditions are and no seed fell off a cliff; refuted if one of them is; not measured
        if one of them is not; else open."""
        for outcome in (Outcome.refuted, Outcome.unmeasured, Outcome.open):
            if self.of(statement, outcome):
                return outcome
        return Outcome.open if self.cliffs else Outcome.shown

    @property
    def statements(self) -> dict[str, Outcome]:
        return {statement: self.stated(statement) for statement in (BETTER, NOTHING_LOST)}

    @property
    def outcome(self) -> Outcome:
        """More interpretable: shown if both statements are, refuted if one is, else open."""
        found = set(self.statements.values())
        if found == {Outcome.shown}:
            return Outcome.shown
        return Outcome.refuted if Outcome.refuted in found else Outcome.open

    def needed(self, condition: Condition) -> Needed | None:
        """What an open condition needs; None where it is not open, or one seed does not tell."""
        if condition.outcome is not Outcome.open or condition.found.spread is None or condition.found.spread.seeds < 2:
            return None
        return needed(condition.found, condition.room, int(condition.found.spread.seeds))


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
    """What a condition asks of a difference: an improvement, if the margin is 0, or no loss by more than it."""

    tag: str
    low: bool  # lower is better
    margin: float = 0.0
    name: str = ""  # the indicator's title, if empty

    def of(self, part: str, found: Mapping[str, Interval], beside: str = "") -> Condition:
        name = self.name or INDICATORS[self.tag].title
        limit = self.margin if self.low else -self.margin
        return Condition(part, f"{name}{beside}", found.get(self.tag, NOTHING), limit, self.low)

    def fell_off(self, found: Mapping[str, Interval]) -> bool:
        """Whether a seed's whole interval lies beyond three margins."""
        one, loss = found.get(self.tag, NOTHING), CLIFF_MARGINS * self.margin
        return one.low > loss if self.low else one.high < -loss


def judge(
    differences: Mapping[str, Interval],
    beside_sharpened: Mapping[str, Interval],
    held_out: Sequence[CamVariant],
    margins: ReportConfig,
    primary: str,
    by_seed: Mapping[int, Mapping[str, Interval]],
    equivalent: Sequence[CamVariant] = (),
) -> Claim:
    """Judge the conditions of the rule.

    Args:
        differences: of each tag, treatment minus reference; the mean over held-out maps as :data:`HELD_OUT_GAIN`.
        beside_sharpened: of each tag, treatment minus sharpened baseline.
        held_out: methods that were not trained on.
        margins: what "nothing lost" means.
        primary: tag of accuracy or mean average precision.
        by_seed: of each seed its own differences, treatment minus reference.
        equivalent: methods that were measured and are equivalent to others.
    """
    missing = HELD_OUT_NEEDED - len(held_out)
    trained, faithful = "faithfulness, trained map", margins.faithfulness_margin
    others = "faithfulness, held-out maps" + (f" ({missing} more to measure)" if missing > 0 else "")
    guarded = [
        _Asked(primary, False, margins.accuracy_margin),
        _Asked(GAIN, False, faithful, trained),
        *(_Asked(tag, False, margins.stability_margin) for tag in STABILITY),
        _Asked(DEAD_RATE, True, margins.health_margin),
    ]
    against = ", against the sharpened baseline"
    beyond = [
        one.of(BETTER, beside_sharpened, against) for one in (_Asked(ENERGY, False), _Asked(GAIN, False, name=trained))
    ]
    placed = beyond[0].outcome is not Outcome.unmeasured  # masks or boxes are known
    return Claim(
        margins,
        list(by_seed),
        equivalent,
        conditions=[
            _Asked("cam/entropy", True).of(BETTER, differences),
            beyond[0 if placed else 1],
            *(one.of(NOTHING_LOST, differences) for one in guarded),
            _Asked(HELD_OUT_GAIN, False, faithful, others).of(NOTHING_LOST, {} if missing > 0 else differences),
        ],
        beside=[
            _Asked("cam/area", True).of(BESIDE, differences),
            *(one._replace(part=BESIDE) for one in beyond[1:] if placed),
            *(_Asked(tag, False).of(BESIDE, beside_sharpened, against) for tag in STABILITY if tag in beside_sharpened),
            _Asked("cam/border_mass", True, margins.health_margin).of(BESIDE, differences),
        ],
        cliffs=[
            Cliff(seed, one.of("", found).name, found[one.tag])
            for seed, found in by_seed.items()
            for one in guarded
            if one.fell_off(found)
        ],
    )


VERDICTS = {
    Outcome.shown: "more interpretable",
    Outcome.refuted: "not more interpretable",
    Outcome.open: "not settled",
}
"""Of both statements together."""


def sentences(claim: Claim) -> list[str]:
    """The two statements, then what refutes them or leaves them open, and what it would take."""
    lines = [_headline(claim, statement) for statement in (BETTER, NOTHING_LOST)]
    if claim.changed:
        lines.append(f"Margins other than the default: {'; '.join(claim.changed)}.")
    if claim.cliffs:
        fallen = "; ".join(cliff.words(claim.trained) for cliff in claim.cliffs)
        who = "a seed" if claim.trained else "the treatment"
        lines.append(f"Neither is said, because {who} lost more than {CLIFF_MARGINS} margins: {fallen}.")
    unmeasured = [condition for condition in claim.conditions if condition.outcome is Outcome.unmeasured]
    for words, found in (
        ("Refuted", [condition for condition in claim.conditions if condition.outcome is Outcome.refuted]),
        ("Not measured", [condition for condition in unmeasured if not math.isfinite(condition.found.estimate)]),
        ("Too few images", [condition for condition in unmeasured if math.isfinite(condition.found.estimate)]),
    ):
        if found:
            lines.append(f"{words}: {'; '.join(condition.name for condition in found)}.")
    if unmeasured and claim.trained:
        lines.append(
            "`camtrain task=evaluate run=FOLDER` measures what runs lack (evaluate.maps, evaluate.faithfulness_images);"
            " of a network that has hardly learnt anything faithfulness is not defined."
        )
    plans = [f"{one.name} {plan.power:.2f} ({plan.words})" for one in claim.conditions if (plan := claim.needed(one))]
    if plans:
        lines.append(
            f"Power of {len(claim.seeds)} seeds, if the differences found are the true ones, and what a power of"
            f" {WANTED:g} takes: {'; '.join(plans)}."
        )
    if claim.equivalent:
        methods = [method.value for method in claim.equivalent]
        lines.append(f"Not counted as held out, because equivalent to another measured method: {', '.join(methods)}.")
    return lines


def _headline(claim: Claim, statement: str) -> str:
    """The statement with its outcome, and what it needs if it is open."""
    seeds = claim.seeds
    where = f"in this one run (seed {seeds[0]})" if len(seeds) == 1 else f"over {len(seeds)} seeds"
    where = where if claim.trained else "on these images"
    outcome = claim.stated(statement)
    line = f"{statement.capitalize()} {where}{', by ' + claim.rule if claim.changed else ''}: {outcome.value}"
    still = claim.of(statement, Outcome.open)
    if outcome is not Outcome.open or not still:
        return f"{line}."
    names = "; ".join(condition.name for condition in still)
    plans = [plan for condition in still if (plan := claim.needed(condition))]
    if not plans:
        return f"{line}: {names}."
    if all(plan.seeds is not None for plan in plans):
        most = max(plan.seeds or 0 for plan in plans)
        return f"{line}; needs about {most} more seed{'s' * (most > 1)}: {names}."
    if all(plan.by_seeds for plan in plans):
        return f"{line}; needs {Needed(0).words}: {names}."
    return f"{line}; more seeds alone do not settle it: {names}."


def caution(seeds: Sequence[int]) -> list[str]:
    """What the number of seeds leaves open, whatever the figures."""
    if len(seeds) == 1:
        return [
            "One run is one seed, and the intervals do not include the variation between seeds: train with"
            " seed=0,1,2,3,4, then task=report."
        ]
    few = ["Two seeds tell hardly anything about the variation between seeds: train with seed=0,1,2,3,4."]
    share = f"{len(seeds)} seeds miss a cliff that {CLIFF:.0%} of seeds have in {missed(len(seeds)):.0%} of cases."
    return [*(few if len(seeds) == 2 else []), share.replace("%", " %")]


def caution_of_networks(networks: Sequence[str]) -> list[str]:
    """What a comparison of networks as they are leaves open, whatever the figures; nothing of one network."""
    if len(networks) < 2:
        return []
    return [
        "Two networks are compared as they are: the intervals are over images, and say nothing of other networks that"
        " were trained in the same way."
    ]
