"""The comparison as text: for a terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from camtrain.analysis.comparison import Figures, Row, primary_tag
from camtrain.arms import BASELINE, REGULARISED
from camtrain.config.options import CamVariant
from camtrain.metrics.catalogue import FAMILIES

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


def lines_by_family(shown: Mapping[str, Sequence[Row]]) -> list[tuple[str, ...]]:
    """Lines under :data:`HEADINGS`, each family under its name."""
    lines: list[tuple[str, ...]] = []
    for family, of_family in shown.items():
        lines.append((family, *[""] * (len(HEADINGS) - 1)))
        lines += [(f"  {label}", *rest) for label, *rest in map(cells, of_family)]
    return lines


def as_text(final: Mapping[str, Figures], shown: Mapping[str, Sequence[Row]]) -> str:
    """The comparison as tables for a terminal."""
    others = other_maps(final)
    text = _aligned([HEADINGS, *lines_by_family(shown)])
    return f"{text}\n\n{OTHER_MAPS}\n{_aligned([MAP_HEADINGS, *others])}" if others else text


OTHER_MAPS = "Maps that were not trained, baseline > regularised"
MAP_HEADINGS = ("", "like the trained", "entropy, nats", "energy in mask", "pointing", "deletion", "insertion")


def other_maps(final: Mapping[str, Figures]) -> list[tuple[str, ...]]:
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


def sweep_text(jobs: Sequence[tuple[str, Mapping[str, Figures]]]) -> str:
    """One line per job of a sweep, baseline > regularised.

    Args:
        jobs: what sets each job apart, and the last figures of both arms.
    """
    tags = (primary_tag(jobs[0][1][BASELINE]), "cam/entropy", "cam/energy_in_mask", "cam/dead_rate")
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
    text = _markdown(HEADINGS, lines_by_family(shown))
    others = other_maps(final)
    return f"{text}\n\n{OTHER_MAPS}\n\n{_markdown(MAP_HEADINGS, others)}" if others else text


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruler = ["---:" if heading else "---" for heading in headings]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ruler, *lines))
