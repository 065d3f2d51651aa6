"""Indicators of some of the images: of each class, and of those that the arms classify rightly or wrongly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.analysis.over_seeds import Run, Summary
from camtrain.metrics.catalogue import INDICATORS, Indicator, Place, at
from camtrain.metrics.tags import ACCURACY, primary_tag
from camtrain.report.page import Cell, Table
from camtrain.report.tables import joined, series

RIGHT, WRONG, DIFFER = "right", "wrong", "differ"
"""Of an image: all arms are right, all are wrong, they predict different classes."""


def of_class(number: int) -> str:
    """The token of images of a class, by its number."""
    return f"class-{number}"


def of_size(size: str) -> str:
    """The token of images with objects of a size."""
    return f"size-{size}"


def wrong_alone(arm: str) -> str:
    """The token of images that an arm alone classifies wrongly."""
    return f"{WRONG}-{arm}"


class Subset(NamedTuple):
    """Images that have something in common."""

    name: str
    token: str  # by which the page knows them
    which: Sequence[Tensor]  # of each run, (images,) bool


def table(one: Summary, shown: Mapping[str, int]) -> Table | None:
    """Means over the images of each subset, of all arms; None where the images' classes are not known.

    Args:
        one: the runs.
        shown: how many images of each token the gallery shows.
    """
    if any(len(run.classes) != run.result.data.val for run in one.runs):
        return None
    indicators = [INDICATORS[primary_tag(one.reference)], *at(Place.settings)]
    groups = []
    for title, subsets in (("by class", by_class(one.runs)), ("by what is predicted", by_result(one))):
        rows = [
            [
                Cell(subset.name, "long", show=subset.token if shown.get(subset.token) else ""),
                Cell(f"{sum(int(which.sum()) for which in subset.which) / len(one.runs):.4g}"),
                *(Cell(series([_mean(one.runs, arm, each, subset.which) for arm in one.arms])) for each in indicators),
            ]
            for subset in subsets
            if any(bool(which.any()) for which in subset.which)
        ]
        if rows:
            groups.append((title, rows))
    head = [Cell(), Cell("images"), *(Cell(each.title) for each in indicators)]
    return Table(f"indicators of some of the images, {joined(one.arms)}", head, groups, "dense")


def by_class(runs: Sequence[Run]) -> Iterator[Subset]:
    """A subset for each class, of the images that show it."""
    several = runs[0].result.data.multilabel
    names = [[text.split("; ") if several else [text] for text in run.classes] for run in runs]
    for number, name in enumerate(runs[0].result.data.classes):
        which = [torch.tensor([name in those for those in of_run]) for of_run in names]
        yield Subset(name, of_class(number), which)


def by_result(one: Summary) -> Iterator[Subset]:
    """Images that all arms classify rightly, that one of them does not, and that none does; nothing where an image may
    show several classes."""
    tag = f"{ACCURACY}/val"
    if any(tag not in run.each.get(arm, {}) for run in one.runs for arm in one.arms):
        return
    right = [torch.stack([run.each[arm][tag] == 1 for arm in one.arms]) for run in one.runs]
    several = len(one.arms) > 1
    yield Subset("right in all" if several else "right", RIGHT, [each.all(0) for each in right])
    if several:
        for number, arm in enumerate(one.arms):
            alone = [~each[number] & (each.sum(0) == len(one.arms) - 1) for each in right]
            yield Subset(f"wrong in {arm} alone", wrong_alone(arm), alone)
    yield Subset("wrong in all" if several else "wrong", WRONG, [~each.any(0) for each in right])


def _mean(runs: Sequence[Run], arm: str, indicator: Indicator, which: Sequence[Tensor]) -> float:
    """Over the runs, of the means over their images that have the figure."""
    found = []
    for run, chosen in zip(runs, which, strict=True):
        values = run.each.get(arm, {}).get(indicator.tag)
        if values is not None and math.isfinite(mean := float(values[chosen].nanmean())):
            found.append(mean * indicator.scale)
    return sum(found) / len(found) if found else math.nan
