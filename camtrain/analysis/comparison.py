"""A treatment compared with the reference: every indicator with its interval, and what limits how it can be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from camtrain.analysis.intervals import LEVEL, NOTHING, Interval, holm
from camtrain.arms import Contrast
from camtrain.config.options import AUTO, CamConfig, Score
from camtrain.metrics.catalogue import CONCENTRATION, FAMILIES, INDICATORS, Indicator
from camtrain.metrics.tags import ACCURACY, BALANCED, metric_name, primary_tag

Figures = Mapping[str, float]
Intervals = Mapping[str, Interval]

SAME = 0.01
"""Figures closer than this share of the larger one are called neither better nor worse."""

DEAD_LIMIT = 0.01
"""Above this share of dead maps, the concentration figures describe a selection."""

ACCURACY_LIMIT = 0.01
ENERGY_LIMIT = 0.01


class Row(NamedTuple):
    """An indicator of both arms of a contrast, in the unit in which it is shown."""

    indicator: Indicator
    reference: float
    treatment: float
    control: float  # of the baseline sharpened to the treatment's entropy; nan where sharpening makes no difference
    control_area: float  # of the baseline sharpened to its area; nan likewise, and of runs of former versions
    interval: Interval  # of the difference
    adjusted: float  # its p, adjusted for the number of indicators; nan where there is none
    both_correct: Interval  # of the difference over the images that both arms classify correctly
    dying: bool = False  # the treatment's maps die: concentration is that of the few that are left

    @property
    def difference(self) -> float:
        """Mean over images that both arms have a value of, where these are known; else that of the means."""
        estimate = self.interval.estimate
        return estimate if math.isfinite(estimate) else self.treatment - self.reference

    @property
    def ratio(self) -> float:
        return self.treatment / self.reference if self.reference else math.nan

    @property
    def verdict(self) -> str:
        """better, worse, or empty where there is no better direction, where the figures differ by less than 1 %, or
        where the difference is not significant given the number of indicators."""
        if self.dying and self.indicator.tag in CONCENTRATION:
            return "dead maps"
        change = self.difference
        equal = abs(change) < SAME * max(abs(self.reference), abs(self.treatment))
        if not self.indicator.better or equal or not self.adjusted < LEVEL:
            return ""
        return "better" if (change > 0) == (self.indicator.better == "higher") else "worse"

    def text(self, value: float, signed: bool = False) -> str:
        """A value as the table shows it; a dash where it is not defined."""
        if not math.isfinite(value):
            return "-"
        return f"{value:{'+' if signed else ''}.{self.indicator.digits}f}"


def rows(
    reference: Figures,
    treatment: Figures,
    found: Intervals,
    control: Figures | None = None,
    both_correct: Intervals | None = None,
    control_area: Figures | None = None,
) -> dict[str, list[Row]]:
    """By family, one row per indicator that at least one arm has; balanced accuracy where it is not the accuracy.

    Args:
        reference: last figures of the reference.
        treatment: last figures of the treatment.
        found: intervals of the differences.
        control: figures of the baseline sharpened to the treatment's entropy.
        both_correct: intervals over the images that both arms classify correctly.
        control_area: figures of the baseline sharpened to its area.
    """
    dying = maps_die(reference, treatment)
    same = all(figures.get(BALANCED) == figures.get(f"{ACCURACY}/val") for figures in (reference, treatment))
    listed = [tag for tag in INDICATORS if not (same and tag == BALANCED)]
    tested = [tag for tag in listed if INDICATORS[tag].better and tag in found]
    adjusted = dict(zip(tested, holm([found[tag].p for tag in tested]), strict=True))
    shown: dict[str, list[Row]] = {}
    for family, indicators in FAMILIES.items():
        for indicator in indicators:
            tag, scale = indicator.tag, indicator.scale
            before, after = (figures.get(tag, math.nan) * scale for figures in (reference, treatment))
            if tag in listed and (math.isfinite(before) or math.isfinite(after)):
                row = Row(
                    indicator,
                    before,
                    after,
                    (control or {}).get(tag, math.nan) * scale,
                    (control_area or {}).get(tag, math.nan) * scale,
                    _scaled(found.get(tag, NOTHING), scale),
                    adjusted.get(tag, math.nan),
                    _scaled((both_correct or {}).get(tag, NOTHING), scale),
                    dying,
                )
                shown.setdefault(family, []).append(row)
    return shown


def _scaled(found: Interval, scale: float) -> Interval:
    return Interval(found.estimate * scale, found.margin * scale, found.p, found.bound * scale)


def maps_die(reference: Figures, treatment: Figures) -> bool:
    """Whether the treatment has no fewer dead maps than the reference, and more than a few."""
    before, after = (figures["cam/dead_rate"] for figures in (reference, treatment))
    return after > DEAD_LIMIT and after >= before


def caveats(
    contrast: Contrast, final: Mapping[str, Figures], found: Intervals, cams: Mapping[str, CamConfig] | None
) -> Iterator[str]:
    """What a reader must know before believing a comparison.

    Args:
        contrast: which arms.
        final: last figures of each arm.
        found: intervals of the differences.
        cams: by arm, the settings of its CAM term; None where networks are compared as they are, and none was trained.
    """
    names = contrast.reference, contrast.treatment
    reference, treatment = (final[name] for name in names)
    cam = CamConfig() if cams is None else cams[contrast.treatment]
    if cams is not None and cam.weight == cams[contrast.reference].weight == 0:
        yield f"cam.weight is 0: the {names[0]} and {names[1]} arms are the same training."
    lower = "cam.share" if cam.weight == AUTO else "cam.weight"
    if maps_die(reference, treatment):
        before, dead = reference["cam/dead_rate"], treatment["cam/dead_rate"]
        by_the_term = dead - before > before
        other = ", or use cam.score=centred" if cam.score is Score.logit else ""
        advice = f"Lower {lower}{other}." if by_the_term else f"The {names[0]} arm's are about as dead: train longer."
        yield (
            f"{dead:.1%} of the {names[1]} arm's maps are dead ({names[0]}: {before:.1%}). They explain nothing, and"
            f" the concentration figures are those of the remaining maps only.{f' {advice}' * (cams is not None)}"
        )
    tag = primary_tag(reference)
    lost = reference[tag] - treatment[tag]
    if lost > ACCURACY_LIMIT and not lost <= found.get(tag, NOTHING).margin:
        what = "less accurate" if tag == f"{metric_name(multilabel=False)}/val" else "lower in mean average precision"
        yield (
            f"the {names[1]} arm is {100 * lost:.1f} points {what} than the {names[0]} arm"
            + (f": lower {lower}, or start the term later." if cams is not None else ".")
        )
    before, after = (figures["cam/energy_in_mask"] for figures in (reference, treatment))
    if not math.isfinite(before):
        yield "no masks or boxes: whether the maps lie on the objects was not measured."
    elif before - after > ENERGY_LIMIT:
        yield (
            f"the {names[1]} arm's maps lie less on the objects than the {names[0]} arm's: sharper is not better here."
        )
