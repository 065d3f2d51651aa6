"""The comparison of the arms: which figures, in which words, and what has to be said about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from camtrain.analysis.intervals import LEVEL, NOTHING, Interval, holm
from camtrain.arms import BASELINE, REGULARISED
from camtrain.config.options import AUTO, Score
from camtrain.config.schema import CamConfig
from camtrain.metrics.catalogue import CONCENTRATION, FAMILIES, Indicator
from camtrain.metrics.classification import metric_name

Figures = Mapping[str, float]

# Figures closer than this share of the larger one are called neither better nor worse.
SAME = 0.01

# Above this share of dead maps, the concentration figures describe a selection.
DEAD_LIMIT = 0.01
ACCURACY_LIMIT = 0.01
ENERGY_LIMIT = 0.01


class Row(NamedTuple):
    indicator: Indicator
    baseline: float
    regularised: float
    control: float  # the baseline's maps merely sharpened; nan where that makes no difference
    interval: Interval  # of the difference
    adjusted: float  # its p, adjusted for the number of indicators; nan where there is none
    both_right: Interval  # of the difference over the images that both arms classify rightly
    dying: bool = False  # the regularised arm's maps die: concentration is that of the few that are left

    @property
    def difference(self) -> float:
        """Mean over images that both arms have a value of, where these are known; else that of the means."""
        estimate = self.interval.estimate
        return estimate if math.isfinite(estimate) else self.regularised - self.baseline

    @property
    def ratio(self) -> float:
        return self.regularised / self.baseline if self.baseline else math.nan

    @property
    def verdict(self) -> str:
        """better, worse, or empty where the direction means nothing, or the figures differ by less than 1 % or by what
        may be chance, given how many indicators are looked at."""
        if self.dying and self.indicator.tag in CONCENTRATION:
            return "dead maps"
        change = self.difference
        equal = abs(change) < SAME * max(abs(self.baseline), abs(self.regularised))
        if not self.indicator.better or equal or not self.adjusted < LEVEL:
            return ""
        return "better" if (change > 0) == (self.indicator.better == "higher") else "worse"

    def text(self, value: float, signed: bool = False) -> str:
        """A value as the table shows it; a dash where it is not defined."""
        if not math.isfinite(value):
            return "-"
        return f"{value:{'+' if signed else ''}.{self.indicator.digits}f}"


Intervals = Mapping[str, Interval]


def rows(
    final: Mapping[str, Figures],
    found: Intervals,
    control: Figures | None = None,
    both_right: Intervals | None = None,
) -> dict[str, list[Row]]:
    """By family, one row per indicator that at least one arm has.

    Args:
        final: last figures of each arm.
        found: intervals of the differences.
        control: figures of the control.
        both_right: intervals over the images that both arms classify rightly.
    """
    dying = maps_die(final)
    told = [indicator for family in FAMILIES.values() for indicator in family]
    tested = [indicator.tag for indicator in told if indicator.better and indicator.tag in found]
    adjusted = dict(zip(tested, holm([found[tag].p for tag in tested]), strict=True))
    shown: dict[str, list[Row]] = {}
    for family, indicators in FAMILIES.items():
        for indicator in indicators:
            tag = indicator.tag
            scale = 1000 if tag == "time/step" else 1
            baseline, regularised = (final[arm].get(tag, math.nan) * scale for arm in (BASELINE, REGULARISED))
            if math.isfinite(baseline) or math.isfinite(regularised):
                estimate, margin, p = found.get(tag, NOTHING)
                row = Row(
                    indicator,
                    baseline,
                    regularised,
                    (control or {}).get(tag, math.nan),
                    Interval(estimate * scale, margin * scale, p),
                    adjusted.get(tag, math.nan),
                    (both_right or {}).get(tag, NOTHING),
                    dying,
                )
                shown.setdefault(family, []).append(row)
    return shown


def primary_tag(figures: Figures) -> str:
    """Tag of what says how well an arm classifies: accuracy, or average precision in a multi-label set."""
    accuracy = f"{metric_name(multilabel=False)}/val"
    return accuracy if accuracy in figures else f"{metric_name(multilabel=True)}/val"


def maps_die(final: Mapping[str, Figures]) -> bool:
    """Whether the regularised arm has no fewer dead maps than the baseline, and more than a few."""
    baseline, regularised = (final[arm]["cam/dead_rate"] for arm in (BASELINE, REGULARISED))
    return regularised > DEAD_LIMIT and regularised >= baseline


def caveats(final: Mapping[str, Figures], found: Intervals, cam: CamConfig, shared: int = 0) -> Iterator[str]:
    """What a reader must know before believing the table.

    Args:
        final: last figures of each arm.
        found: intervals of the differences.
        cam: the CAM term.
        shared: files that both arms were trained on and are validated on.
    """
    baseline, regularised = final[BASELINE], final[REGULARISED]
    if shared:
        yield f"{shared} of the validation images were trained on: the figures do not say how new ones fare."
    if cam.weight == 0:
        yield "cam.weight is 0: both arms are the same training."
    other = ", or use cam.score=centred" if cam.score is Score.logit else ""
    lower = "cam.share" if cam.weight == AUTO else "cam.weight"
    if maps_die(final):
        dead, before = regularised["cam/dead_rate"], baseline["cam/dead_rate"]
        by_the_term = dead - before > before
        advice = f"Lower {lower}{other}." if by_the_term else "The baseline's are about as dead: train both longer."
        yield (
            f"{dead:.1%} of the regularised arm's maps are dead (baseline {before:.1%}): they explain nothing, and the"
            f" concentration figures are of the rest only. {advice}"
        )
    tag = primary_tag(baseline)
    lost = baseline[tag] - regularised[tag]
    chance = found.get(tag, NOTHING).margin
    if lost > ACCURACY_LIMIT and not lost <= chance:
        what = "less accurate" if tag == "accuracy/val" else "lower in mean average precision"
        yield f"the regularised arm is {100 * lost:.1f} points {what}: lower {lower} or start the term later."
    if not math.isfinite(baseline["cam/energy_in_mask"]):
        yield "no masks or boxes: whether the maps lie on the objects was not measured."
    elif baseline["cam/energy_in_mask"] - regularised["cam/energy_in_mask"] > ENERGY_LIMIT:
        yield "the regularised maps lie less on the objects than the baseline's: sharper is not better here."
