"""What finished runs say together: runs of the same settings over seeds, their arms compared, the claims judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from camtrain.analysis.comparison import Figures, Row, caveats, rows
from camtrain.analysis.intervals import NOTHING, Floats, Interval, hierarchical, mean_interval
from camtrain.analysis.verdict import HELD_OUT_GAIN, Claim, held_out_methods, judge, measured_methods
from camtrain.arms import Contrast, contrasts
from camtrain.config.hydra_store import cam_of_arms
from camtrain.config.options import CamVariant, DatasetName
from camtrain.config.schema import ReportConfig
from camtrain.metrics.catalogue import INDICATORS, is_rate, other_map_tag
from camtrain.metrics.classification import chance
from camtrain.metrics.tags import ACCURACY, BALANCED, primary_tag
from camtrain.runs.result import Control, RunResult
from camtrain.runs.settings import settings

GENERATED = (DatasetName.shapes, DatasetName.fake)
"""Sets whose images are others with every seed."""

Each = Mapping[str, Mapping[str, Tensor]]
"""By arm (or sharpened baseline) and tag: (images,), nan where not defined."""


@dataclass(frozen=True)
class Run:
    """A finished run with the figures of every image."""

    folder: Path
    result: RunResult
    each: Each
    joined: Sequence[Path] = ()  # folders of the runs of several folds that it is made of
    classes: Sequence[str] = ()  # of every image, in words; empty where they are not known

    @property
    def folders(self) -> Sequence[Path]:
        return self.joined or [self.folder]


@dataclass(frozen=True)
class Comparison:
    """A treatment compared with the reference over runs."""

    contrast: Contrast
    rows: Mapping[str, Sequence[Row]]  # by family
    claim: Claim
    power: float  # that sharpens the reference's maps to the treatment's entropy, mean over runs; nan if not known
    power_area: float  # likewise to its elliptical area

    @property
    def intervals(self) -> dict[str, Interval]:
        """By tag, as shown."""
        return {row.indicator.tag: row.interval for family in self.rows.values() for row in family}


@dataclass(frozen=True)
class Summary:
    """Runs that differ in their seed alone."""

    label: str  # what sets them apart from the other runs of a sweep
    runs: Sequence[Run]
    final: Mapping[str, Figures]  # by arm and sharpened baseline: mean over runs
    comparisons: Sequence[Comparison]  # one for each treatment

    @property
    def arms(self) -> list[str]:
        """The reference first."""
        return list(self.runs[0].result.arms)

    @property
    def reference(self) -> Figures:
        return self.final[self.arms[0]]

    @property
    def seeds(self) -> list[int]:
        return [run.result.seed for run in self.runs]

    @property
    def trained(self) -> bool:
        """Whether the arms are of runs that trained them, and not any networks."""
        return not self.runs[0].result.networks

    @property
    def counted(self) -> str:
        return f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)}"


def notes(one: Summary, shared_files: int = 0) -> list[str]:
    """What a reader must know before believing it.

    Args:
        one: the runs.
        shared_files: validation images that were trained on.
    """
    lines = []
    if shared_files:
        lines.append(
            f"{shared_files} of the validation images were trained on: the figures do not say how well the arms do on"
            " new ones."
        )
    if others := {run.result.reference_from for run in one.runs} - {None}:
        where = ", ".join(sorted(map(str, others)))
        lines.append(f"the {one.arms[0]} arm was trained in {where}, from where its step times are.")
    cams = cam_of_arms(one.runs[0].result.config) if one.trained else None
    for comparison in one.comparisons:
        lines += caveats(comparison.contrast, one.final, comparison.intervals, cams)
    lines += _chance(one)
    for comparison in one.comparisons:
        if round(comparison.power, 2) < 1:
            reference, treatment = comparison.contrast[:2]
            lines.append(
                f"the {treatment} arm's maps are no sharper than the {reference} arm's: the sharpened baseline is in"
                f" fact flattened (power {comparison.power:.2f})."
            )
    return list(dict.fromkeys(lines))


def _chance(one: Summary) -> list[str]:
    """That the reference is hardly better than a network that does not look at the images: by two standard errors."""
    arm, data, tag = one.arms[0], one.runs[0].result.data, primary_tag(one.reference)
    if data.multilabel and data.val_per_class is None:  # a former version's run
        return []
    counts: Sequence[float] = data.val_per_class or [data.val / len(data.classes)] * len(data.classes)
    level = chance(counts, data.val, data.multilabel)
    shares = one.runs[0].each.get(arm, {}).get(tag)
    error = math.sqrt(level * (1 - level) / data.val)
    if data.multilabel:
        error = math.nan if shares is None else float(shares.std()) / math.sqrt(data.val)
    reached = one.reference.get(tag, math.nan)
    if not reached <= level + 2 * error:
        return []
    present = [count for count in counts if count]
    if len(present) == 1 and not data.multilabel:
        return [f"the validation images are all of one class: the {arm} arm's accuracy does not show what was learnt."]
    said = f"the {arm} arm's {INDICATORS[tag].label}, {reached:.3f}, is hardly above chance ({level:.3f}"
    nothing = "the maps and curves of a network that learnt nothing mean nothing." + " Train longer." * one.trained
    if data.multilabel or level <= 1 / len(data.classes):
        return [f"{said}): {nothing}"]
    said += f": always saying {data.classes[counts.index(max(counts))]})"
    even, balanced = 1 / len(present), one.reference.get(BALANCED, math.nan)
    if balanced > even + 2 * even * math.sqrt(even * (1 - even) * sum(1 / count for count in present)):
        return [f"{said}, its balanced accuracy, {balanced:.3f}, is above that of chance ({even:.3f}): go by that one."]
    return [f"{said}: {nothing}"]


def group_by_settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their settings without the seed, under what sets these apart; in the order of their first run.

    Of several runs with the same settings and seed, the last one counts.
    """
    found: dict[tuple[tuple[str, str | float | bool], ...], dict[int, Run]] = {}
    # Seeds by which networks of others were measured again; the network of that seed belongs to these.
    foreign = {run.result.config.seed for run in runs if run.result.seed != run.result.config.seed}
    for run in runs:
        own = settings(run.result.config)
        if run.result.trained_seed is not None and run.result.config.seed in foreign:
            own["seed"] = run.result.config.seed  # of the images
        found.setdefault(tuple(sorted(own.items())), {})[run.result.seed] = run
    common = set.intersection(*(set(group) for group in found)) if found else set()
    return {
        " ".join(f"{key}={value}" for key, value in group if (key, value) not in common): [
            by_seed[seed] for seed in sorted(by_seed)
        ]
        for group, by_seed in found.items()
    }


def summarise(label: str, runs: Sequence[Run], margins: ReportConfig) -> Summary:
    """Compare the arms over these runs.

    Args:
        label: what sets them apart.
        runs: same settings, different seeds; at least one.
        margins: what "nothing lost" means.
    """
    finals = [run.result.finals() for run in runs]
    final = {name: _means([parts.get(name, {}) for parts in finals]) for name in finals[0]}
    one_set = len({run.result.config.seed for run in runs}) == 1  # networks of several seeds, measured again by one
    shared = one_set or runs[0].result.config.dataset.name not in GENERATED
    pairs = contrasts(runs[0].result.arms)
    return Summary(label, runs, final, [_compare(pair, runs, final, shared, margins) for pair in pairs])


def _compare(
    contrast: Contrast, runs: Sequence[Run], final: Mapping[str, Figures], shared: bool, margins: ReportConfig
) -> Comparison:
    """A contrast over runs; `shared`: all have the same images."""
    reference, treatment, control, control_area = contrast
    eaches = [run.each for run in runs]
    arms = [{name: run.result.arms[name].final for name in (reference, treatment)} for run in runs]
    found = differences(eaches, reference, treatment, shared)
    # What is not known of every image goes by seeds; but a rate that few seeds agree on is not thereby known.
    for tag in final[reference]:
        if tag not in found and tag in final[treatment] and not is_rate(tag):
            change = [part[treatment].get(tag, math.nan) - part[reference].get(tag, math.nan) for part in arms]
            found[tag] = mean_interval(np.array(change))
    primary = primary_tag(final[reference])
    both_correct = differences(eaches, reference, treatment, shared, both_correct=True)
    for tag in (primary, BALANCED):
        both_correct.pop(tag, None)  # 0 by choice
    beside = differences(eaches, control, treatment, shared)
    figures = [figures for part in arms for figures in part.values()]
    # A map that the treatment was trained through is no evidence of its own, though another one is measured.
    first = runs[0].result
    trained = not first.networks  # else each has a map of its own, which need not be one to train through
    method = cam_of_arms(first.config)[treatment].variant if trained else CamVariant(first.networks[treatment].method)
    distinct = held_out_methods(figures)
    held_out = [other for other in distinct if other is not method]
    equivalent = [other for other in measured_methods(figures) if other not in distinct]
    found[HELD_OUT_GAIN] = held_out_gain(eaches, reference, treatment, shared, held_out)
    by_seed = {run.result.seed: differences([run.each], reference, treatment, shared) for run in runs}
    return Comparison(
        contrast,
        rows(final[reference], final[treatment], found, final.get(control), both_correct, final.get(control_area)),
        judge(found, beside, held_out, margins, primary, by_seed, equivalent)._replace(trained=trained),
        _mean_power([run.result.controls for run in runs], treatment),
        _mean_power([run.result.controls_area for run in runs], treatment),
    )


def _mean_power(controls: Sequence[Mapping[str, Control]], treatment: str) -> float:
    """Over the runs in which it is known; nan if it is in none."""
    powers = [each[treatment].power for each in controls if treatment in each]
    return sum(powers) / len(powers) if powers else math.nan


def differences(
    runs: Sequence[Each], reference: str, treatment: str, shared: bool, both_correct: bool = False
) -> dict[str, Interval]:
    """Mean difference, treatment minus reference, of each tag that is known of every image in both.

    Args:
        runs: of each, what is known of the images.
        reference: an arm, or a sharpened baseline.
        treatment: an arm.
        shared: all runs have the same images.
        both_correct: leave out images that one of the arms classifies wrongly.
    """
    accuracy = f"{ACCURACY}/val"
    parts = [each.get(arm, {}) for each in runs for arm in (reference, treatment)]
    tags = [tag for tag in parts[0] if all(tag in part for part in parts)]
    if not tags or (both_correct and accuracy not in tags):
        return {}
    values = []
    for each in runs:
        difference = _changes(each, reference, treatment, tags)
        if both_correct:
            right = (each[reference][accuracy] == 1) & (each[treatment][accuracy] == 1)
            difference[~right.numpy()] = np.nan
        values.append(difference)
    return dict(zip(tags, hierarchical(values, _same(values, shared), list(map(is_rate, tags))), strict=True))


def own_intervals(runs: Sequence[Run], arm: str, shared: bool = True) -> dict[str, Interval]:
    """Mean of each tag that is known of every image, of one arm by itself; arguments as for :func:`differences`."""
    eaches = [run.each.get(arm, {}) for run in runs]
    tags = [tag for tag in eaches[0] if all(tag in each for each in eaches)]
    if not tags:
        return {}
    values: list[Floats] = [np.stack([each[tag].numpy() for tag in tags], 1) for each in eaches]
    return dict(zip(tags, hierarchical(values, _same(values, shared), list(map(is_rate, tags))), strict=True))


def held_out_gain(
    runs: Sequence[Each], reference: str, treatment: str, shared: bool, methods: Sequence[CamVariant]
) -> Interval:
    """Difference in faithfulness of maps that were not trained on: of each image, the mean over those methods that it
    is known of. Arguments as for :func:`differences`; nothing if a run lacks a method."""
    tags = [other_map_tag(method.value, "gain") for method in methods]
    if not tags or any(tag not in each.get(arm, {}) for each in runs for arm in (reference, treatment) for tag in tags):
        return NOTHING
    values = []
    for each in runs:
        difference = _changes(each, reference, treatment, tags)
        known = np.isfinite(difference)
        count = known.sum(1, keepdims=True)
        total = np.where(known, difference, 0.0).sum(1, keepdims=True)
        values.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return hierarchical(values, _same(values, shared))[0]


def _changes(each: Each, reference: str, treatment: str, tags: Sequence[str]) -> Floats:
    """(images, tags), treatment minus reference."""
    return np.stack([(each[treatment][tag] - each[reference][tag]).numpy() for tag in tags], 1)


def _same(values: Sequence[Floats], shared: bool) -> bool:
    """Whether the images of several runs can be paired."""
    return shared and len({len(value) for value in values}) == 1


def differences_of_run(final: Mapping[str, Figures], each: Each) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """By treatment and tag, the difference to the reference in one run, and half of its 95 % interval over images.

    Of a tag that is known of every image the difference is the mean over the images that both arms have a value of,
    to which the interval belongs; of another, that of the arms' figures. With several classes per image the arms' own
    means are over maps, and a map that is dead in one arm is in the other's mean alone.

    Args:
        final: last figures of each arm, the reference first.
        each: figures of every image; empty where none was measured yet.
    """
    changes: dict[str, Figures] = {}
    margins: dict[str, Figures] = {}
    for reference, treatment, *_ in contrasts(final):
        before, after = final[reference], final[treatment]
        found = differences([each], reference, treatment, shared=True)
        known = {tag: interval.estimate for tag, interval in found.items() if math.isfinite(interval.estimate)}
        changes[treatment] = {**{tag: after[tag] - before[tag] for tag in before if tag in after}, **known}
        margins[treatment] = {tag: interval.margin for tag, interval in found.items()}
    return changes, margins


def _means(figures: Sequence[Figures]) -> dict[str, float]:
    """Of each tag, the mean over runs that have it."""
    found = {}
    for tag in figures[0]:
        values = [number for row in figures if math.isfinite(number := row.get(tag, math.nan))]
        found[tag] = sum(values) / len(values) if values else math.nan
    return found
