"""Plots of the report as SVG: curves of the arms, how maps settled and what randomising did, the fronts of a sweep."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from camtrain.metrics.catalogue import Place, at
from camtrain.metrics.learning_curves import SETTLED

STYLE: Any = {"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "camtrain"}


class ArmStyle(NamedTuple):
    """How an arm is drawn; each differs from the others without its colour, too."""

    colour: str
    dashes: tuple[float, ...] | tuple[None, None]
    marker: str


REFERENCE = ArmStyle("#4c5a6b", (4, 2), "s")
# Distinguishable with the common kinds of colour blindness.
COLOURS = ("#d1560b", "#1f6fb4", "#1b8a5a", "#8a4fb0", "#b5307a", "#8a6d00")
DASHES: tuple[tuple[float, ...] | tuple[None, None], ...] = ((None, None), (6, 1.5, 1.5, 1.5), (1.5, 1.2), (8, 2))
MARKERS = "o^Dv<>P"

FEW = 4
"""Arms whose names have room in a panel."""


def styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """A style for each arm: the reference grey, the treatments in colours."""
    reference, *treatments = arms
    return {reference: REFERENCE} | {
        arm: ArmStyle(COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)])
        for number, arm in enumerate(treatments)
    }


Epochs = Sequence[Mapping[str, Sequence[Mapping[str, float]]]]
"""For each run, by arm, the figures of every epoch."""

Curves = Mapping[str, Sequence[Sequence[float]]]
"""By arm, a curve for each run."""


class Panel(NamedTuple):
    title: str
    curves: Curves
    first: int = 1  # number of the first value
    level: float | None = None  # to be marked


def curves(runs: Epochs) -> str:
    """The main figures over the epochs: the mean over seeds, and a band from the lowest to the highest."""
    panels = [Panel(indicator.title, _of_tag(runs, indicator.tag)) for indicator in at(Place.curves)]
    return _panels(panels, "Curves of the arms over the epochs", "epoch")


def settling(runs: Epochs) -> str:
    """Likeness of each epoch's maps to those of the last epoch, and of the epoch before."""
    panels = [
        Panel("likeness to the final maps", _of_tag(runs, "settling/with_final"), level=SETTLED),
        Panel("likeness to the epoch before", _of_tag(runs, "settling/with_previous")),
    ]
    return _panels(panels, "How the maps settled", "epoch")


def randomised(runs: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """Likeness of the maps to those before, while weights are replaced from the last layer to the first."""
    values = {arm: [list(run[arm]) for run in runs] for arm in runs[0]}
    panel = Panel("likeness to the trained network's map", values, first=0)
    return _panels([panel], "Maps while weights are randomised", "steps: last layer, then equal groups of the others")


def _of_tag(runs: Epochs, tag: str) -> Curves:
    return {arm: [[row.get(tag, math.nan) for row in run[arm]] for run in runs] for arm in runs[0]}


def _known(values: Curves) -> bool:
    return any(math.isfinite(value) for curves in values.values() for curve in curves for value in curve)


def _panels(panels: Sequence[Panel], title: str, below: str) -> str:
    """Panels side by side, those without any value left out; empty if all are."""
    panels = [panel for panel in panels if _known(panel.curves)]
    if not panels:
        return ""
    columns = min(3, max(2, len(panels)))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.5 * rows), layout="constrained")
        for number, panel in enumerate(panels, start=1):
            _draw_panel(figure.add_subplot(rows, columns, number), panel)
        _legend(figure)
        for axes in figure.axes[-columns:]:
            axes.set_xlabel(below)
        return _svg(figure, title)


def _legend(figure: Figure) -> None:
    """Of the first panel: within it, or below all of them where there are many arms."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) <= FEW:
        figure.axes[0].legend(frameon=False)
        return
    columns = 4
    figure.set_figheight(figure.get_figheight() + 0.25 * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    longest = max(len(curve) for runs in panel.curves.values() for curve in runs)
    for arm, style in styles(list(panel.curves)).items():
        runs = panel.curves[arm]
        table = np.full((len(runs), longest), np.nan)
        for row, curve in zip(table, runs, strict=True):
            row[: len(curve)] = curve
        known = np.isfinite(table).any(0)
        across = np.arange(panel.first, panel.first + longest)[known]
        table = table[:, known]
        marker = style.marker if len(across) == 1 else None
        line: Any = {"color": style.colour, "dashes": style.dashes, "lw": 1.8, "marker": marker}
        axes.plot(across, np.nanmean(table, 0), label=arm, **line)
        if len(runs) > 1:
            axes.fill_between(across, np.nanmin(table, 0), np.nanmax(table, 0), color=style.colour, alpha=0.2, lw=0)
    if panel.level is not None:
        axes.axhline(panel.level, color="#888", lw=0.8, ls=":")
    axes.set_title(panel.title, fontsize=10)
    _plain(axes)
    axes.xaxis.set_major_locator(FixedLocator([panel.first]) if longest == 1 else MaxNLocator(integer=True))


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


class Point(NamedTuple):
    """An arm of one setting of a sweep, its means over seeds."""

    number: int  # under which the table lists the setting
    arm: str
    treatment: bool  # or the setting's reference
    across: float  # indicator
    up: float  # accuracy or average precision
    margins: tuple[float, float]  # of the differences to the reference, across and up; nan where not known
    on_front: bool


def front(panels: Sequence[tuple[str, Sequence[Point]]], up: str) -> str:
    """Accuracy against an indicator of each family; points on the Pareto front are filled and joined."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    style = styles(list(dict.fromkeys(point.arm for _, points in panels for point in points)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.9 * rows), layout="constrained")
        for place, (label, points) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            _draw_front(axes, points, style)
            axes.set_xlabel(label)
            axes.ticklabel_format(useOffset=False)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            _plain(axes)
        for axes in figure.axes[::columns]:
            axes.set_ylabel(up)
        if len(style) > 2:
            _legend(figure)
        return _svg(figure, f"Pareto front of {up} against each family of indicators; squares are the references")


def _draw_front(axes: Axes, points: Sequence[Point], style: Mapping[str, ArmStyle]) -> None:
    best = sorted({(point.across, point.up) for point in points if point.on_front})
    axes.plot(*zip(*best, strict=True), color="#888", lw=1, alpha=0.6)
    labelled: set[str] = set()
    for point in points:
        colour, _, marker = style[point.arm]
        fill = colour if point.on_front else "none"
        label = None if point.arm in labelled else point.arm
        labelled.add(point.arm)
        size = 6 if point.treatment else 5
        axes.plot(point.across, point.up, marker, mec=colour, mfc=fill, ms=size, ls="none", label=label)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # bars of few seeds would leave the points no room
    for point in points:
        if point.treatment:
            wide, high = (margin if math.isfinite(margin) else None for margin in point.margins)
            bar: Any = {"fmt": "none", "ecolor": style[point.arm].colour, "elinewidth": 0.7, "alpha": 0.5}
            axes.errorbar(point.across, point.up, high, wide, **bar)
            axes.annotate(str(point.number), (point.across, point.up), xytext=(5, 3), textcoords="offset points")


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    label = html.escape(title, quote=True)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
