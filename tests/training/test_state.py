"""The state of training: saved and loaded, it goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from small import CLOSED, batch, classifier

from camtrain.config.options import CamConfig, Optimiser
from camtrain.config.schema import OptimConfig
from camtrain.errors import UserError
from camtrain.packed import read_packed
from camtrain.training.arm import make_arms
from camtrain.training.checkpoint import CHECKPOINT, FORMER, load_state, save_state
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
        stopped.history[arm.name] += [{"cam/entropy": 0.1 + 0.2, "cam/iou": math.nan}] * 3
        stopped.kept_maps[arm.name] += torch.rand(3, 2, 4, 4).half()
    save_state(stopped, tmp_path)
    resumed = fresh(optimiser)
    assert load_state(resumed, tmp_path)
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


def forking(optimiser: Optimiser, fork: int = 1) -> TrainingState:
    cams = {"baseline": CamConfig(weight=0), "regularised": CamConfig(anchor=0.5), "second": CamConfig(anchor=0.1)}
    network = classifier("small_resnet").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    arms = make_arms(network, cams, CLOSED, OptimConfig(name=optimiser), 1e-3, pretrained=False)
    return TrainingState(arms, fork)


@pytest.mark.parametrize("optimiser", list(Optimiser))
def test_arms_part_as_copies_of_the_first(optimiser: Optimiser, tmp_path: Path) -> None:
    state = forking(optimiser)
    first, *others = state.arms
    assert state.active == [first]
    assert state.anchor is others[0].anchor is others[1].anchor
    train_step(first, batch(0), 0.0, observe=False)
    state.history[first.name].append({"cam/entropy": 0.5})
    state.kept_maps[first.name].append(torch.rand(2, 4, 4).half())
    state.share_first()
    state.close_epoch()
    assert state.active == state.arms
    assert state.anchor is not None
    at_fork = {name: value.clone() for name, value in first.network.state_dict().items()}
    for arm in others:
        assert all(torch.equal(at_fork[name], value) for name, value in arm.network.state_dict().items())
        assert state.history[arm.name] == state.history[first.name]
        assert state.history[arm.name][0] is not state.history[first.name][0]
    # As if each had been trained so itself, and nothing of it is held in common.
    for number in (1, 2):
        for arm in state.arms:
            arm.network.train()
            train_step(dataclasses.replace(arm, criterion=first.criterion, anchor=None), batch(number), 1.0, False)
    for arm in others:
        trained = arm.network.state_dict()
        assert all(torch.equal(trained[name], value) for name, value in first.network.state_dict().items())
    assert not state.anchor.training
    assert all(torch.equal(at_fork[name], value) for name, value in state.anchor.state_dict().items())
    assert not any(part.requires_grad for part in state.anchor.parameters())
    save_state(state, tmp_path)
    resumed = forking(optimiser)
    assert load_state(resumed, tmp_path)
    assert resumed.anchor is not None
    assert all(torch.equal(at_fork[name], value) for name, value in resumed.anchor.state_dict().items())


def test_before_the_fork_an_arm_that_stops_stops_all() -> None:
    state = forking(Optimiser.sgd)
    state.stop("baseline", "why")
    assert state.active == []
    state.close_epoch()
    assert state.active == []
    later = forking(Optimiser.sgd, fork=0)
    later.stop("baseline", "why")
    assert [arm.name for arm in later.active] == ["regularised", "second"]


def test_the_state_of_other_arms_is_not_taken(tmp_path: Path) -> None:
    state = fresh(Optimiser.adamw)
    save_state(state, tmp_path)
    state.arms = [dataclasses.replace(state.arms[0], name="another")]
    with pytest.raises(UserError, match="not a checkpoint of this run"):
        load_state(state, tmp_path)


def test_where_the_newest_is_damaged_the_one_before_serves(tmp_path: Path) -> None:
    state = fresh(Optimiser.sgd)
    assert not load_state(state, tmp_path)
    for number in (1, 2, 3):
        state.step = number
        save_state(state, tmp_path)
    newest = tmp_path / CHECKPOINT
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load_state(state, tmp_path)
    assert state.step == 2
    # A crash between the two renames of the next file would else leave the damaged one alone.
    assert read_packed(newest)["step"] == 2
    for path in (newest, tmp_path / FORMER):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        load_state(state, tmp_path)


def test_a_checkpoint_is_not_at_fault_where_memory_is_exhausted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    state = fresh(Optimiser.sgd)
    save_state(state, tmp_path)
    monkeypatch.setattr(TrainingState, "load_state_dict", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_state(state, tmp_path)


def test_what_broke_off_midway_is_known() -> None:
    state = fresh(Optimiser.sgd)
    with state.changing():
        assert state.torn
    assert not state.torn
    with pytest.raises(KeyboardInterrupt), state.changing():
        raise KeyboardInterrupt
    assert state.torn
