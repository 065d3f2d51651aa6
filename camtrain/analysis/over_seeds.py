"""What finished runs say together: the same settings over seeds, images and arms compared, and the claim judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from camtrain.analysis.comparison import Row, caveats, primary_tag, rows
from camtrain.analysis.intervals import Interval, hierarchical, images_for, mean_interval
from camtrain.analysis.verdict import DEAD_RATE, Claim, Outcome, held_out_methods, judge, measured_methods
from camtrain.arms import BASELINE, CONTROL, REGULARISED
from camtrain.config import schema
from camtrain.config.options import DatasetName
from camtrain.config.schema import Config, ReportConfig, keys

GENERATED = (DatasetName.shapes, DatasetName.fake)
"""Sets whose images are others with every seed."""

OF_NO_SETTING = (
    *("seed", "run", "runs", "images", "class_name"),
    *("trainer.device", "trainer.threads", "trainer.workers", "dataset.cache", "dataset.download"),
    *("evaluate.images", "evaluate.image_epochs"),
)
"""Keys in which runs may differ and still be the same experiment."""


RATES = ("accuracy/val", "dead_rate", "pointing", "increase", "box_accuracy")
"""Ends of the tags that are shares of images: each has 0 or 1, or a mean of such over classes or thresholds."""

Each = Mapping[str, Mapping[str, Tensor]]
"""By arm (or control) and tag: (images,), nan where not defined."""


class Run(NamedTuple):
    """A finished run, as far as it is compared."""

    folder: Path
    config: Config
    result: Mapping[str, Any]  # as in result.json
    each: Each

    @property
    def seed(self) -> int:
        """Of the training, also where its images were chosen by another one when it was measured again."""
        return int(self.result.get("trained_seed", self.config.seed))


class Summary(NamedTuple):
    """Runs that differ in their seed alone."""

    label: str  # what sets them apart from the other runs of a sweep
    runs: Sequence[Run]
    final: Mapping[str, Mapping[str, float]]  # by arm and control: mean over runs
    rows: Mapping[str, Sequence[Row]]  # by family
    claim: Claim

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def counted(self) -> str:
        return f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)}"


def notes(one: Summary, shared: int = 0) -> list[str]:
    """What a reader must know before believing it; `shared` as for :func:`camtrain.analysis.comparison.caveats`."""
    found = {row.indicator.tag: row.interval for rows in one.rows.values() for row in rows}
    lines = list(caveats(one.final, found, one.runs[0].config.cam, shared))
    (health,) = (condition for condition in one.claim.conditions if condition.name == DEAD_RATE)
    allowed = one.claim.margins.health_margin
    died = any(one.final[arm]["cam/dead_rate"] for arm in (BASELINE, REGULARISED))
    if health.outcome is Outcome.open and allowed and not died:
        lines.append(
            f"no map died, but so few images leave ± {health.found.margin:.3f} of dead ones possible:"
            f" {images_for(allowed)} measured images would leave {allowed:g}."
        )
    accuracy, data = one.final[BASELINE].get("accuracy/val", math.nan), one.runs[0].result.get("data", {})
    if math.isfinite(accuracy) and data:
        chance = 1 / len(data["classes"])
        if accuracy < chance + 2 * math.sqrt(chance * (1 - chance) / data["val"]):
            lines.append(
                f"the baseline's accuracy, {accuracy:.3f}, is hardly above chance ({chance:.3f}): maps and curves of a"
                " network that learnt nothing say nothing. Train longer."
            )
    power = [run.result["control"]["power"] for run in one.runs if "control" in run.result]
    if power and sum(power) < len(power):
        lines.append(
            f"the regularised maps are no sharper than the baseline's: the control flattens them (power"
            f" {sum(power) / len(power):.2f})."
        )
    return lines


def settings(config: Config) -> dict[str, str | float | bool]:
    """Every key that makes another experiment, with its value."""
    return {
        key: schema.plain(value)
        for key, value, _ in keys(config)
        if key not in OF_NO_SETTING and not key.startswith("report.")
    }


def group_by_settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their settings without the seed, under what sets these apart; in the order of their first run.

    Of several runs with the same settings and seed, the last one counts.
    """
    found: dict[tuple[tuple[str, str | float | bool], ...], dict[int, Run]] = {}
    # Seeds by which networks of others were measured again; the network of that seed belongs to these.
    foreign = {run.config.seed for run in runs if run.seed != run.config.seed}
    for run in runs:
        own = settings(run.config)
        if "trained_seed" in run.result and run.config.seed in foreign:
            own["seed"] = run.config.seed  # of the images
        found.setdefault(tuple(sorted(own.items())), {})[run.seed] = run
    common = set.intersection(*(set(group) for group in found)) if found else set()
    return {
        " ".join(f"{key}={value}" for key, value in group if (key, value) not in common): [
            of_seed[seed] for seed in sorted(of_seed)
        ]
        for group, of_seed in found.items()
    }


def summarise(label: str, runs: Sequence[Run], margins: ReportConfig) -> Summary:
    """Compare the arms over these runs.

    Args:
        label: what sets them apart.
        runs: same settings, different seeds; one at least.
        margins: what "not worse" means.
    """
    finals = [
        {name: part["final"] for name, part in run.result["arms"].items()}
        | ({CONTROL: run.result["control"]["final"]} if "control" in run.result else {})
        for run in runs
    ]
    final = {name: _means([parts.get(name, {}) for parts in finals]) for name in finals[0]}
    eaches = [run.each for run in runs]
    one_set = len({run.config.seed for run in runs}) == 1  # networks of several seeds, measured again by one
    shared = one_set or runs[0].config.dataset.name not in GENERATED
    found = differences(eaches, shared)
    # What is not known of every image goes by seeds; but a rate that few seeds agree on is not known for that.
    for tag in final[BASELINE]:
        if tag not in found and tag in final[REGULARISED] and not tag.endswith(RATES):
            change = [_number(parts[REGULARISED].get(tag)) - _number(parts[BASELINE].get(tag)) for parts in finals]
            found[tag] = mean_interval(np.array(change))
    tag = primary_tag(final[BASELINE])
    right = differences(eaches, shared, both_right=True)
    right.pop(tag, None)  # 0 by choice
    with_control = differences(eaches, shared, of=CONTROL)
    arms = [
        {tag: _number(value) for tag, value in parts[arm].items()}
        for parts in finals
        for arm in (BASELINE, REGULARISED)
    ]
    independent = held_out_methods(arms)
    doubles = [variant for variant in measured_methods(arms) if variant not in independent]
    return Summary(
        label,
        runs,
        final,
        rows(final, found, final.get(CONTROL), right),
        judge(found, with_control, independent, margins, tag, doubles),
    )


def differences(
    runs: Sequence[Each], shared: bool, of: str = BASELINE, both_right: bool = False
) -> dict[str, Interval]:
    """Mean difference of the regularised arm to another, of each tag that is known of every image.

    Args:
        runs: what is known of the images of each.
        shared: all have the same images.
        of: what the regularised arm is compared with.
        both_right: leave out images that one of the arms classifies wrongly.
    """
    accuracy = "accuracy/val"
    tags = [tag for tag in runs[0].get(of, {}) if all(tag in each.get(of, {}) for each in runs)]
    if not tags or (both_right and accuracy not in tags):
        return {}
    values = []
    for each in runs:
        before, after = each[of], each[REGULARISED]
        difference = np.stack([(after[tag] - before[tag]).numpy() for tag in tags], 1)
        if both_right:
            difference[~((before[accuracy] == 1) & (after[accuracy] == 1)).numpy()] = np.nan
        values.append(difference)
    rates = [tag.endswith(RATES) for tag in tags]
    if len(runs) == 1:
        return {
            tag: mean_interval(values[0][:, at], rate) for at, (tag, rate) in enumerate(zip(tags, rates, strict=True))
        }
    same = shared and len({len(value) for value in values}) == 1
    return dict(zip(tags, hierarchical(values, same, rates=rates), strict=True))


def _means(figures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each tag, the mean over runs that have it."""
    found = {}
    for tag in figures[0]:
        values = [number for row in figures if math.isfinite(number := _number(row.get(tag)))]
        found[tag] = sum(values) / len(values) if values else math.nan
    return found


def _number(value: Any) -> float:
    """A figure; what JSON could not hold is not defined."""
    return math.nan if value is None else float(value)
