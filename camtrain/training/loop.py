"""The loop: every batch is made once and fed to every arm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from camtrain.config.schema import OptimConfig
from camtrain.data.batches import Batch
from camtrain.device import Clock
from camtrain.errors import Diverged
from camtrain.streams import Stream, torch_seed
from camtrain.training.arm import Arm
from camtrain.training.optim import FACTOR, learning_rate
from camtrain.training.state import TrainingState, Unread
from camtrain.training.step import train_step

OBSERVE_EVERY = 10
"""Steps between measurements of the CAM term, in arms that train it and in those that do not.

Such a step is not timed: it costs the baseline what a plain training would not pay.
"""


@dataclass(frozen=True)
class Plan:
    """How training proceeds."""

    optim: OptimConfig
    rate: float  # learning rate at the top of its schedule
    epochs: int  # that the schedules are made for
    steps_per_epoch: int
    steps: int  # in all, which may end within an epoch
    seed: int
    device: torch.device
    read_every: int = 1
    """Steps after which their figures are read: on a GPU the arms' next steps wait behind the last ones meanwhile."""

    @property
    def epochs_begun(self) -> int:
        """Epochs that are at least begun."""
        return -(-self.steps // self.steps_per_epoch)

    def steps_in(self, epoch: int) -> int:
        """Of an epoch, counted from 0."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)


def train_epoch(
    state: TrainingState,
    batches: Iterator[Batch],
    plan: Plan,
    on_step: Callable[[], object],
) -> None:
    """Train every arm for the rest of the state's epoch on the same batches; before the fork the first one alone.

    Arms take turns in going first, so that none always finds the batch in the cache. An arm whose numbers are no longer
    finite is stopped before they reach its weights; it changes nothing for the others. No step waits for the device:
    that is done every `read_every` steps.

    Args:
        state: whose arms are trained in place.
        batches: training batches, from the state's epoch and step on.
        plan: how.
        on_step: called after each step, between two moments of the state.
    """
    epoch = state.epoch
    for arm in state.active:
        arm.network.train()
    for step in range(state.step, plan.steps_in(epoch)):
        batch = next(batches)
        done = epoch + step / plan.steps_per_epoch
        rate = learning_rate(plan.optim, plan.rate, done, plan.epochs)
        observe = step % OBSERVE_EVERY == 0
        comparable = state.forked and not observe and all(arm.criterion.comparable(done) for arm in state.arms)
        dropout = torch_seed(plan.seed, Stream.dropout, epoch, step)
        with state.changing():
            for arm in state.active if step % 2 == 0 else reversed(state.active):
                for group in arm.optimiser.param_groups:
                    group["lr"] = rate * group.get(FACTOR, 1.0)
                torch.manual_seed(dropout)  # the same dropout in every arm
                clock = Clock(plan.device)
                taken = train_step(arm, batch, done, observe)
                clock.stop()
                state.unread.append(Unread(arm, step, taken, batch.indices, clock if comparable else None))
            state.step = step + 1
            if state.step % plan.read_every == 0 or state.step == plan.steps_in(epoch):
                state.read()
        on_step()
        if not state.active:
            return


def diverged(state: TrainingState, plan: Plan) -> Diverged:
    """The end of a training of which arms were stopped, because their numbers were no longer finite, in words."""
    reasons: dict[str, Arm] = {}  # of arms that were still one network, the first
    for arm in state.arms:
        if arm.name in state.stopped:
            reasons.setdefault(state.stopped[arm.name], arm)
    terms = [arm.criterion.strength for arm in reasons.values() if arm.criterion.strength]
    settings = dict.fromkeys([f"optim.lr ({plan.rate:g})", *terms])
    others = [arm.name for arm in state.active]
    kept = f"; trained to the end: {', '.join(others)}" if others else ""
    return Diverged(f"{', '.join(reasons)}; lower {' or '.join(settings)}{kept}")
