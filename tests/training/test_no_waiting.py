"""A training step asks the device to work and never waits for what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from small import CLOSED, batch, classifier
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from camtrain.cam.routes import Routes
from camtrain.config.options import BalanceOver, CamConfig, Score, Term, ViewKind
from camtrain.config.schema import OptimConfig
from camtrain.data.batches import Batch
from camtrain.data.views import draw_views, with_views
from camtrain.networks.capture import probe_routes
from camtrain.training.arm import make_arms
from camtrain.training.loop import OBSERVE_EVERY, Plan, train_epoch
from camtrain.training.state import TrainingState, Unread

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "_linalg_check_errors")
"""Operations of aten that need a value, or the shape of a result, from the device."""


class Waited(Exception):
    """For the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        by_mask = name == "index" and any(part is not None and part.dtype is torch.bool for part in args[1])
        if name.startswith(WAITING) or by_mask:
            raise Waited(f"{func.name()} of {[part.shape for part in args if isinstance(part, Tensor)]}")
        return func(*args, **(kwargs or {}))


@contextmanager
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No values leave their device in here; copies of a tensor's memory do not pass the dispatcher."""

    def waits(tensor: Tensor, *_: Any) -> None:
        raise Waited(f"a copy of {tuple(tensor.shape)}")

    with NoWaiting(), monkeypatch.context() as patched:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patched.setattr(Tensor, name, waits)
        yield


def with_symmetries(number: int) -> Batch:
    made = batch(number)
    views = draw_views(ViewKind.symmetries, 0.5, made.targets, (64, 64), np.random.default_rng(number))
    images, regions = with_views(made.images, made.regions, views)
    return Batch(images, torch.cat([made.targets, made.targets[views.rows]]), regions, made.indices, views)


STEPS = 12
"""In an epoch."""

ARMS = {
    "baseline": CamConfig(weight=0),
    "regularised": CamConfig(),
    "fixed": CamConfig(weight=0.1, enough=3),
    "images": CamConfig(balance=BalanceOver.image, term=Term.energy_outside),
    "contrast": CamConfig(contrastive=0.5),
    "kept": CamConfig(keep=0.25, masked_kl=0.5, saliency_guided=0.1),
    "apart": CamConfig(term=Term.none),
}


def nothing(*_: object) -> None:
    """Of what the loop could call."""


def state_of(name: str, cams: dict[str, CamConfig], routes: Routes | None = None) -> TrainingState:
    network = classifier(name)
    routes = routes or probe_routes(network, batch().images, Score.centred)
    return TrainingState(make_arms(network, cams, routes, OptimConfig(), 1e-3, pretrained=False))


def train(state: TrainingState, steps: int, read_every: int, faults: list[Unread] | None = None) -> None:
    plan = Plan(OptimConfig(), 1e-3, 1, STEPS, steps, 0, torch.device("cpu"), read_every)
    batches = (with_symmetries(number) for number in range(state.step, steps))
    if faults is not None:
        state.on_fault = lambda at, _: faults.append(at)
    train_epoch(state, batches, plan, nothing)


@pytest.mark.parametrize("name", ["small_resnet", "mobilenet_v3_small"])
def test_no_step_between_two_readings_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state, readings = state_of(name, ARMS), []
    made = [with_symmetries(number) for number in range(OBSERVE_EVERY)]
    monkeypatch.setattr(TrainingState, "read", lambda self: readings.append(len(self.unread)))
    plan = Plan(OptimConfig(), 1e-3, 1, OBSERVE_EVERY, OBSERVE_EVERY, 0, torch.device("cpu"), OBSERVE_EVERY)
    train_epoch(state, iter(made[:1]), plan_of(plan, 1), nothing)
    with refused(monkeypatch):
        train_epoch(state, iter(made[1:]), plan, nothing)
    assert readings == [len(ARMS), len(ARMS) * OBSERVE_EVERY]


def plan_of(plan: Plan, steps: int) -> Plan:
    """To an earlier end: a network is looked at more closely at its first step."""
    return Plan(plan.optim, plan.rate, 1, plan.steps_per_epoch, steps, 0, plan.device, plan.read_every)


@pytest.mark.parametrize("waits", ["item", "bool", "nonzero", "by a mask", "tolist"])
def test_what_waits_is_seen(waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some = torch.arange(3)
    ways = {
        "item": some.sum().item,
        "bool": lambda: bool((some > 1).any()),
        "nonzero": some.nonzero,
        "by a mask": lambda: some[some > 1],
        "tolist": lambda: some.tolist(),
    }
    with refused(monkeypatch), pytest.raises(Waited):
        ways[waits]()


def test_nothing_depends_on_how_often_is_read() -> None:
    arms = {name: ARMS[name] for name in ("baseline", "regularised", "fixed")}
    often, seldom = state_of("small_resnet", arms, CLOSED), state_of("small_resnet", arms, CLOSED)
    train(often, STEPS, 1)
    train(seldom, STEPS, 5)
    for one, other in zip(often.arms, seldom.arms, strict=True):
        states = one.network.state_dict(), other.network.state_dict()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
        assert torch.equal(*(arm.criterion.state_dict()["_extra_state"] for arm in (one, other)))
    for name in arms:
        figures = often.records[name].summary(), seldom.records[name].summary()
        assert figures[0].keys() == figures[1].keys()
        assert all(value == figures[1][tag] for tag, value in figures[0].items() if not tag.startswith("time"))
        assert len(often.records[name].timed) == len(seldom.records[name].timed) > 0


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_fault_that_is_read_late_has_changed_nothing_since(optimiser: str) -> None:
    arms = {name: ARMS[name] for name in ("baseline", "regularised")}
    alone, until, late = (state_of("small_resnet", arms, CLOSED) for _ in range(3))
    if optimiser == "sgd":
        for state in (alone, until, late):
            for arm in state.arms:
                arm.optimiser = torch.optim.SGD(arm.network.parameters(), lr=1e-3, momentum=0.9, fused=True)
    train(alone, STEPS, 1)
    train(until, 3, 1)
    calls: list[int] = []
    kernel = next(part for part in late.arms[1].network.parameters() if part.dim() == 4)

    def third_is_none(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * (torch.nan if len(calls) == 4 else 1.0)

    kernel.register_hook(third_is_none)  # type: ignore[no-untyped-call]
    faults: list[Unread] = []
    train(late, STEPS, 6, faults)
    assert [(at.arm.name, at.step, at.indices.tolist()) for at in faults] == [("regularised", 3, [0, 1, 2, 3])]
    assert late.stopped == {"regularised": "the regularised arm's gradient is not finite in epoch 1, step 4"}
    for number, expected in ((0, alone), (1, until)):
        states = expected.arms[number].network.state_dict(), late.arms[number].network.state_dict()
        parameters = dict(late.arms[number].network.named_parameters())
        assert all(torch.equal(states[0][key], states[1][key]) for key in parameters)
    assert late.records["regularised"].steps == 3
