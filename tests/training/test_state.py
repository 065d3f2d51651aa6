"""The state of training: saved and loaded, it goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from small import CLOSED, batch, classifier

from camtrain.config.options import CamConfig, Optimiser
from camtrain.config.schema import OptimConfig
from camtrain.training.arm import make_arms
from camtrain.training.checkpoint import CHECKPOINT, load_state, save_state
from camtrain.training.state import TrainingState
from camtrain.training.step import train_step


def fresh(optimiser: Optimiser) -> TrainingState:
    cams = {"baseline": CamConfig(weight=0), "regularised": CamConfig(), "fixed": CamConfig(weight=2.0)}
    network = classifier("small_resnet").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainingState(make_arms(network, cams, CLOSED, OptimConfig(name=optimiser), 1e-3, pretrained=False))


def step(state: TrainingState, number: int) -> None:
    for arm in state.arms:
        arm.network.train()
        train_step(arm, batch(number), 1.0, observe=False)
    state.step = number + 1


@pytest.mark.parametrize("optimiser", list(Optimiser))
def test_a_restored_state_goes_on_as_if_nothing_had_happened(optimiser: Optimiser, tmp_path: Path) -> None:
    through, stopped = fresh(optimiser), fresh(optimiser)
    for state in (through, stopped):
        step(state, 0)
    stopped.epoch, stopped.seconds = 3, 1.25
    for arm in stopped.arms:
        stopped.history[arm.name].append({"cam/entropy": 0.1 + 0.2, "cam/iou": math.nan})
        stopped.kept_maps[arm.name].append(torch.rand(2, 4, 4).half())
    save_state(stopped, tmp_path)
    resumed = fresh(optimiser)
    load_state(resumed, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [CHECKPOINT]
    assert (resumed.epoch, resumed.step, resumed.seconds) == (3, 1, 1.25)
    for arm in stopped.arms:
        assert resumed.history[arm.name][0]["cam/entropy"] == 0.1 + 0.2
        assert math.isnan(resumed.history[arm.name][0]["cam/iou"])
        assert torch.equal(resumed.kept_maps[arm.name][0], stopped.kept_maps[arm.name][0])
    for state in (through, resumed):
        step(state, 1)
    for one, other in zip(through.arms, resumed.arms, strict=True):
        states = one.network.state_dict(), other.network.state_dict()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        assert torch.equal(*(arm.criterion.state_dict()["_extra_state"] for arm in (one, other)))
    assert through.arms[1].criterion.state_dict()["_extra_state"][2] > 0


def test_the_state_of_other_arms_is_not_taken(tmp_path: Path) -> None:
    state = fresh(Optimiser.adamw)
    save_state(state, tmp_path)
    state.arms = [dataclasses.replace(state.arms[0], name="another")]
    with pytest.raises(KeyError):
        load_state(state, tmp_path)
