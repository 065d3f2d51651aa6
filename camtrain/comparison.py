"""The comparison of the arms: which figures, in which words, and what has to be said about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from camtrain.arm import BASELINE, REGULARISED
from camtrain.config import AUTO, CamConfig, CamVariant, Score
from camtrain.performance import measure
from camtrain.statistics import LEVEL, NOTHING, Interval, holm

Figures = Mapping[str, float]


class Indicator(NamedTuple):
    tag: str
    label: str
    better: str  # "higher", "lower" or "" where neither is
    digits: int
    meaning: str


FAMILIES = {
    "performance": (
        Indicator("accuracy/val", "accuracy", "higher", 3, "share of validation pictures classified rightly"),
        Indicator("accuracy/train", "accuracy, training", "", 3, "the same in the last epoch's training batches"),
        Indicator("average_precision/val", "mean average precision", "higher", 3, "over classes, validation pictures"),
        Indicator("average_precision/train", "the same, training", "", 3, "in the last epoch's training batches"),
    ),
    "concentration": (
        Indicator("cam/entropy", "entropy, nats", "lower", 3, "how much area is active"),
        Indicator("cam/area", "elliptical area, cells", "lower", 3, "how tight the active area is"),
        Indicator("cam/dispersion", "dispersion", "higher", 2, "how uneven the map is; follows the entropy"),
        Indicator("cam/contrast", "contrast", "higher", 2, "active against inactive cells, in means of the map"),
        Indicator("cam/gini", "Gini index", "higher", 3, "how unequal the cells are"),
        Indicator("cam/top_tenth", "mass in the top tenth", "higher", 3, "share of the map in its highest cells"),
    ),
    "plausibility": (
        Indicator("cam/energy_in_mask", "energy in mask", "higher", 3, "share of the map on the object"),
        Indicator("cam/pointing", "pointing", "higher", 3, "share of pictures whose map peaks on the object"),
        Indicator("cam/iou", "overlap (IoU)", "higher", 3, "of the map above its best threshold with the object"),
        Indicator("cam/box_accuracy", "box accuracy", "higher", 3, "MaxBoxAccV2: boxes round it, at IoU .3, .5, .7"),
        Indicator("cam/pxap", "pixel precision", "higher", 3, "PxAP: average precision of the map's pixels"),
    ),
    "faithfulness": (
        Indicator("faithfulness/drop", "drop in confidence", "lower", 3, "of the class, when only the map is shown"),
        Indicator("faithfulness/increase", "increase in confidence", "higher", 3, "share of pictures where it rises"),
        Indicator("faithfulness/deletion", "deletion", "lower", 3, "confidence while the map's best is hidden first"),
        Indicator("faithfulness/insertion", "insertion", "higher", 3, "confidence while the map's best is shown first"),
        Indicator("faithfulness/road", "ROAD", "higher", 3, "removing the map's worst against its best, repaired"),
    ),
    "stability": (
        Indicator("stability/flip", "mirrored", "higher", 3, "likeness of the maps of a picture and its mirror image"),
        Indicator("stability/shift", "moved", "higher", 3, "the same for a picture moved by an eighth of its side"),
    ),
    "sanity": (
        Indicator("sanity/head", "fresh last layer", "lower", 3, "likeness of maps before and after it is randomised"),
        Indicator("sanity/all", "fresh network", "lower", 3, "the same after all layers are; near 0 for a sound map"),
    ),
    "health": (
        Indicator("cam/dead_rate", "dead rate", "lower", 3, "share of pictures without any map"),
        Indicator("cam/border_mass", "mass at the border", "lower", 3, "share of the map in the outermost cells"),
        Indicator("cam/peak_entropy", "spread of peaks", "", 3, "0: all maps peak in one cell, 1: everywhere alike"),
    ),
    "determination": (
        Indicator("confidence/top_probability", "top probability", "", 3, "mean probability of the predicted class"),
        Indicator("confidence/margin", "margin", "", 3, "mean lead of the predicted class over the next"),
        Indicator("confidence/entropy", "entropy of the prediction", "", 3, "nats; lower is more determined"),
        Indicator("confidence/calibration_error", "calibration error", "lower", 3, "of stated against actual accuracy"),
    ),
    "learning": (
        Indicator("settling/epoch", "maps settled at epoch", "", 0, "from there on alike those of the last, above 0.9"),
        Indicator("effort/epochs_to_90", "epochs to 90 %", "lower", 1, "of the final accuracy"),
        Indicator(
            "effort/mean_performance",
            "performance, all epochs",
            "higher",
            3,
            "mean; difference: area between curves",
        ),
        Indicator(
            "effort/cam_share", "share of learning effort", "", 3, "of the CAM term in the gradient at the layer"
        ),
        Indicator("effort/cam_weight", "weight of the CAM term", "", 2, "mean over the last epoch"),
    ),
    "training": (Indicator("time/step", "step time, ms", "lower", 1, "median of a training step, last epoch"),),
}
"""What is told, by what it speaks of; families are never merged into one number."""

CONCENTRATION = tuple(indicator.tag for indicator in FAMILIES["concentration"])

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
    both_right: Interval  # of the difference over the pictures that both arms classify rightly
    dying: bool = False  # the regularised arm's maps die: concentration is that of the few that are left

    @property
    def difference(self) -> float:
        """Mean over pictures that both arms have a value of, where these are known; else that of the means."""
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
        both_right: intervals over the pictures that both arms classify rightly.
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


def performance(figures: Figures) -> str:
    """Tag of what says how well an arm classifies: accuracy, or average precision in a multi-label set."""
    accuracy = f"{measure(multilabel=False)}/val"
    return accuracy if accuracy in figures else f"{measure(multilabel=True)}/val"


HEADINGS = ("", "baseline", "regularised", "difference", "95 %", "ratio", "", "control")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, under :data:`HEADINGS`."""
    return (
        row.indicator.label,
        row.text(row.baseline),
        row.text(row.regularised),
        row.text(row.difference, signed=True),
        f"± {row.text(row.interval.margin)}" if math.isfinite(row.interval.margin) else "",
        f"x {row.ratio:.2f}" if math.isfinite(row.ratio) else "-",
        row.verdict,
        row.text(row.control) if math.isfinite(row.control) else "",
    )


def grouped(shown: Mapping[str, Sequence[Row]]) -> list[tuple[str, ...]]:
    """Lines under :data:`HEADINGS`, each family under its name."""
    lines: list[tuple[str, ...]] = []
    for family, of_family in shown.items():
        lines.append((family, *[""] * (len(HEADINGS) - 1)))
        lines += [(f"  {label}", *rest) for label, *rest in map(cells, of_family)]
    return lines


def as_text(final: Mapping[str, Figures], shown: Mapping[str, Sequence[Row]]) -> str:
    """The comparison as tables for a terminal."""
    others = of_other_maps(final)
    text = _aligned([HEADINGS, *grouped(shown)])
    return f"{text}\n\n{OTHER_MAPS}\n{_aligned([MAP_HEADINGS, *others])}" if others else text


OTHER_MAPS = "Maps that were not trained, baseline > regularised"
MAP_HEADINGS = ("", "like the trained", "entropy, nats", "energy in mask", "pointing", "deletion", "insertion")


def of_other_maps(final: Mapping[str, Figures]) -> list[tuple[str, ...]]:
    """A line under :data:`MAP_HEADINGS` for each map that was measured beside the trained one."""
    lines = []
    for variant in CamVariant:
        tags = [
            f"other_maps/{variant.value}/{name}"
            for name in ("with_trained", "entropy", "energy_in_mask", "pointing", "deletion", "insertion")
        ]
        if tags[0] in final[BASELINE]:
            pairs = [[final[arm].get(tag, math.nan) for arm in (BASELINE, REGULARISED)] for tag in tags]
            lines.append((variant.value, *(pair(*both) for both in pairs)))
    return lines


def short(value: float) -> str:
    """Three digits, or a dash where it is not defined."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def pair(baseline: float, regularised: float) -> str:
    """Both arms' figures, or a dash where neither has one."""
    known = math.isfinite(baseline) or math.isfinite(regularised)
    return f"{short(baseline)} > {short(regularised)}" if known else "-"


def of_sweep(jobs: Sequence[tuple[str, Mapping[str, Figures]]]) -> str:
    """One line per job of a sweep, baseline > regularised.

    Args:
        jobs: what sets each job apart, and the last figures of both arms.
    """
    tags = (performance(jobs[0][1][BASELINE]), "cam/entropy", "cam/energy_in_mask", "cam/dead_rate")
    known = [indicator for family in FAMILIES.values() for indicator in family]
    shown = [next(indicator for indicator in known if indicator.tag == tag) for tag in tags]
    lines: list[tuple[str, ...]] = [("", *(indicator.label for indicator in shown))]
    for name, final in jobs:
        pairs = [[final[arm].get(entry.tag, math.nan) for arm in (BASELINE, REGULARISED)] for entry in shown]
        lines.append((name, *(pair(*both) for both in pairs)))
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns under a ruled heading: those without a name to the left, the others, which hold numbers, to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    named = [bool(heading) for heading in lines[0]]
    text = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, named, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def as_markdown(final: Mapping[str, Figures], shown: Mapping[str, Sequence[Row]]) -> str:
    """The comparison as Markdown tables."""
    text = _markdown(HEADINGS, grouped(shown))
    others = of_other_maps(final)
    return f"{text}\n\n{OTHER_MAPS}\n\n{_markdown(MAP_HEADINGS, others)}" if others else text


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruler = ["---:" if heading else "---" for heading in headings]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ruler, *lines))


def maps_die(final: Mapping[str, Figures]) -> bool:
    """Whether the regularised arm has no fewer dead maps than the baseline, and more than a few."""
    baseline, regularised = (final[arm]["cam/dead_rate"] for arm in (BASELINE, REGULARISED))
    return regularised > DEAD_LIMIT and regularised >= baseline


def warnings(final: Mapping[str, Figures], found: Intervals, cam: CamConfig, shared: int = 0) -> Iterator[str]:
    """What a reader must know before believing the table.

    Args:
        final: last figures of each arm.
        found: intervals of the differences.
        cam: the CAM term.
        shared: files that both arms were trained on and are validated on.
    """
    baseline, regularised = final[BASELINE], final[REGULARISED]
    if shared:
        yield f"{shared} of the validation pictures were trained on: the figures do not say how new ones fare."
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
    tag = performance(baseline)
    lost = baseline[tag] - regularised[tag]
    chance = found.get(tag, NOTHING).margin
    if lost > ACCURACY_LIMIT and not lost <= chance:
        what = "less accurate" if tag == "accuracy/val" else "lower in mean average precision"
        yield f"the regularised arm is {100 * lost:.1f} points {what}: lower {lower} or start the term later."
    if not math.isfinite(baseline["cam/energy_in_mask"]):
        yield "no masks or boxes: whether the maps lie on the objects was not measured."
    elif baseline["cam/energy_in_mask"] - regularised["cam/energy_in_mask"] > ENERGY_LIMIT:
        yield "the regularised maps lie less on the objects than the baseline's: sharper is not better here."
