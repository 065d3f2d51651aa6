"""Results of runs that never happened, for tests of what is made from results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camtrain.analysis.over_seeds import Run, differences_of_run
from camtrain.arms import contrasts
from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import DatasetName
from camtrain.config.schema import Config, DatasetConfig, FolderConfig, ModelConfig, ShapesConfig
from camtrain.runs.result import ArmResult, Control, DataFacts, ModelFacts, RunResult, Timing

TWO = ("baseline", "regularised")
THREE = ("baseline", "regularised", "area")
TAGS = ("accuracy/val", "cam/entropy", "cam/area")


def made_config(seed: int = 0, files: bool = False, **more: Any) -> Config:
    dataset: DatasetConfig = (
        FolderConfig(name=DatasetName.folder, root="x") if files else ShapesConfig(name=DatasetName.shapes)
    )
    return Config(dataset=dataset, model=ModelConfig(name="small_resnet"), seed=seed, **more)


def made_result(
    config: Config, finals: Mapping[str, Mapping[str, float]], controls: Mapping[str, Control], **more: Any
) -> RunResult:
    """A completed run with these figures of its arms, and of the sharpened baselines by treatment."""
    closed = Routes(GradientRoute.closed, GradientRoute.closed)
    treatments = list(finals)[1:]
    return RunResult(
        status="completed",
        config=config,
        arms={name: ArmResult([dict(final)]) for name, final in finals.items()},
        data=DataFacts("shapes", ["disc", "ring", "cross"], 40, 30, 30, 64, False, {"train": [], "val": []}),
        model=ModelFacts("small_resnet", "layer3", (8, 8), 64, [], None, 77587, closed),
        learning_rate=0.002,
        cam_shares=dict.fromkeys(treatments, 0.5),
        environment={"camtrain": "0", "torch": "2", "device": "1 CPU thread"},
        timing=Timing(12.0, {name: 0.01 + 0.001 * number for number, name in enumerate(finals)}),
        controls=dict(controls),
        **more,
    )


def made_run(seed: int, arms: Sequence[str] = TWO, images: int = 30, files: bool = False, **more: Any) -> Run:
    """A run with made-up figures; each treatment's entropy is lower by 1."""
    generator = torch.Generator().manual_seed(seed)
    names = [*arms, *(pair.control for pair in contrasts(arms))]
    each: dict[str, dict[str, Tensor]] = {
        name: {tag: torch.rand(images, generator=generator, dtype=torch.float64) for tag in TAGS} for name in names
    }
    for name in names:
        if name in arms:
            each[name]["accuracy/val"] = each[name]["accuracy/val"].gt(0.3).double()
        else:
            del each[name]["accuracy/val"]
    for name in arms[1:]:
        each[name]["cam/entropy"] -= 1 + seed / 10
    finals = {name: {tag: float(value.nanmean()) for tag, value in tags.items()} for name, tags in each.items()}
    for name in arms:
        finals[name] |= {"cam/dead_rate": 0.0, "cam/energy_in_mask": math.nan}
        finals[name]["cam/pxap"] = 0.4 + seed / 100 + len(name) / 100
    controls = {pair.treatment: Control(2.0, finals[pair.control]) for pair in contrasts(arms)}
    result = made_result(
        made_config(seed, files, arms={name: {} for name in arms}, **more),
        {name: finals[name] for name in arms},
        controls,
    )
    result.differences, result.margins = differences_of_run({name: finals[name] for name in arms}, each)
    return Run(Path(f"run {seed}"), result, each)
