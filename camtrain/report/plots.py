"""Plots of the report as SVG: curves of both arms, how maps settled and what randomising did, the front of a sweep."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from camtrain.arms import BASELINE, REGULARISED
from camtrain.metrics.learning_curves import SETTLED

COLOURS = {BASELINE: "#4c5a6b", REGULARISED: "#d1560b"}
DASHES = {BASELINE: (4, 2), REGULARISED: (None, None)}
MARKERS = {BASELINE: "s", REGULARISED: "o"}

STYLE: Any = {"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "camtrain"}

CURVES = (
    ("accuracy/val", "accuracy"),
    ("average_precision/val", "mean average precision"),
    ("cam/entropy", "entropy, nats"),
    ("cam/area", "elliptical area, cells"),
    ("cam/energy_in_mask", "energy in mask"),
    ("cam/dead_rate", "dead rate"),
    ("loss/classification", "classification loss"),
)

Epochs = Sequence[Mapping[str, Sequence[Mapping[str, Any]]]]
"""Of each run and arm, the figures of every epoch."""


def curves(runs: Epochs) -> str:
    """The main figures over the epochs: the mean over seeds, and a band from the lowest to the highest."""
    shown = [(tag, label) for tag, label in CURVES if any(_finite(values) for values in _of(runs, tag).values())]
    panels = [(label, _of(runs, tag), 1, None) for tag, label in shown]
    return _panels(panels, "Curves of both arms over the epochs", "epoch")


def settling(runs: Epochs) -> str:
    """Likeness of each epoch's maps to those of the last, and of the epoch before."""
    panels = [
        ("likeness to the final maps", _of(runs, "settling/with_final"), 1, SETTLED),
        ("likeness to the epoch before", _of(runs, "settling/with_previous"), 1, None),
    ]
    panels = [panel for panel in panels if any(_finite(values) for values in panel[1].values())]
    return _panels(panels, "How the maps settled", "epoch")


def randomised(sanity: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """Likeness of the maps to those before, while weights are replaced from the last layer to the first."""
    values = {arm: [list(run[arm]) for run in sanity] for arm in (BASELINE, REGULARISED)}
    panels = [("likeness to the trained network's map", values, 0, None)]
    return _panels(panels, "Maps while weights are randomised", "steps: last layer, then equal groups of the others")


def _of(runs: Epochs, tag: str) -> dict[str, list[list[float]]]:
    """By arm, a curve for each run."""
    return {
        arm: [[math.nan if (value := row.get(tag)) is None else value for row in run[arm]] for run in runs]
        for arm in (BASELINE, REGULARISED)
    }


def _finite(values: Sequence[Sequence[float]]) -> bool:
    return any(math.isfinite(value) for row in values for value in row)


Panel = tuple[str, Mapping[str, Sequence[Sequence[float]]], int, float | None]
"""Title, curves by arm, number of the first value, and a level to mark."""


def _panels(panels: Sequence[Panel], title: str, below: str) -> str:
    if not panels:
        return ""
    columns = min(3, max(2, len(panels)))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.5 * rows), layout="constrained")
        for number, (label, values, first, level) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, number)
            longest = 0
            for arm, runs in values.items():
                length = max(map(len, runs))
                longest = max(longest, length)
                table = np.full((len(runs), length), np.nan)
                for row, curve in zip(table, runs, strict=True):
                    row[: len(curve)] = curve
                known = np.isfinite(table).any(0)
                at = np.arange(first, first + length)[known]
                table = table[:, known]
                marker = MARKERS[arm] if len(at) == 1 else None
                line: Any = {"color": COLOURS[arm], "dashes": DASHES[arm], "lw": 1.8, "marker": marker}
                axes.plot(at, np.nanmean(table, 0), label=arm, **line)
                if len(runs) > 1:
                    band = np.nanmin(table, 0), np.nanmax(table, 0)
                    axes.fill_between(at, *band, color=COLOURS[arm], alpha=0.2, lw=0)
            if level is not None:
                axes.axhline(level, color="#888", lw=0.8, ls=":")
            axes.set_title(label, fontsize=10)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(FixedLocator([first]) if longest == 1 else MaxNLocator(integer=True))
        figure.axes[0].legend(frameon=False)
        for axes in figure.axes[-columns:]:
            axes.set_xlabel(below)
        return _svg(figure, title)


class Point(NamedTuple):
    """An arm of one setting of a sweep, its means over seeds."""

    number: int  # under which the table lists the setting
    arm: str
    across: float  # indicator
    up: float  # accuracy or average precision
    margins: tuple[float, float]  # of the differences to the baseline, across and up; nan where not known
    on_front: bool


def front(panels: Sequence[tuple[str, Sequence[Point]]], up: str) -> str:
    """Accuracy against an indicator of each family; points on the Pareto front are filled and joined."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.9 * rows), layout="constrained")
        for place, (label, points) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            best = sorted({(point.across, point.up) for point in points if point.on_front})
            axes.plot(*zip(*best, strict=True), color="#888", lw=1, alpha=0.6)
            for point in points:
                colour = COLOURS[point.arm]
                axes.plot(
                    point.across,
                    point.up,
                    MARKERS[point.arm],
                    mec=colour,
                    mfc=colour if point.on_front else "none",
                    ms=6 if point.arm == REGULARISED else 5,
                )
            axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # bars of few seeds would leave the points no room
            for point in points:
                if point.arm == REGULARISED:
                    colour = COLOURS[REGULARISED]
                    wide, high = (margin if math.isfinite(margin) else None for margin in point.margins)
                    axes.errorbar(
                        point.across, point.up, high, wide, fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.5
                    )
                    axes.annotate(
                        str(point.number), (point.across, point.up), xytext=(5, 3), textcoords="offset points"
                    )
            axes.set_xlabel(label)
            axes.ticklabel_format(useOffset=False)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in figure.axes[::columns]:
            axes.set_ylabel(up)
        return _svg(figure, f"Pareto front of {up} against each family of indicators; squares are baselines")


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    label = html.escape(title, quote=True)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
