"""The loop: every batch is made once and fed to every arm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from camtrain.cam.targets import is_multilabel
from camtrain.config.options import AUTO, Term
from camtrain.config.schema import Config
from camtrain.data.batches import Batch
from camtrain.errors import UserError
from camtrain.loss.criterion import schedule
from camtrain.metrics.classification import ACCURACY, PRECISION, is_correct, mean_average_precision
from camtrain.streams import Stream, torch_seed
from camtrain.training.arm import Arm
from camtrain.training.optim import learning_rate
from camtrain.training.step import Step, train_step

OBSERVE_EVERY = 10
"""Steps between measurements of the CAM term, in the arm that trains it and in the one that does not.

Such a step is not timed: it costs the baseline what a plain training would not pay.
"""


@dataclass
class Epoch:
    """What one arm's training did in one epoch."""

    means: dict[str, list[Tensor]] = field(default_factory=dict)  # by tag
    logits: list[Tensor] = field(default_factory=list)  # like targets of several classes per image only
    targets: list[Tensor] = field(default_factory=list)
    timed: list[float] = field(default_factory=list)  # seconds of each step that is comparable between arms
    steps: int = 0

    def add(self, step: Step, target: Tensor, term: Term) -> None:
        self.steps += 1
        for tag, value in (
            ("loss/total", step.loss),
            ("loss/classification", step.classification),
            (f"loss/cam_{term.value}", step.cam_term),
            ("effort/cam_share", step.cam_share),
            ("effort/cam_weight", step.cam_weight),
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
        batch = next(batches)
        done = epoch + step / steps_per_epoch
        rate = learning_rate(config.optim, peak_rate, done, config.trainer.epochs)
        full = schedule(config.cam, done)
        observe = step % OBSERVE_EVERY == 0
        dropout = torch_seed(config.seed, Stream.dropout, epoch, step)
        for arm in arms if step % 2 == 0 else reversed(arms):
            for group in arm.optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(dropout)  # the same dropout in every arm
            _synchronise(device)
            started = time.perf_counter()
            taken = train_step(arm, batch, config.cam, full, observe)
            _synchronise(device)
            seconds = time.perf_counter() - started
            record = records[arm.name]
            record.add(taken, batch.targets, config.cam.term)
            if not observe and (full > 0 or config.cam.weight == 0):
                record.timed.append(seconds)
            if (observe or step == steps - 1) and not torch.isfinite(taken.loss):
                raise UserError(
                    f"the {arm.name} arm's loss is {float(taken.loss)} in epoch {epoch + 1}, step {step + 1}:"
                    f" lower optim.lr or {'cam.share' if config.cam.weight == AUTO else 'cam.weight'}"
                )
        on_step(step)
    return records


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
