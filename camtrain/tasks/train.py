"""`task=train`: from a configuration to a finished run."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain.cam.targets import is_multilabel
from camtrain.config.hydra_store import cam_of_arms, to_yaml
from camtrain.config.options import AUTO, CamConfig, ViewKind, trains_maps
from camtrain.config.schema import Config, EvaluateConfig, TrainerConfig, keys, plain
from camtrain.config.validate import image_shape, saving_intervals, views_of
from camtrain.data.batches import Batch, Batching, steps_per_epoch, training_batches
from camtrain.data.build import augmentation
from camtrain.data.build import build as build_data
from camtrain.data.images import ImageSet, shared_files
from camtrain.data.views import check_view_kind
from camtrain.device import compute_dtype, memory_format, prepare_device, worker_threads
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.distributed.start import following, together
from camtrain.errors import UserError
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, evaluate
from camtrain.evaluation.kept import kept_in
from camtrain.loss.balance import default_share
from camtrain.loss.masked import check_one_class
from camtrain.loss.terms import NEED_REGIONS
from camtrain.metrics import learning_curves
from camtrain.metrics.tags import metric_name
from camtrain.networks.build import Built, build
from camtrain.networks.capture import probe_routes
from camtrain.networks.compile import check_compiler, compile_network
from camtrain.networks.head_layer import final_layer
from camtrain.networks.weights import is_pretrained
from camtrain.packed import write_packed
from camtrain.report import console, tables
from camtrain.report.console import counted, tensorboard_command
from camtrain.report.gallery import strips
from camtrain.runs import baselines, lock
from camtrain.runs.facts import data_facts, data_name, environment, fingerprint, model_facts, title
from camtrain.runs.result import ArmResult, RunResult, Timing, check_unused
from camtrain.runs.search import COMPLETED
from camtrain.runs.settings import of_reference
from camtrain.runs.tensorboard import Board, check_name
from camtrain.streams import Stream, torch_seed
from camtrain.tasks import session
from camtrain.tasks.session import RunRecord
from camtrain.training.arm import Arm, make_arms
from camtrain.training.checkpoint import CHECKPOINT, load_state, save_state, save_weights
from camtrain.training.checks import check_alive, check_maps
from camtrain.training.loop import OBSERVE_EVERY, Plan, diverged, train_epoch
from camtrain.training.optim import default_learning_rate
from camtrain.training.state import History, TrainingState, Unread

log = logging.getLogger("camtrain")

MEASURED = "measured"
"""Folder of the measurements that a run has finished, until it has all of them."""

STOPPED = "stopped.safetensors"
"""What an arm stopped at whose numbers were no longer finite; :func:`camtrain.packed.read_packed` reads it."""

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
    ranks: Ranks = ALONE

    @property
    def multilabel(self) -> bool:
        return is_multilabel(self.train_set.targets)

    @property
    def metric(self) -> str:
        """Tag of accuracy or mean average precision."""
        return f"{metric_name(self.multilabel)}/val"


def train(config: Config, folder: Path, begun: RunResult | None = None) -> RunResult:
    """Train every arm, measure it after every epoch, and leave everything in the run folder.

    Args:
        config: checked configuration.
        folder: run folder; exists.
        begun: what `result.json` says there of the same run, which broke off: training goes on from its checkpoint.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: data, network, or settings that cannot work together. Nothing was written then but the log.
        Diverged: an arm's loss, gradients, logits or maps are no longer finite. The others were trained to the end.
    """
    check_name(folder)
    with together(config.trainer.processes) as ranks:
        ranks.from_first(config)
        return _train(set_up(config, ranks), folder, begun)


def follow() -> None:
    """What the other ranks of a training do: the same as rank 0, of which they leave nothing but their part of it."""
    with following() as ranks:
        config: Config = ranks.from_first(None)  # type: ignore[assignment]
        setup = set_up(config, ranks)
        state, context = _begun(setup)
        _agree(state, ranks)
        for _ in epochs_of(setup, state, context, lambda: None):
            pass


def _begun(setup: Setup) -> tuple[TrainingState, EvaluationContext]:
    """Training at its beginning, and what its networks are measured on."""
    state = TrainingState(setup.arms, setup.config.trainer.fork or 0)
    networks = {arm.name: arm.network for arm in setup.arms}
    images = training_images(setup)
    context = session.evaluation_context(setup.config, networks, setup.val_set, setup.device, trained_images=images)
    return state, context


def _agree(state: TrainingState, ranks: Ranks) -> None:
    """Let all ranks begin where rank 0 does, with its weights."""
    if ranks.alone:
        return
    written = io.BytesIO()
    torch.save(state.state_dict() if ranks.rank == 0 else None, written)
    state.load_state_dict(torch.load(io.BytesIO(ranks.from_first(written.getvalue())), map_location="cpu"))


def _train(setup: Setup, folder: Path, begun: RunResult | None) -> RunResult:
    """See :func:`train`."""
    state, context = _begun(setup)
    record = RunRecord(folder, _first_result(setup, state), {arm.name: {} for arm in setup.arms})
    place = _place_of_reference(setup)
    with lock.held(folder):
        if begun is None:
            check_unused(folder)
        else:
            _restore(state, record, begun)
        with (
            record.running(),
            baselines.held(place),
            _saved_at_last(state, folder),
            Board(folder / "tb", state.history) as board,
            tqdm(
                total=setup.plan.steps,
                initial=state.steps_done(setup.plan.steps_per_epoch),
                unit="step",
                disable=None,
                smoothing=0.05,
                dynamic_ncols=True,
            ) as bar,
            logging_redirect_tqdm([logging.getLogger()]),
        ):
            session.log_introduction(record)
            if place is not None and not (state.steps_done(setup.plan.steps_per_epoch) or state.taken):
                place.take(state, partial(_figures_of_reference, state, context))
            _agree(state, setup.ranks)
            record.result.reference_from = next((taken.source for taken in state.taken.values()), None)
            context.progress = bar.set_description
            board.text("config", f"```yaml\n{to_yaml(setup.config)}\n```")
            try:
                evaluated = _train_epochs(setup, state, context, record, board, bar)
            finally:  # an arm may have been trained to the end where others were stopped
                if place is not None and state.epoch >= setup.plan.epochs_begun:
                    place.put(state, folder)
            outcome = _finish(setup, state, context, evaluated, record, board)
        shutil.rmtree(folder / MEASURED, ignore_errors=True)
    session.log_summary(folder, outcome)
    log.info("TensorBoard  %s --logdir %s", tensorboard_command(), shlex.quote(str(folder / "tb")))
    return record.result


def training_images(setup: Setup) -> int:
    """How many each arm is trained on, counted as often as it sees them."""
    trainer = setup.config.trainer
    return min(setup.plan.steps * trainer.batch_size, trainer.epochs * len(setup.train_set.targets))


def _place_of_reference(setup: Setup) -> baselines.Place | None:
    """Where runs share their reference arm; None where this one is not to, or cannot."""
    config = setup.config
    uses = of_reference(config) if config.trainer.baselines not in (None, AUTO) else None
    if uses is None:
        return None
    name = baselines.signature(
        uses,
        setup.arms[0].network.backbone,
        (setup.train_set, setup.val_set),
        environment(setup.device, config.trainer),
    )
    return baselines.Place(
        Path(str(config.trainer.baselines)) / f"{name}{baselines.SUFFIX}",
        f"{data_name(config.dataset)}, {config.model.name}, seed {config.seed}",
    )


def _train_epochs(
    setup: Setup, state: TrainingState, context: EvaluationContext, record: RunRecord, board: Board, bar: Any
) -> Evaluated:
    """Train what is left of all epochs, and measure each; what the last one gave.

    Raises:
        Diverged: an arm was stopped.
    """
    saving, evaluated = Saving(setup.config.trainer, state, record, setup.ranks), None

    def after_step() -> None:
        bar.update()
        saving.after_step()

    state.on_fault = partial(_keep_fault, state, record.folder)
    log.info("%s", console.epoch_heading(setup.multilabel, [arm.name for arm in state.arms]))
    with closing(epochs_of(setup, state, context, after_step)) as epochs:
        for evaluated in epochs:
            record.each = evaluated.measured.each
            record.result.timing.step = step_times(state.history)
            _show_epoch(setup, state, context, evaluated, board)
            for arm in state.arms:
                save_weights(arm, record.folder / arm.name)
            saving.save()
            record.save("running")
    if state.stopped:
        raise diverged(state, setup.plan)
    if evaluated is None:  # it broke off later than that
        evaluated = _evaluate(state, context, ALONE)
        record.each = evaluated.measured.each
    return evaluated


def epochs_of(
    setup: Setup, state: TrainingState, context: EvaluationContext, after_step: Callable[[], object]
) -> Generator[Evaluated, None, None]:
    """Train what is left, epoch by epoch, and yield what each one gave, when the state holds it: what is done with it
    belongs to the change from one epoch to the next."""
    plan = setup.plan
    with closing(batches_of(setup, setup.config.trainer.epochs, (state.epoch, state.step))) as batches:
        while state.epoch < plan.epochs_begun:
            context.progress(f"epoch {state.epoch + 1}/{setup.config.trainer.epochs}")
            train_epoch(state, batches, plan, after_step)
            if not state.active:
                state.keep_all_taken(plan.epochs_begun)
                return
            evaluated = _evaluate(state, context, setup.ranks)
            with state.changing():
                _keep_epoch(state, evaluated)
                yield evaluated


class Saving:
    """When training is saved within an epoch, and how."""

    def __init__(self, trainer: TrainerConfig, state: TrainingState, record: RunRecord, ranks: Ranks) -> None:
        self.every, self.ranks = saving_intervals(trainer), ranks
        self.state, self.record = state, record
        self.steps, self.saved = 0, time.perf_counter()

    def after_step(self) -> None:
        """Save if so many steps or seconds have passed since it was done last."""
        self.steps += 1
        if self.state.unread and not self.ranks.alone:
            return  # to save is to read, upon which an arm may be stopped: all ranks do that after the same steps
        steps, seconds = self.every
        if self.steps >= (steps or sys.maxsize) or time.perf_counter() - self.saved >= (seconds or math.inf):
            self.save()

    def save(self) -> None:
        self.state.seconds = time.perf_counter() - self.record.started
        save_state(self.state, self.record.folder)
        self.steps, self.saved = 0, time.perf_counter()


@contextlib.contextmanager
def _saved_at_last(state: TrainingState, folder: Path) -> Iterator[None]:
    """Save training where an error or a signal ends the block, unless it broke off in the middle of a change."""
    try:
        yield
    except BaseException:
        if not state.torn:
            with contextlib.suppress(OSError):
                save_state(state, folder)
        raise


def _restore(state: TrainingState, record: RunRecord, begun: RunResult) -> None:
    """Load the newest checkpoint of a run that goes on; without one it begins anew.

    Raises:
        UserError: there is none that can be used, or the data have changed.
    """
    check_images(record.folder, begun, record.result.data.fingerprint)
    for what in ("device", "torch", "camtrain"):
        before, now = begun.environment.get(what), record.result.environment[what]
        if before != now:
            log.warning("Note: %s was %s, is %s: figures may differ by rounding", what, before, now)
    if load_state(state, record.folder):
        longer = begun.config.trainer.epochs != record.result.config.trainer.epochs
        if longer and any(state.ahead(arm.name) for arm in state.arms):
            raise UserError(
                f"trainer.epochs: the baseline is taken from a run of {begun.config.trainer.epochs} epochs, which this"
                " one has yet to end; let it, or begin anew"
            )
        log.info("%-9s after %s and %s", "goes on", counted(state.epoch, "epoch"), counted(state.step, "step"))
        record.result.timing.step = step_times(state.history)
    elif begun.status == COMPLETED:  # to begin anew would replace what it has trained
        raise UserError(f"{record.folder / CHECKPOINT}: it is not there any more, without which no run goes on")
    record.started -= state.seconds


def _keep_fault(state: TrainingState, folder: Path, at: Unread, fault: str) -> None:
    """Say that an arm is stopped, and leave what it stopped at in its folder."""
    arm = at.arm
    path = folder / arm.name / STOPPED
    parameters = dict(arm.network.backbone.named_parameters())
    tree = {
        "fault": fault,
        "epoch": state.epoch,
        "step": at.step,
        "images": at.indices,
        "weight_norms": {name: float(part.detach().norm()) for name, part in parameters.items()},
        # On a GPU the step may be some steps back, of which the last one left its gradients.
        "gradient_norms": {
            name: float(part.grad.norm())
            for name, part in parameters.items()
            if part.grad is not None and at.step == state.step - 1
        },
        "network": arm.network.backbone.state_dict(),
        "optimiser": arm.optimiser.state_dict(),
    }
    log.error("%s; it is trained no further", state.stopped[arm.name])
    try:
        write_packed(path, tree)
    except OSError as error:
        log.warning("%s: not written (%s)", path, error.strerror)


def _evaluate(state: TrainingState, context: EvaluationContext, ranks: Ranks) -> Evaluated:
    """Of the arms that are trained, after an epoch; before the fork, what is measured of the first is that of all."""
    networks = {arm.name: arm.network for arm in state.measurable}
    found = evaluate(networks, context.batches(None, ranks), context.method, context.measured, ranks)
    return found if state.forked else found.shared_by([arm.name for arm in state.arms])


def _figures_of_reference(state: TrainingState, context: EvaluationContext) -> dict[str, float]:
    """Of the first arm as it is, by tag."""
    first = state.arms[0]
    found = evaluate({first.name: first.network}, context.batches(None, ALONE), context.method, context.measured)
    return found.measured.means[first.name]


def images_of(config: Config) -> tuple[ImageSet, ImageSet]:
    """Training and validation images.

    Raises:
        UserError: files are missing, or cannot be read.
    """
    guided = any(cam.term in NEED_REGIONS for cam in cam_of_arms(config).values())
    return build_data(config.dataset, config.seed, worker_threads(config.trainer), guided)


def check_images(folder: Path, begun: RunResult, fingerprint: str | None) -> None:
    """Raise :class:`UserError` for images that are not those that the run in a folder was trained on."""
    if begun.data.fingerprint not in (None, fingerprint):
        raise UserError(f"{folder}: the images are not those that the run was trained on; give these, or train anew")


def set_up(config: Config, ranks: Ranks = ALONE) -> Setup:
    """Data, network and arms, of which it is known that they fit together.

    Raises:
        UserError: they do not.
    """
    device = prepare_device(config.trainer)
    if config.trainer.compile:
        check_compiler(device)
    cams = cam_of_arms(config)
    with ranks.after_first_here():
        train_set, val_set = images_of(config)
    multilabel = is_multilabel(train_set.targets)
    _check_classes(config, cams, multilabel)
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
    read_every = 1 if device.type == "cpu" else OBSERVE_EVERY
    plan = Plan(config.optim, rate, config.trainer.epochs, per_epoch, steps, config.seed, device, read_every)
    if config.trainer.fork is not None and config.trainer.fork >= plan.epochs_begun:
        raise UserError(
            f"trainer.fork={config.trainer.fork}: trainer.max_steps={config.trainer.max_steps} ends training before"
            " arms part; give more steps, or an earlier epoch"
        )
    setup = Setup(config, device, train_set, val_set, built, [], plan)  # of which the ranks see the same first batches

    with closing(batches_of(setup, 1, at_most=PROBED_BATCHES)) as early:
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
            if cams[arm.name].weight != 0 and trains_maps(cams[arm.name], arm.views):
                check_alive(arm.network, first, cams[arm.name])
    _share_out(setup, ranks)
    if config.trainer.compile:
        for arm in setup.arms:
            compile_network(arm.network, built.output)
    return setup


def _share_out(setup: Setup, ranks: Ranks) -> None:
    """Let these processes train together.

    Raises:
        UserError: they cannot.
    """
    trainer, images = setup.config.trainer, (setup.train_set, setup.val_set)
    if ranks.size > min(trainer.batch_size, len(setup.train_set.targets)):
        raise UserError(f"{ranks.size} processes are more than a batch has images; start fewer")
    if trainer.compile and not ranks.alone:
        raise UserError("trainer.compile=true: nothing is compiled for several processes; leave one of both out")
    if not ranks.alone and len({*ranks.in_turn([fingerprint(*images)])}) > 1:
        raise UserError("the processes of the training do not see the same images: give all machines the same files")
    setup.ranks = ranks
    for arm in setup.arms:
        arm.train_with(ranks)


def _check_classes(config: Config, cams: Mapping[str, CamConfig], multilabel: bool) -> None:
    """Raise :class:`UserError` for what images of several classes cannot have."""
    _, height, width = image_shape(config.dataset)
    if (kind := views_of(config)) is not ViewKind.none:
        check_view_kind(kind, (height, width), multilabel, "cam.views")
    for name, cam in cams.items():
        check_one_class(cam, multilabel, f"arms.{name}.cam.")


def batches_of(
    setup: Setup, epochs: int, start: tuple[int, int] = (0, 0), at_most: int = sys.maxsize
) -> Generator[Batch, None, None]:
    """Training batches from an epoch and step on, made in as many threads as there are workers, or `at_most`."""
    config = setup.config
    threads = min(worker_threads(config.trainer), at_most)
    batching = Batching(
        config.trainer.batch_size,
        setup.device,
        memory_format(config.trainer),
        threads,
        views_of(config),
        config.cam.views_share,
        setup.ranks,
    )
    size = image_shape(config.dataset)[1:]
    return training_batches(setup.train_set, batching, epochs, config.seed, augmentation(config.dataset), size, start)


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


def _keep_epoch(state: TrainingState, evaluated: Evaluated) -> None:
    """Add what an epoch gave to the state, and stop arms whose logits or maps are not finite."""
    for name, fault in evaluated.not_finite.items():
        state.stop(name, f"{fault} after epoch {state.epoch + 1}")
        log.error("%s; it is trained no further", state.stopped[name])
    for arm in state.active:
        figures = {**evaluated.measured.means[arm.name], **state.records[arm.name].summary()}
        state.history[arm.name].append({**figures, "optim/lr": arm.optimiser.param_groups[0]["lr"]})
        state.kept_maps[arm.name].append(learning_curves.keep(evaluated.maps[arm.name]))
    state.keep_taken()
    if state.active and not state.forked:
        state.share_first()
    state.close_epoch()


def _show_epoch(
    setup: Setup, state: TrainingState, context: EvaluationContext, evaluated: Evaluated, board: Board
) -> None:
    """An epoch's figures in TensorBoard and in a line of the log, and its maps where they are asked for."""
    figures = {arm.name: {} if arm.name in state.stopped else state.history[arm.name][-1] for arm in state.arms}
    board.scalars(figures, state.epoch)
    wanted = state.epoch == setup.plan.epochs_begun or state.epoch in image_epochs(setup.config.evaluate)
    if context.shown and wanted and not state.stopped and len(evaluated.maps) == len(state.arms):
        views = session.views_of(context, evaluated, setup.val_set, context.shown)
        board.strips(context.contrasts[0].treatment, list(strips(views, setup.val_set.classes)), state.epoch)
    log.info("%s", console.epoch_line(state.epoch, figures, setup.multilabel))


def _finish(
    setup: Setup,
    state: TrainingState,
    context: EvaluationContext,
    evaluated: Evaluated,
    record: RunRecord,
    board: Board,
) -> session.ReportOutcome:
    """Measure what takes longer, once, and what is known only now of every epoch; judge and report."""
    config, epochs = setup.config, state.epoch
    courses = {
        name: learning_curves.course(rows, state.kept_maps[name], setup.metric) for name, rows in state.history.items()
    }
    keep = kept_in(record.folder / MEASURED, epochs)
    after = session.measure_final(context, evaluated, setup.val_set, record, keep)
    for name, course in courses.items():
        course[-1] |= after.measured.means[name]
        # The state keeps its own rows: a checkpoint that is written from here on must not hold these.
        record.result.arms[name] = ArmResult(
            [row | late for row, late in zip(state.history[name], course, strict=True)]
        )
    for number in range(epochs):
        board.scalars({name: course[number] for name, course in courses.items()}, number + 1)
    shared = len(shared_files(setup.train_set, setup.val_set))
    outcome = session.write_report(record, title(config.dataset, config.model.name, config.seed), shared)
    board.text("comparison", tables.as_markdown(outcome.summary), epochs)
    last = {name: arm.final for name, arm in record.result.arms.items()}
    board.hparams({key: plain(value) for key, value, _ in keys(config)}, last)
    return outcome


def image_epochs(config: EvaluateConfig) -> Sequence[int]:
    """Epochs after which maps are drawn: as configured, or 1, 2, 4, 8, ..."""
    return config.image_epochs if config.image_epochs is not None else [2**power for power in range(32)]


def step_times(history: History) -> dict[str, float]:
    """Seconds of a training step of each arm: the median over epochs of the epochs' medians."""
    times = {arm: sorted(row["time/step"] for row in rows if "time/step" in row) for arm, rows in history.items()}
    return {arm: values[len(values) // 2] for arm, values in times.items() if values}
