"""Runs of the folds of one set (`dataset.fold`), joined to one run that was validated on the images of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camtrain.analysis.over_seeds import Run, differences_of_run
from camtrain.config.validate import fold_of
from camtrain.evaluation.localisation import SizeGroup
from camtrain.runs.facts import data_name
from camtrain.runs.result import ArmResult, Control, DataFacts, Figures, RunResult, Timing
from camtrain.runs.settings import settings


def join_folds(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs, those of one seed that differ in their fold alone as one; of repeated ones the last counts.

    Figures of every image are put side by side; others are means over folds, weighted by images.

    Returns:
        The runs in the order of their first fold, and a line for each set of folds that are missing.
    """
    found: dict[object, dict[int, Run]] = {}
    for at, run in enumerate(runs):
        config, fold = run.result.config, fold_of(run.result.config.dataset)
        own = {key: value for key, value in settings(config).items() if key != "dataset.fold"}
        key = at if fold is None else (fold[1], config.seed, run.result.seed, tuple(sorted(own.items())))
        found.setdefault(key, {})[0 if fold is None else fold[0]] = run
    joined: list[Run] = []
    seeds: dict[str, dict[int, None]] = {}
    for by_number in found.values():
        parts = [by_number[number] for number in sorted(by_number)]
        fold = fold_of(parts[0].result.config.dataset)
        if fold is None:
            joined += parts
            continue
        lacking = [f"{number}/{fold[1]}" for number in range(fold[1]) if number not in by_number]
        if lacking:
            seeds.setdefault(", ".join(lacking), {})[parts[0].result.seed] = None
        there = ",".join(map(str, sorted(by_number))) if lacking else f"0-{fold[1] - 1}"
        joined.append(_joined(parts, f"{there}/{fold[1]}") if len(parts) > 1 else parts[0])
    return joined, [
        f"missing: fold {folds} of seed {', '.join(map(str, some))}; the figures are of the other folds' images."
        for folds, some in seeds.items()
    ]


def _joined(runs: Sequence[Run], fold: str) -> Run:
    """Several folds' runs as one; `fold` is what stands for them in its configuration."""
    first = runs[0].result
    each = _side_by_side(runs)
    arms = {name: ArmResult(list(_epochs(runs, name))) for name in first.arms}
    names = {pair.treatment: pair.control for pair in first.contrasts}
    names_area = {pair.treatment: pair.control_area for pair in first.contrasts}
    changes, margins = differences_of_run({name: arm.final for name, arm in arms.items()}, each)
    config = replace(first.config, dataset=replace(first.config.dataset, fold=fold))
    result = replace(
        first,
        config=config,
        arms=arms,
        data=_data([run.result.data for run in runs], data_name(config.dataset)),
        timing=_timing([run.result.timing for run in runs]),
        differences=changes,
        margins=margins,
        controls=_controls(runs, [run.result.controls for run in runs], names),
        controls_area=_controls(runs, [run.result.controls_area for run in runs], names_area),
        by_size=_by_size([run.result.by_size or [] for run in runs]),
        faithfulness_images=_images([run.result.faithfulness_images for run in runs]),
        sanity=_sanity([run.result for run in runs]),
    )
    classes = [name for run in runs for name in run.classes]
    return Run(runs[0].folder, result, each, [run.folder for run in runs], classes)


def _controls(
    runs: Sequence[Run], parts: Sequence[Mapping[str, Control]], names: Mapping[str, str]
) -> dict[str, Control]:
    """Sharpened baselines by treatment, of those that every run has.

    Args:
        runs: of the folds.
        parts: each run's sharpened baselines by treatment.
        names: under which they are known of every image.
    """
    weights = [float(run.result.data.val) for run in runs]
    return {
        treatment: Control(
            _mean([part[treatment].power for part in parts], weights),
            _figures(runs, name, [part[treatment].final for part in parts]),
        )
        for treatment, name in names.items()
        if all(treatment in part for part in parts)
    }


def _side_by_side(runs: Sequence[Run]) -> dict[str, dict[str, Tensor]]:
    """By arm and tag, (images of all runs,); nan where a run has no such figure."""
    tags = {name: dict.fromkeys(tag for run in runs for tag in run.each.get(name, {})) for name in runs[0].each}

    def of_run(run: Run, name: str, tag: str) -> Tensor:
        nothing = torch.full((run.result.data.val,), math.nan, dtype=torch.float64)
        return run.each.get(name, {}).get(tag, nothing)

    return {
        name: {tag: torch.cat([of_run(run, name, tag) for run in runs]) for tag in own} for name, own in tags.items()
    }


def _epochs(runs: Sequence[Run], name: str) -> Iterator[dict[str, float]]:
    """An arm's figures of every epoch, the last ones where the runs have not equally many."""
    epochs = [run.result.arms[name].epochs for run in runs]
    for back in range(min(map(len, epochs)), 0, -1):
        yield _figures(runs, name, [rows[-back] for rows in epochs])


def _figures(runs: Sequence[Run], name: str, rows: Sequence[Figures]) -> dict[str, float]:
    """Of each tag the mean over runs, weighted by the images that have a value, as far as that is known.

    Args:
        runs: of the folds.
        name: of an arm or sharpened baseline.
        rows: its figures in each run.
    """

    def weight(run: Run, tag: str) -> float:
        values = run.each.get(name, {}).get(tag)
        return float(run.result.data.val if values is None else values.isfinite().sum())

    tags = dict.fromkeys(tag for row in rows for tag in row)
    return {tag: _mean([row.get(tag, math.nan) for row in rows], [weight(run, tag) for run in runs]) for tag in tags}


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted mean of the finite ones; nan if there is none."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if math.isfinite(value)]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan


def _data(parts: Sequence[DataFacts], name: str) -> DataFacts:
    """The validation images of all folds; the training images are those of the first."""
    counts = [part.val_per_class or [] for part in parts]
    return replace(
        parts[0],
        name=name,
        val=sum(part.val for part in parts),
        val_with_region=sum(part.val_with_region for part in parts),
        val_per_class=[sum(of_class) for of_class in zip(*counts, strict=True)] if all(counts) else None,
    )


def _timing(parts: Sequence[Timing]) -> Timing:
    """Means over the runs."""
    step = None
    if all(part.step is not None for part in parts):
        steps = [part.step or {} for part in parts]
        step = {name: sum(times[name] for times in steps) / len(steps) for name in steps[0]}
    return Timing(sum(part.seconds for part in parts) / len(parts), step)


def _by_size(parts: Sequence[Sequence[SizeGroup]]) -> list[SizeGroup] | None:
    """Means weighted by images; None where the folds have not the same groups."""
    if len({tuple(group.size for group in groups) for groups in parts}) > 1 or not parts[0]:
        return None
    found = []
    for groups in zip(*parts, strict=True):
        weights = [float(group.images) for group in groups]
        low, high = (_mean(ends, weights) for ends in ([one.low for one in groups], [one.high for one in groups]))
        figures = {
            name: {tag: _mean([group.figures[name].get(tag, math.nan) for group in groups], weights) for tag in known}
            for name, known in groups[0].figures.items()
        }
        found.append(SizeGroup(groups[0].size, sum(group.images for group in groups), low, high, figures))
    return found


def _images(counts: Sequence[int | None]) -> int | None:
    """Of all folds; None where one does not say how many it has."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _sanity(results: Sequence[RunResult]) -> dict[str, list[float]] | None:
    """Means over folds of the likeness after each stage of randomisation; None where one was not measured."""
    if any(result.sanity is None for result in results):
        return None
    curves = [result.sanity or {} for result in results]
    return {
        name: [_mean(values, [1.0] * len(values)) for values in zip(*(part[name] for part in curves), strict=True)]
        for name in curves[0]
    }
