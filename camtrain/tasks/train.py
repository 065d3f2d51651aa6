"""`task=train`: from a configuration to a finished run."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain.cam.targets import is_multilabel
from camtrain.config.hydra_store import cam_of_arms, to_yaml
from camtrain.config.options import AUTO
from camtrain.config.schema import Config, EvaluateConfig, keys, plain
from camtrain.config.validate import image_shape
from camtrain.data.batches import Batch, Batching, steps_per_epoch, training_batches
from camtrain.data.build import augmentation
from camtrain.data.build import build as build_data
from camtrain.data.images import ImageSet, shared_files
from camtrain.device import compute_dtype, memory_format, prepare_device, worker_threads
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, evaluate
from camtrain.loss.balance import default_share
from camtrain.loss.terms import NEED_REGIONS
from camtrain.metrics import classification, learning_curves
from camtrain.networks.build import Built, build
from camtrain.networks.capture import probe_routes
from camtrain.networks.compile import check_compiler, compile_network
from camtrain.networks.head_layer import final_layer
from camtrain.networks.weights import is_pretrained
from camtrain.report import console, tables
from camtrain.report.console import tensorboard_command
from camtrain.report.gallery import strips
from camtrain.runs.facts import data_facts, data_name, environment, model_facts, title
from camtrain.runs.result import ArmResult, RunResult, Timing
from camtrain.runs.tensorboard import Board, check_name
from camtrain.streams import Stream, torch_seed
from camtrain.tasks import session
from camtrain.tasks.session import RunRecord
from camtrain.training.arm import Arm, make_arms
from camtrain.training.checkpoint import save_state, save_weights
from camtrain.training.checks import check_alive, check_maps
from camtrain.training.loop import EpochRecord, Plan, diverged, train_epoch
from camtrain.training.optim import default_learning_rate
from camtrain.training.state import History, TrainingState

log = logging.getLogger("camtrain")

PROBED_BATCHES = 4
"""Training batches of which at least one must have a live CAM term before training starts."""


@dataclass
class Setup:
    """Everything that training needs, checked."""

    config: Config
    device: torch.device
    train_set: ImageSet
    val_set: ImageSet
    built: Built
    arms: list[Arm]
    plan: Plan

    @property
    def multilabel(self) -> bool:
        return is_multilabel(self.train_set.targets)

    @property
    def metric(self) -> str:
        """Tag of accuracy or mean average precision."""
        return f"{classification.metric_name(self.multilabel)}/val"


def train(config: Config, folder: Path) -> RunResult:
    """Train every arm, measure it after every epoch, and leave everything in the run folder.

    Args:
        config: checked configuration.
        folder: run folder; exists.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: data, network, or settings that cannot work together. Nothing was written then but the log.
        Diverged: a loss, logits or maps are no longer finite. What was measured until then is kept.
    """
    # ---- set up: everything that can be wrong is found before the run folder is taken
    check_name(folder)
    setup = set_up(config)
    state = TrainingState(setup.arms)
    networks = {arm.name: arm.network for arm in setup.arms}
    seen = min(setup.plan.steps * config.trainer.batch_size, config.trainer.epochs * len(setup.train_set.targets))
    context = session.evaluation_context(config, networks, setup.val_set, setup.device, trained_images=seen)
    record = RunRecord(folder, _first_result(setup, state), {name: {} for name in networks})

    # ---- train, measure, report
    with record.running():
        session.log_introduction(record)
        with (
            closing(_batches(setup, config.trainer.epochs)) as batches,
            Board(folder / "tb", list(networks)) as board,
            tqdm(total=setup.plan.steps, unit="step", disable=None, smoothing=0.05, dynamic_ncols=True) as bar,
            logging_redirect_tqdm([logging.getLogger()]),
        ):
            context.progress = bar.set_description
            board.text("config", f"```yaml\n{to_yaml(config)}\n```")
            log.info("%s", console.epoch_heading(setup.multilabel, list(networks)))
            while state.steps_done(setup.plan.steps_per_epoch) < setup.plan.steps:
                bar.set_description(f"epoch {state.epoch + 1}/{config.trainer.epochs}")
                trained = train_epoch(state, batches, setup.plan, bar.update)
                evaluated = evaluate(networks, context.batches(None), context.method, context.measured)
                _keep_epoch(state, record, setup.plan, trained, evaluated)
                save_state(state, folder)
                for arm in state.arms:
                    save_weights(arm, folder / arm.name)
                _show_epoch(setup, state, context, evaluated, board)
                record.save("running")
            outcome = _finish(setup, state, context, evaluated, record, board)

    session.log_summary(folder, outcome)
    log.info("TensorBoard  %s --logdir %s", tensorboard_command(), shlex.quote(str(folder / "tb")))
    return record.result


def set_up(config: Config) -> Setup:
    """Data, network and arms, of which it is known that they fit together.

    Raises:
        UserError: they do not.
    """
    device = prepare_device(config.trainer)
    if config.trainer.compile:
        check_compiler(device)
    cams = cam_of_arms(config)
    guided = any(cam.term in NEED_REGIONS for cam in cams.values())
    train_set, val_set = build_data(config.dataset, config.seed, worker_threads(config.trainer), guided)
    multilabel = is_multilabel(train_set.targets)
    built = build(
        config.model,
        len(train_set.classes),
        image_shape(config.dataset),
        torch_seed(config.seed, Stream.weights),
        compute_dtype(config.trainer),
        multilabel,
    )
    network = built.classifier.to(device, memory_format=memory_format(config.trainer))  # type: ignore[call-overload]
    pretrained = is_pretrained(config.model)
    rate = config.optim.lr or default_learning_rate(config.optim.name, pretrained, network)
    per_epoch = steps_per_epoch(len(train_set.targets), config.trainer.batch_size)
    steps = min(config.trainer.epochs * per_epoch, config.trainer.max_steps or sys.maxsize)
    plan = Plan(config.optim, rate, config.trainer.epochs, per_epoch, steps, config.seed, device)
    setup = Setup(config, device, train_set, val_set, built, [], plan)

    with closing(_batches(setup, 1, at_most=PROBED_BATCHES)) as early:
        first = list(islice(early, PROBED_BATCHES))
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(config.seed, Stream.dropout))
        network.registered = config.evaluate.registered
        network.cells(first[0].images)  # which the arms' copies know then
        routes = probe_routes(network, first[0].images, config.cam.score)
        head = built.fresh or (
            final_layer(network.backbone, len(train_set.classes)) if config.optim.head_lr_factor else None
        )
        setup.arms = make_arms(
            network, cams, routes, config.optim, rate, pretrained, f"backbone.{head}" if head else None
        )
        check_maps(config.evaluate.maps, network.routes, built.layer)
        for arm in setup.arms:
            if cams[arm.name].weight != 0:
                check_alive(arm.network, first, cams[arm.name])
    if config.trainer.compile:
        for arm in setup.arms:
            compile_network(arm.network, built.output)
    return setup


def _batches(setup: Setup, epochs: int, at_most: int = sys.maxsize) -> Generator[Batch, None, None]:
    """Training batches from the first one on, made in as many threads as there are workers, or `at_most`."""
    config = setup.config
    threads = min(worker_threads(config.trainer), at_most)
    batching = Batching(config.trainer.batch_size, setup.device, memory_format(config.trainer), threads)
    size = image_shape(config.dataset)[1:]
    return training_batches(setup.train_set, batching, epochs, config.seed, augmentation(config.dataset), size)


def _first_result(setup: Setup, state: TrainingState) -> RunResult:
    """What `result.json` says before anything was trained; the arms' figures are those of the state."""
    config, network = setup.config, setup.arms[0].network
    share = default_share(is_pretrained(config.model))
    return RunResult(
        status="running",
        config=config,
        arms={name: ArmResult(rows) for name, rows in state.history.items()},
        data=data_facts(data_name(config.dataset), setup.train_set, setup.val_set),
        model=model_facts(config.model.name, setup.built, network.routes, image_shape(config.dataset)),
        learning_rate=setup.plan.rate,
        cam_shares={
            name: (cam.share or share) if cam.weight == AUTO else None
            for number, (name, cam) in enumerate(cam_of_arms(config).items())
            if number or cam.weight != 0
        },
        environment=environment(setup.device, config.trainer),
        timing=Timing(0.0, {}),
    )


def _keep_epoch(
    state: TrainingState, record: RunRecord, plan: Plan, trained: Mapping[str, EpochRecord], evaluated: Evaluated
) -> None:
    """Add what an epoch gave to the state and to the record.

    Raises:
        Diverged: logits or maps are not finite. Nothing was added then.
    """
    if evaluated.not_finite:
        raise diverged(evaluated.not_finite, state.epochs_begun, plan, state.arms)
    for arm in state.arms:
        figures = {**evaluated.measured.means[arm.name], **trained[arm.name].summary()}
        state.history[arm.name].append({**figures, "optim/lr": arm.optimiser.param_groups[0]["lr"]})
        state.kept_maps[arm.name].append(learning_curves.keep(evaluated.maps[arm.name]))
    state.seconds = time.perf_counter() - record.started
    record.each = evaluated.measured.each
    record.result.timing.step = step_times(state.history)


def _show_epoch(
    setup: Setup, state: TrainingState, context: EvaluationContext, evaluated: Evaluated, board: Board
) -> None:
    """An epoch's figures in TensorBoard and in a line of the log, and its maps where they are asked for."""
    figures = {arm.name: state.history[arm.name][-1] for arm in state.arms}
    board.scalars(figures, state.epochs_begun)
    number = state.epochs_begun
    wanted = number == setup.plan.epochs_begun or number in image_epochs(setup.config.evaluate)
    if context.shown and wanted:
        views = session.views_of(context, evaluated, setup.val_set, context.shown)
        board.strips(context.contrasts[0].treatment, list(strips(views, setup.val_set.classes)), number)
    log.info("%s", console.epoch_line(number, figures, setup.multilabel))


def _finish(
    setup: Setup,
    state: TrainingState,
    context: EvaluationContext,
    evaluated: Evaluated,
    record: RunRecord,
    board: Board,
) -> session.ReportOutcome:
    """Measure what takes longer, once, and what is known only now of every epoch; judge and report."""
    config, epochs = setup.config, state.epochs_begun
    courses = {
        name: learning_curves.course(rows, state.kept_maps[name], setup.metric) for name, rows in state.history.items()
    }
    after = session.measure_final(context, evaluated, setup.val_set, record)
    for name, course in courses.items():
        course[-1] |= after.measured.means[name]
        for row, late in zip(state.history[name], course, strict=True):
            row |= late
    for number in range(epochs):
        board.scalars({name: course[number] for name, course in courses.items()}, number + 1)
    shared = len(shared_files(setup.train_set, setup.val_set))
    outcome = session.write_report(record, title(config.dataset, config.model.name, config.seed), shared)
    board.text("comparison", tables.as_markdown(outcome.summary), epochs)
    last = {name: rows[-1] for name, rows in state.history.items()}
    board.hparams({key: plain(value) for key, value, _ in keys(config)}, last)
    return outcome


def image_epochs(config: EvaluateConfig) -> Sequence[int]:
    """Epochs after which maps are drawn: as configured, or 1, 2, 4, 8, ..."""
    return config.image_epochs if config.image_epochs is not None else [2**power for power in range(32)]


def step_times(history: History) -> dict[str, float]:
    """Seconds of a training step of each arm: the median over epochs of the epochs' medians."""
    times = {arm: sorted(row["time/step"] for row in rows if "time/step" in row) for arm, rows in history.items()}
    return {arm: values[len(values) // 2] for arm, values in times.items() if values}
