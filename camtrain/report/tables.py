"""The comparison as text: for a terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from camtrain.analysis.comparison import Figures, Row
from camtrain.analysis.over_seeds import Comparison, Summary, own_intervals
from camtrain.analysis.verdict import caution, caution_of_networks, sentences
from camtrain.arms import Contrast
from camtrain.config.options import CamVariant
from camtrain.metrics.catalogue import FAMILIES, INDICATORS, Indicator, Place, at, other_map_tag
from camtrain.metrics.tags import primary_tag

SHARPENED = ("sharpened", "by area")
"""Headings of the sharpened baseline's columns: by entropy, and by area where a run has it."""


def headings(contrast: Contrast) -> tuple[str, ...]:
    return ("", contrast.reference, contrast.treatment, "difference", "95 %", "ratio", "", *SHARPENED)


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, under :func:`headings`."""
    return (
        row.indicator.title,
        row.text(row.reference),
        row.text(row.treatment),
        row.text(row.difference, signed=True),
        f"± {row.text(row.interval.margin)}" if math.isfinite(row.interval.margin) else "",
        f"x {row.ratio:.2f}" if math.isfinite(row.ratio) else "-",
        row.verdict,
        *(row.text(value) if math.isfinite(value) else "" for value in (row.control, row.control_area)),
    )


def _lines(contrast: Contrast, families: Mapping[str, Sequence[Row]]) -> list[tuple[str, ...]]:
    """The headings, and each family under its name."""
    lines = [headings(contrast)]
    for family, rows in families.items():
        lines.append((family, *[""] * (len(lines[0]) - 1)))
        lines += [(f"  {label}", *rest) for label, *rest in map(cells, rows)]
    return lines if any(line[-1] for line in lines[1:]) else [line[:-1] for line in lines]


def comparison_text(contrast: Contrast, families: Mapping[str, Sequence[Row]]) -> str:
    """A comparison as a table for a terminal."""
    return numbers(_lines(contrast, families))


def comparison_markdown(contrast: Contrast, families: Mapping[str, Sequence[Row]]) -> str:
    return _markdown(_lines(contrast, families))


def heading(comparison: Comparison) -> str:
    """Of a treatment's part, where there are several treatments."""
    return f"{comparison.contrast.treatment} compared with {comparison.contrast.reference}"


def _tables(one: Summary, table: Callable[[Sequence[Sequence[str]]], str], head: str, gap: str) -> str:
    """A table for each treatment, and one of other maps than the trained one."""
    several = len(one.comparisons) > 1
    parts = [
        (head.format(heading(each)) + gap if several else "") + table(_lines(each.contrast, each.rows))
        for each in one.comparisons
    ]
    if not parts:
        parts = [table(_own_lines(one))]
    others = other_maps(one)
    return "\n\n".join([*parts, *([other_maps_title(one) + gap + table(others)] if others else [])])


def own_figures(one: Summary) -> dict[str, list[tuple[Indicator, str, str]]]:
    """Of the only arm, by family: each indicator that it has, its figure, and the margin of that over the images."""
    figures, intervals = one.reference, own_intervals(one.runs, one.arms[0])
    found: dict[str, list[tuple[Indicator, str, str]]] = {}
    for family, indicators in FAMILIES.items():
        for each in indicators:
            value = figures.get(each.tag, math.nan) * each.scale
            if math.isfinite(value):
                margin = intervals[each.tag].margin * each.scale if each.tag in intervals else math.nan
                said = f"± {margin:.{each.digits}f}" if math.isfinite(margin) else ""
                found.setdefault(family, []).append((each, f"{value:.{each.digits}f}", said))
    return found


def _own_lines(one: Summary) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [("", one.arms[0], "95 %")]
    for family, rows in own_figures(one).items():
        lines.append((family, "", ""))
        lines += [(f"  {each.title}", value, margin) for each, value, margin in rows]
    return lines


def as_text(one: Summary) -> str:
    """All tables for a terminal."""
    return _tables(one, numbers, "{}", "\n")


def as_markdown(one: Summary) -> str:
    """All tables as Markdown."""
    return _tables(one, _markdown, "**{}**", "\n\n")


def claims(one: Summary) -> list[tuple[str, list[str]]]:
    """Of each treatment a heading, empty where there is one treatment only, and its claim in sentences.

    What has to be said about the number of seeds ends the only claim, or stands alone without a heading at the end.
    """
    warning = caution(one.seeds) if one.trained else caution_of_networks(one.arms)
    if len(one.comparisons) == 1:
        return [("", [*sentences(one.comparisons[0].claim), *warning])]
    judged = [(heading(each), sentences(each.claim)) for each in one.comparisons]
    return [*judged, *([("", warning)] if warning else [])]


def claims_text(one: Summary) -> str:
    """The claims for a terminal."""
    return "\n\n".join("\n".join([f"{title}:", *lines] if title else lines) for title, lines in claims(one))


def joined(arms: Sequence[str]) -> str:
    """Names of the arms as their figures stand in a cell."""
    return " > ".join(arms)


def other_maps_title(one: Summary) -> str:
    return f"Maps by other methods than the {own_map(one)} one, {joined(one.arms)}"


def own_map(one: Summary) -> str:
    """Which map the other methods stand beside."""
    return "trained" if one.trained else "measured"


def other_maps(one: Summary) -> list[tuple[str, ...]]:
    """Headings, and a line for each method that was measured beside the trained one; nothing if there is none."""
    shown = at(Place.other_maps)
    lines = []
    for method in CamVariant:
        tags = [other_map_tag(method.value, name) for name in ("with_trained", *(each.name for each in shown))]
        if tags[0] in one.reference:
            lines.append((method.value, *(figures(one.final, one.arms, tag) for tag in tags)))
    return [("", f"like the {own_map(one)} one", *(each.title for each in shown)), *lines] if lines else []


def short(value: float) -> str:
    """Three digits, or a dash where it is not defined."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def series(values: Sequence[float]) -> str:
    """Figures of the arms in one cell, or a dash where none has one."""
    return joined([*map(short, values)]) if any(map(math.isfinite, values)) else "-"


def figures(final: Mapping[str, Figures], arms: Sequence[str], tag: str) -> str:
    """A tag's figures of the arms in one cell."""
    return series([final.get(arm, {}).get(tag, math.nan) for arm in arms])


def sweep_text(jobs: Sequence[tuple[str, Mapping[str, Figures]]]) -> str:
    """The arms of a sweep, and a table with one line per job and the arms' figures in each cell.

    Args:
        jobs: what sets each job apart, and the last figures of each arm, the reference first.
    """
    primary = INDICATORS[primary_tag(next(iter(jobs[0][1].values())))]
    shown = [primary, *at(Place.epochs)]
    arms = list(dict.fromkeys(arm for _, final in jobs for arm in final))
    lines: list[tuple[str, ...]] = [("", *(indicator.title for indicator in shown))]
    for name, final in jobs:
        lines.append((name, *(figures(final, arms, indicator.tag) for indicator in shown)))
    return f"{joined(arms)}\n{numbers(lines)}"


def numbers(lines: Sequence[Sequence[str]]) -> str:
    """A ruled table whose columns with a heading hold numbers, and stand to the right."""
    named = [column for column, text in enumerate(lines[0]) if text]
    return aligned(lines, right=named, ruled=True)


def aligned(lines: Sequence[Sequence[str]], right: Collection[int] = (), ruled: bool = False) -> str:
    """Lines of cells as a text table, columns padded to their widest cell.

    Args:
        lines: of equal length, the heading first.
        right: numbers of the columns whose text stands to the right.
        ruled: with a line under the heading.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]] if ruled else text)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    ruler = ["---:" if heading else "---" for heading in lines[0]]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], ruler, *lines[1:]))
