"""The loop: every batch is made once and fed to every arm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from camtrain.cam.targets import is_multilabel
from camtrain.config.schema import OptimConfig
from camtrain.data.batches import Batch
from camtrain.errors import Diverged
from camtrain.metrics.classification import ACCURACY, PRECISION, is_correct, mean_average_precision
from camtrain.streams import Stream, torch_seed
from camtrain.training.arm import Arm
from camtrain.training.optim import FACTOR, learning_rate
from camtrain.training.state import TrainingState
from camtrain.training.step import Step, train_step

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

    @property
    def epochs_begun(self) -> int:
        """Epochs that are at least begun."""
        return -(-self.steps // self.steps_per_epoch)


@dataclass
class EpochRecord:
    """What one arm's training did in one epoch."""

    means: dict[str, list[Tensor]] = field(default_factory=dict)  # by tag
    logits: list[Tensor] = field(default_factory=list)  # like targets of several classes per image only
    targets: list[Tensor] = field(default_factory=list)
    timed: list[float] = field(default_factory=list)  # seconds of each step that is comparable between arms
    steps: int = 0

    def add(self, step: Step, target: Tensor, term_name: str) -> None:
        self.steps += 1
        for tag, value in (
            ("loss/total", step.loss),
            ("loss/classification", step.observed.classification),
            (f"loss/{term_name}", step.observed.cam_term),
            ("effort/cam_share", step.observed.cam_share),
            ("effort/cam_weight", step.observed.cam_weight),
        ):
            if value is not None:
                self.means.setdefault(tag, []).append(value)
        if is_multilabel(target):
            self.logits.append(step.logits)
            self.targets.append(target)
        else:
            self.means.setdefault(f"{ACCURACY}/train", []).append(is_correct(step.logits, target).mean())

    def summary(self) -> dict[str, float]:
        """Figures of the epoch, by tag."""
        figures = {tag: float(torch.stack(values).double().mean()) for tag, values in self.means.items()}
        if self.logits:
            figures[f"{PRECISION}/train"] = mean_average_precision(torch.cat(self.logits), torch.cat(self.targets))
        if self.timed:
            figures["time/step"] = statistics.median(self.timed)
            figures["time/epoch"] = figures["time/step"] * self.steps
        return figures


def train_epoch(
    state: TrainingState, batches: Iterator[Batch], plan: Plan, on_step: Callable[[], object]
) -> dict[str, EpochRecord]:
    """Train every arm for the rest of the state's epoch on the same batches.

    Arms take turns in going first, so that none always finds the batch in the cache.

    Args:
        state: whose arms are trained in place.
        batches: training batches, from the state's epoch and step on.
        plan: how.
        on_step: called after each step.

    Raises:
        Diverged: a loss is not finite.
    """
    arms, epoch = list(state.arms), state.epoch
    records = {arm.name: EpochRecord() for arm in arms}
    for arm in arms:
        arm.network.train()
    last = min(plan.steps_per_epoch, plan.steps - epoch * plan.steps_per_epoch) - 1
    for step in range(state.step, last + 1):
        batch = next(batches)
        done = epoch + step / plan.steps_per_epoch
        rate = learning_rate(plan.optim, plan.rate, done, plan.epochs)
        observe = step % OBSERVE_EVERY == 0
        comparable = not observe and all(arm.criterion.comparable(done) for arm in arms)
        dropout = torch_seed(plan.seed, Stream.dropout, epoch, step)
        for arm in arms if step % 2 == 0 else reversed(arms):
            for group in arm.optimiser.param_groups:
                group["lr"] = rate * group.get(FACTOR, 1.0)
            torch.manual_seed(dropout)  # the same dropout in every arm
            taken, seconds = _timed_step(arm, batch, done, observe, plan.device)
            records[arm.name].add(taken, batch.targets, arm.criterion.term_name)
            if comparable:
                records[arm.name].timed.append(seconds)
            if (observe or step == last) and not torch.isfinite(taken.loss):
                found = f"the {arm.name} arm's loss is {float(taken.loss)} in step {step + 1}"
                raise diverged({arm.name: found}, epoch + 1, plan, arms)
        state.step = step + 1
        on_step()
    if state.step == plan.steps_per_epoch:
        state.epoch, state.step = epoch + 1, 0
    return records


def _timed_step(arm: Arm, batch: Batch, epochs_done: float, observe: bool, device: torch.device) -> tuple[Step, float]:
    """A step and the seconds that it took."""
    _synchronise(device)
    started = time.perf_counter()
    taken = train_step(arm, batch, epochs_done, observe)
    _synchronise(device)
    return taken, time.perf_counter() - started


def diverged(found: Mapping[str, str], epoch: int, plan: Plan, arms: Sequence[Arm]) -> Diverged:
    """The end of a training whose numbers are no longer finite, in words.

    Args:
        found: of each arm that it happened to, what is not finite.
        epoch: counted from 1.
        plan: of the training.
        arms: all of them.
    """
    terms = [arm.criterion.strength for arm in arms if arm.name in found and arm.criterion.strength]
    settings = dict.fromkeys([f"optim.lr ({plan.rate:g})", *terms])
    return Diverged(f"epoch {epoch}: {', '.join(found.values())}; lower {' or '.join(settings)}")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
