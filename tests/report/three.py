"""A run of three arms that never happened: that of two arms beside the tests, with a third one made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from camtrain.analysis.over_seeds import Run, differences_of_run
from camtrain.arms import contrasts
from camtrain.data.images import in_memory
from camtrain.report.gallery import Views, choose_gallery, write_gallery
from camtrain.runs.images import read_images, write_images
from camtrain.runs.load import read
from camtrain.runs.result import ArmResult, Control, RunResult, write

OLD_RUN = Path(__file__).resolve().parent.parent / "runs" / "old_run"
ADDED = "area"


def _scaled(figures: Mapping[str, float], factor: float) -> dict[str, float]:
    return {tag: value if tag == "cam/dead_rate" else value * factor for tag, value in figures.items()}


def three_arms(folder: Path, seed: int = 0) -> Run:
    """Write a run folder of three arms, and give its run."""
    folder.mkdir(parents=True, exist_ok=True)
    old, each = read(OLD_RUN).result, read_images(OLD_RUN)
    factor = 0.9 - seed / 100
    arms = old.arms | {ADDED: ArmResult([_scaled(row, factor) for row in old.arms["regularised"].epochs])}
    first, pair = contrasts(arms)
    each[ADDED] = {tag: value * factor for tag, value in each["regularised"].items()}
    for name in (first.control_area, pair.control, pair.control_area):
        each[name] = dict(each["control"])
    control = old.controls["regularised"]
    added = (ADDED, first.control_area, pair.control, pair.control_area)
    size = [
        replace(group, figures=group.figures | dict.fromkeys(added, group.figures["regularised"]))
        for group in old.by_size or []
    ]
    assert old.sanity is not None
    assert old.timing.step is not None
    changes, margins = differences_of_run({name: arm.final for name, arm in arms.items()}, each)
    result: RunResult = replace(
        old,
        config=replace(old.config, seed=seed, arms=old.config.arms | {ADDED: {"cam": {"term": "area"}}}),
        arms=arms,
        cam_shares=old.cam_shares | {ADDED: 0.3},
        timing=replace(old.timing, step=old.timing.step | {ADDED: 0.02}),
        controls=old.controls | {ADDED: Control(1.5, control.final)},
        controls_area=dict.fromkeys((first.treatment, ADDED), Control(1.25, control.final)),
        by_size=size,
        sanity=old.sanity | {ADDED: [value * 0.5 for value in old.sanity["regularised"]]},
        differences=changes,
        margins=margins,
    )
    images = in_memory(
        result.data.classes, torch.zeros(16, 3, 16, 16, dtype=torch.uint8), torch.arange(16) % 3, torch.zeros(0)
    )
    chosen = choose_gallery(each, [2, 5], contrasts(arms)[0])
    result.gallery = write_gallery(folder, images, chosen, lambda numbers: views(numbers, list(arms)))
    result.gallery_by = chosen.by.label
    write(folder, result)
    write_images(folder, images, each)
    return Run(folder, result, each)


def views(numbers: list[int], arms: list[str], maps: Mapping[str, Tensor] | None = None) -> Views:
    """Grey images with a square object, random maps and logits."""
    count = len(numbers)
    generator = torch.Generator().manual_seed(sum(numbers))
    regions = torch.zeros(count, 16, 16, dtype=torch.uint8)
    regions[:, 4:10, 4:10] = 1
    made = {arm: torch.rand(count, 4, 4, generator=generator) ** (1 + 3 * at) for at, arm in enumerate(arms)}
    return Views(
        numbers,
        torch.rand(count, 3, 16, 16, generator=generator),
        torch.arange(count),
        torch.tensor(numbers) % 3,
        regions,
        False,
        maps or made,
        {arm: torch.randn(count, 3, generator=generator) for arm in arms},
    )
