"""The loop: every batch is made once and fed to every arm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from camtrain.arm import Arm, Step, learning_rate, train_step
from camtrain.config import Config
from camtrain.data.pictures import Batch
from camtrain.errors import UserError
from camtrain.loss import scheduled_weight
from camtrain.streams import Stream, torch_seed

OBSERVE_EVERY = 10
"""Steps between measurements of the map's entropy, in the arm that trains it and in the one that does not.

Such a step is not timed: it costs the baseline what a plain training would not pay.
"""


@dataclass
class Epoch:
    """What one arm's training did in one epoch."""

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    correct: list[Tensor] = field(default_factory=list)
    timed: list[float] = field(default_factory=list)  # seconds of each step that is comparable between arms
    steps: int = 0
    seen: int = 0

    def add(self, step: Step, pictures: int) -> None:
        self.steps += 1
        for tag, value in (
            ("loss/total", step.loss),
            ("loss/classification", step.classification),
            ("loss/cam_entropy", step.cam_entropy),
        ):
            if value is not None:
                self.losses.setdefault(tag, []).append(value)
        self.correct.append(step.correct)
        self.seen += pictures

    def summary(self) -> dict[str, float]:
        """Means over the epoch, by tag."""
        means = {tag: float(torch.stack(values).double().mean()) for tag, values in self.losses.items()}
        means["accuracy/train"] = float(torch.stack(self.correct).sum()) / self.seen
        if self.timed:
            means["time/step"] = statistics.median(self.timed)
            means["time/epoch"] = means["time/step"] * self.steps
        return means


def train_epoch(
    arms: Sequence[Arm],
    batches: Iterator[Batch],
    config: Config,
    peak_rate: float,
    epoch: int,
    steps: int,
    steps_per_epoch: int,
    device: torch.device,
    on_step: Callable[[int], None],
) -> dict[str, Epoch]:
    """Train every arm for `steps` steps of one epoch on the same batches.

    Args:
        arms: trained in place. Who goes first alternates, so that neither always finds the batch in the cache.
        batches: training batches, from which the next `steps` are taken.
        config: the whole configuration.
        peak_rate: learning rate at the top of its schedule.
        epoch: its number, from 0.
        steps: how many steps to take.
        steps_per_epoch: of a whole epoch; the schedules run on it.
        device: where the arms are.
        on_step: called with the number of the step after it was taken.

    Raises:
        UserError: a loss is not finite.
    """
    records = {arm.name: Epoch() for arm in arms}
    for arm in arms:
        arm.model.train()
    for step in range(steps):
        batch = next(batches).to(device)
        if config.trainer.channels_last:
            batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
        done = epoch + step / steps_per_epoch
        rate = learning_rate(config.optim, peak_rate, done, config.trainer.epochs)
        weight = scheduled_weight(config.cam, done)
        observe = step % OBSERVE_EVERY == 0
        dropout = torch_seed(config.seed, Stream.dropout, epoch, step)
        for arm in arms if step % 2 == 0 else reversed(arms):
            for group in arm.optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(dropout)  # the same dropout in every arm
            _synchronise(device)
            started = time.perf_counter()
            taken = train_step(arm, batch.images, batch.targets, config.cam, weight, observe)
            _synchronise(device)
            seconds = time.perf_counter() - started
            record = records[arm.name]
            record.add(taken, len(batch.targets))
            if not observe and (weight > 0 or config.cam.weight == 0):
                record.timed.append(seconds)
            if (observe or step == steps - 1) and not torch.isfinite(taken.loss):
                raise UserError(
                    f"the {arm.name} arm's loss is {float(taken.loss)} in epoch {epoch + 1}, step {step + 1}:"
                    " lower optim.lr or cam.weight"
                )
        on_step(step)
    return records


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
