"""`task=plan`: what a command would cost, from a few steps and measurements on this machine."""

from __future__ import annotations

import logging
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camtrain.config.options import Task
from camtrain.config.schema import Config, keys, plain
from camtrain.data.images import part_of
from camtrain.errors import UserError
from camtrain.evaluation.after_training import measure_after_training
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import evaluate
from camtrain.metrics import learning_curves
from camtrain.report.console import counted
from camtrain.report.tables import aligned
from camtrain.runs.facts import data_name, environment
from camtrain.runs.settings import of_reference
from camtrain.tasks import session
from camtrain.tasks.train import Setup, batches_of, set_up, training_images
from camtrain.training.checkpoint import CHECKPOINT, save_state
from camtrain.training.loop import train_epoch
from camtrain.training.state import TrainingState

log = logging.getLogger("camtrain")

WARM_UP, STEPS = 3, 10
"""Training steps before those that are timed, and these."""

IMAGES, CLOSELY = 48, 8
"""Validation images that are measured, and of these those for faithfulness, ROAD and randomisation."""

STARTED = time.process_time()
"""Seconds of computing from the start of a process until everything is imported."""

ROW, REPORT = 360, 5 * 10**6
"""Bytes of an image's figures, and of report, pictures and curves."""

MACHINES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Cost:
    """Of a run; seconds and bytes."""

    setting_up: float
    step: float  # a training step of all arms, with its batch
    reference: float  # of that the reference arm
    steps: int
    alone: int  # of the steps those before the fork, which the reference arm takes alone
    evaluation: float  # after an epoch
    evaluations: int
    final: float  # the measurements after the last epoch
    disk: int
    memory: int  # at most so far, of the process

    @property
    def training(self) -> float:
        return (self.steps - self.alone) * self.step + self.alone * self.reference

    @property
    def seconds(self) -> float:
        return self.setting_up + self.training + self.evaluations * self.evaluation + self.final

    @property
    def of_reference(self) -> float:
        """What a run saves that takes its reference arm from another one."""
        return self.steps * self.reference


def plan(config: Config) -> str:
    """What a run of this configuration would cost, as text.

    Raises:
        UserError: as for the run itself.
    """
    setup, cost = _measured(config)
    arms, batch = ", ".join(arm.name for arm in setup.arms), config.trainer.batch_size
    per_epoch, count = setup.plan.steps_per_epoch, len(setup.val_set.targets)
    context = _context(setup, config)
    machine = environment(setup.device, config.trainer)
    lines = [
        ("plan", f"{data_name(config.dataset)}, {config.model.name}, {machine['device']}"),
        ("arms", arms),
        ("a step", f"{1000 * cost.step:.0f} ms for all arms, {batch / cost.step:.0f} images per second"),
        ("set-up", in_words(cost.setting_up)),
        ("training", f"{in_words(cost.training)}: {counted(cost.steps, 'step')}, {per_epoch} an epoch"),
        ("evaluation", f"{in_words(cost.evaluations * cost.evaluation)}: {cost.evaluations} x {count} images"),
        ("at the end", f"{in_words(cost.final)}: faithfulness on {context.faithfulness_images} images, and the rest"),
        ("a run", f"{in_words(cost.seconds)}, {in_bytes(cost.disk)} on the disk, {in_bytes(cost.memory)} of memory"),
    ]
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in lines) + f"\n{NOTE}"


NOTE = f"Estimated from {STEPS} steps and {IMAGES} images, here and now; while others use the machine it takes longer."


def plan_sweep(jobs: Sequence[tuple[Sequence[str], Config]]) -> str:
    """What the jobs of a sweep would cost together, given the settings of each, as text; jobs that cost the same are
    measured once.

    Raises:
        UserError: as for the runs.
    """
    known: dict[str, Cost] = {}
    seconds, disk, rows, references = [], 0, [("job", "time", "disk")], set()
    common = set.intersection(*(set(overrides) for overrides, _ in jobs))
    for number, (overrides, config) in enumerate(jobs):
        key = _what_costs(config)
        if key not in known:
            try:
                known[key] = _measured(config)[1]
            except UserError as error:
                raise type(error)(f"job #{number}: {error}") from error
        cost, reference = known[key], of_reference(replace(config, task=Task.train))
        shared = reference is not None and reference in references and config.trainer.baselines is not None
        references.add(reference)
        seconds.append(cost.seconds - shared * cost.of_reference)
        disk += cost.disk
        note = " (baseline shared)" if shared else ""
        own = " ".join(override for override in overrides if override not in common)
        rows.append((f"#{number}: {own}", f"{in_words(seconds[-1])}{note}", in_bytes(cost.disk)))
    total = f"{counted(len(jobs), 'run')}: {in_words(sum(seconds))}, {in_bytes(disk)} on the disk"
    on = ", ".join(f"{count}: {in_words(max(max(seconds), sum(seconds) / count))}" for count in MACHINES)
    memory = f"each takes up to {in_bytes(max(cost.memory for cost in known.values()))} of memory"
    return f"{aligned(rows)}\n\n{total}; {memory}\nspread over so many machines, or GPUs, like this one: {on}\n{NOTE}"


def _what_costs(config: Config) -> str:
    """Of the settings, what the cost depends on: which terms there are, and not their weights, nor the seed."""
    kept = {}
    for key, value, _ in keys(config):
        weighs = key.startswith(("cam.", "arms.")) and isinstance(value, int | float)
        if key != "seed" and not key.startswith("report."):
            kept[key] = bool(value) if weighs else plain(value)
    return repr(kept)


def _measured(config: Config) -> tuple[Setup, Cost]:
    made: list[Setup] = []
    setting_up = STARTED + _seconds(lambda: made.append(set_up(config)))
    (setup,) = made
    state = TrainingState(setup.arms)
    step = _seconds_of_a_step(setup, state)
    reference = step if len(setup.arms) == 1 else _seconds_of_a_step(setup, TrainingState(setup.arms[:1]))
    networks = {arm.name: arm.network for arm in setup.arms}
    count = min(IMAGES, len(setup.val_set.targets))
    few = part_of(setup.val_set, range(count))

    def context(close: int, others: int) -> EvaluationContext:
        limits: dict[str, Any] = {"faithfulness_images": close, "road_images": others, "sanity_images": others}
        settings = replace(config.evaluate, images=0, scorecam_images=CLOSELY, **limits)
        return session.evaluation_context(replace(config, evaluate=settings), networks, few, setup.device)

    plainly = context(0, 0)
    evaluated = evaluate(networks, plainly.batches(None), plainly.method, plainly.measured)
    each = _seconds(lambda: evaluate(networks, plainly.batches(None), plainly.method, plainly.measured)) / count
    base, close, whole = (
        _seconds(lambda given=given: measure_after_training(context(*given), evaluated))  # type: ignore[misc]
        for given in ((0, 0), (min(CLOSELY, count), 0), (min(CLOSELY, count), min(CLOSELY, count)))
    )
    full, total = _context(setup, config), len(setup.val_set.targets)
    others = max(config.evaluate.road_images, config.evaluate.sanity_images)
    measured = int(full.measured.sum())
    final = base / count * measured
    final += max(0.0, close - base) / min(CLOSELY, count) * full.faithfulness_images
    final += max(0.0, whole - close) / min(CLOSELY, count) * min(others, total)
    kept = sum(learning_curves.keep(part)[0].nbytes for part in evaluated.maps.values())
    maps = min(learning_curves.KEPT, measured) * kept * setup.plan.epochs_begun
    rows = measured * (len(networks) + 2 * len(full.contrasts))
    fork = min((config.trainer.fork or 0) * setup.plan.steps_per_epoch, setup.plan.steps)
    cost = Cost(
        setting_up,
        *(step, reference, setup.plan.steps, fork),
        *(each * total, setup.plan.epochs_begun, final),
        _bytes_of(state) + 2 * maps + ROW * rows + REPORT,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )
    return setup, cost


def _context(setup: Setup, config: Config) -> EvaluationContext:
    """Of the run's last measurements."""
    networks = {arm.name: arm.network for arm in setup.arms}
    images = training_images(setup)
    return session.evaluation_context(config, networks, setup.val_set, setup.device, trained_images=images)


def _seconds_of_a_step(setup: Setup, state: TrainingState) -> float:
    """Of all arms of the state, which are trained by it, with their batch."""
    enough = replace(setup.plan, steps_per_epoch=WARM_UP + STEPS, steps=WARM_UP + STEPS)
    moments: list[float] = []
    with closing(batches_of(setup, math.ceil(enough.steps / setup.plan.steps_per_epoch))) as batches:
        train_epoch(state, batches, enough, lambda: moments.append(time.perf_counter()))
    return (moments[-1] - moments[WARM_UP - 1]) / STEPS


def _seconds(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def _bytes_of(state: TrainingState) -> int:
    """On the disk: the newest checkpoint and the one before, and the weights of every arm."""
    with tempfile.TemporaryDirectory() as folder:
        save_state(state, Path(folder))
        checkpoint = (Path(folder) / CHECKPOINT).stat().st_size
    weights: Mapping[str, int] = {
        arm.name: sum(value.nbytes for value in arm.network.backbone.state_dict().values()) for arm in state.arms
    }
    return 2 * checkpoint + sum(weights.values())


def in_words(seconds: float) -> str:
    """A duration in two digits or three."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{0 if seconds >= 20 * length else 1}f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} s"


def in_bytes(count: float) -> str:
    """Bytes in two digits or three."""
    power = min(4, max(1, int(math.log(max(count, 1), 1000))))
    value = count / 1000**power
    return f"{value:.{1 if value < 10 else 0}f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
