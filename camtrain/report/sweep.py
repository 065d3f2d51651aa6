"""Several settings side by side: the content of `templates/sweep.html`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from camtrain.analysis.over_seeds import Summary
from camtrain.analysis.pareto import on_front
from camtrain.analysis.verdict import VERDICTS
from camtrain.metrics.catalogue import INDICATORS, Place, at
from camtrain.metrics.tags import ENERGY, primary_tag
from camtrain.report import plots
from camtrain.report.page import Cell, Table
from camtrain.report.tables import figures, joined, series


class Link(NamedTuple):
    number: int  # of the setting
    text: str


class Counted(NamedTuple):
    """How many of the settings (or of their treatments, where there are several) have an outcome, and which."""

    found: int
    of: int
    what: str
    words: str
    links: Sequence[Link]


class SweepView(NamedTuple):
    outcomes: Sequence[Counted]
    rule: str  # with its margins, where these are not the default
    single: Sequence[int]  # settings with one seed only
    order: str  # in which the arms' figures stand in a cell
    table: Table
    fronts: Markup


def view(summaries: Sequence[Summary]) -> SweepView:
    """All that is shown of the settings together."""
    claim = next((each.claim for one in summaries for each in one.comparisons), None)
    margins = f": {'; '.join(claim.changed)}" if claim and claim.changed else ""
    return SweepView(
        outcomes=outcomes(summaries),
        rule=f"{claim.rule}{margins}" if claim else "",
        single=[number for number, one in enumerate(summaries, start=1) if len(one.runs) == 1],
        order=joined(arms_of(summaries)),
        table=settings_table(summaries),
        fronts=fronts(summaries),
    )


def arms_of(summaries: Sequence[Summary]) -> list[str]:
    """Every arm that a setting has."""
    return list(dict.fromkeys(arm for one in summaries for arm in one.arms))


def outcomes(summaries: Sequence[Summary]) -> list[Counted]:
    """Which settings the rule calls more interpretable."""
    several = any(len(one.comparisons) > 1 for one in summaries)
    judged = [(number, each) for number, one in enumerate(summaries, start=1) for each in one.comparisons]
    found = []
    for outcome, words in VERDICTS.items():
        links = [
            Link(number, f"{number} ({each.contrast.treatment})" if several else str(number))
            for number, each in judged
            if each.claim.outcome is outcome
        ]
        if links:
            found.append(Counted(len(links), len(judged), "treatments" if several else "settings", words, links))
    return found


def settings_table(summaries: Sequence[Summary]) -> Table:
    """A line per setting."""
    primary = primary_tag(summaries[0].reference)
    shown = [INDICATORS[primary], *at(Place.settings)]
    arms = arms_of(summaries)
    rows = []
    for number, one in enumerate(summaries, start=1):
        several = len(one.comparisons) > 1
        claims = [
            (f"{each.contrast.treatment}, {statement}" if several else statement, outcome.value)
            for each in one.comparisons
            for statement, outcome in each.claim.statements.items()
        ]
        rows.append(
            [
                Cell(one.label, "long", setting=number),
                Cell(str(len(one.runs))),
                Cell(kind="word", signs=claims),
                *(Cell(figures(one.final, arms, indicator.tag)) for indicator in shown),
                Cell(series([overfitting(one, arm) if arm in one.arms else math.nan for arm in arms])),
            ]
        )
    titles = [*(indicator.title for indicator in shown), "overfitting"]
    head = [Cell("setting"), Cell("seeds"), Cell("statements", "word"), *map(Cell, titles)]
    return Table("settings of the sweep", head, [("", rows)], "dense")


def overfitting(one: Summary, arm: str) -> float:
    """How much better an arm is on its training images than on the validation images."""
    tag = primary_tag(one.reference)
    name = tag.partition("/")[0]
    return one.final[arm].get(f"{name}/train", math.nan) - one.final[arm][tag]


def fronts(summaries: Sequence[Summary]) -> Markup:
    """Accuracy against an indicator of each family, and against what of energy in mask is more than sharpness; empty
    where no treatment has any of them."""
    primary = primary_tag(summaries[0].reference)
    panels = [
        (f"{indicator.title} ({indicator.better} is better)", front(summaries, indicator.tag, primary))
        for indicator in at(Place.fronts)
    ]
    gain = INDICATORS[ENERGY]
    panels.append(
        (
            f"{gain.label} beyond\nthe sharpened baseline ({gain.better} is better)",
            front(summaries, ENERGY, primary, True),
        )
    )
    panels = [(label, points) for label, points in panels if any(point.treatment for point in points)]
    return Markup(plots.front(panels, INDICATORS[primary].title) if panels else "")


def front(summaries: Sequence[Summary], tag: str, primary: str, beyond: bool = False) -> list[plots.Point]:
    """The arms of every setting by an indicator and by how well they classify, and which of them none other beats.

    Args:
        summaries: the settings.
        tag: of the indicator, one that has a better direction.
        primary: tag of accuracy or mean average precision.
        beyond: the indicator less that of the sharpened baseline, which the reference has none of.
    """
    sign = 1 if INDICATORS[tag].better == "higher" else -1
    points = []
    for number, one in enumerate(summaries, start=1):
        intervals = {each.contrast.treatment: each.intervals for each in one.comparisons}
        controls = {each.contrast.treatment: one.final.get(each.contrast.control, {}) for each in one.comparisons}
        for arm in one.arms:
            across, up = (one.final[arm].get(name, math.nan) for name in (tag, primary))
            across -= controls.get(arm, {}).get(tag, math.nan) if beyond else 0
            if math.isfinite(across) and math.isfinite(up):
                found = intervals.get(arm, {})
                margins = [found[name].margin if name in found else math.nan for name in (tag, primary)]
                margins[0] = math.nan if beyond else margins[0]  # it is that of another difference
                points.append(plots.Point(number, arm, arm in intervals, across, up, (margins[0], margins[1]), False))
    best = on_front([(sign * point.across, point.up) for point in points])
    return [point._replace(on_front=front) for point, front in zip(points, best, strict=True)]
