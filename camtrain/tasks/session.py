"""What training and measuring again have in common: the context of evaluation, the record, the report."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain.analysis import over_seeds
from camtrain.cam.targets import MapTargets, is_multilabel
from camtrain.config.schema import Config
from camtrain.config.validate import image_shape
from camtrain.data.batches import Batching, all_batches, one_batch
from camtrain.data.images import ImageSet
from camtrain.device import memory_format, worker_threads
from camtrain.distributed.ranks import ALONE
from camtrain.errors import Diverged
from camtrain.evaluation.after_training import AfterTraining, measure_after_training
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, evaluate
from camtrain.evaluation.kept import Keep, make_all
from camtrain.interrupts import deferred, interruption
from camtrain.networks.build import untrained
from camtrain.networks.classifier import Classifier
from camtrain.report import build, console, tables
from camtrain.report.browser import show
from camtrain.report.gallery import Chosen, Views, choose_gallery, disagreements, failures, write_gallery
from camtrain.runs import lock, result
from camtrain.runs.images import classes_in_words, write_images
from camtrain.runs.result import DIVERGED, ArmResult, Control, RunResult
from camtrain.streams import Stream, torch_seed

log = logging.getLogger("camtrain")


def evaluation_context(
    config: Config,
    networks: Mapping[str, Classifier],
    val_set: ImageSet,
    device: torch.device,
    progress: Callable[[str], object] = lambda _: None,
    trained_images: int | None = None,
    fresh: Callable[[str], Mapping[str, Tensor]] | None = None,
) -> EvaluationContext:
    """Networks by arm in front of the validation images of a run, which was trained by so many images to each arm.

    Where they are not of one architecture, `fresh` gives the state dict of each when untrained.
    """
    for network in networks.values():
        network.registered = config.evaluate.registered
    trainer = config.trainer
    batching = Batching(trainer.batch_size, device, memory_format(trainer), worker_threads(trainer))
    classes, multilabel = len(val_set.classes), is_multilabel(val_set.targets)
    seed, shape = torch_seed(config.seed, Stream.sanity), image_shape(config.dataset)
    maps = len(MapTargets.of(val_set.targets).rows) / len(val_set.targets)
    # A step costs about three forward passes.
    passes = None if trained_images is None else 3 * len(networks) * trained_images / max(maps, 1)
    return EvaluationContext(
        networks,
        val_set.targets,
        lambda chosen, ranks=ALONE: all_batches(val_set, replace(batching, ranks=ranks), chosen),
        config.cam.variant,
        config.evaluate,
        config.seed,
        fresh or (lambda _: untrained(config.model, classes, shape, seed, multilabel).backbone.state_dict()),
        progress,
        passes,
    )


@dataclass
class RunRecord:
    """What is known of a run so far, and its folder."""

    folder: Path
    result: RunResult
    each: over_seeds.Each  # figures of every validation image; empty where none was measured yet
    classes: list[str] = field(default_factory=list)  # of every validation image, in words; likewise
    started: float = field(default_factory=time.perf_counter)

    def save(self, status: str) -> RunResult:
        """Write `result.json`, whole."""
        last = max(len(arm.epochs) for arm in self.result.arms.values())
        final = {name: arm.final if len(arm.epochs) == last else {} for name, arm in self.result.arms.items()}
        self.result.status = status
        self.result.differences, self.result.margins = over_seeds.differences_of_run(final, self.each)
        self.result.timing.seconds = time.perf_counter() - self.started
        result.write(self.folder, self.result)
        return self.result

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep the status up to date while the block works: running, and then completed, interrupted, diverged or
        failed.

        Raises:
            OSError: nothing can be written to the folder.
        """
        self.save("running")
        try:
            yield
            self.save("completed")
        except BaseException as error:
            status = DIVERGED if isinstance(error, Diverged) else "interrupted" if interruption(error) else "failed"
            with deferred():
                try:
                    self.save(status)
                except OSError:
                    result.mark(self.folder, status)
            raise


def measure_untrained(
    record: RunRecord, context: EvaluationContext, val_set: ImageSet, title: str, whose: str, remedy: str
) -> RunResult:
    """Measure networks that are not trained here, and leave what a run leaves, but for curves and weights.

    Args:
        record: of the run.
        context: networks and images.
        val_set: the images.
        title: of the report.
        whose: the networks are, and `remedy`: what to do, in the message where numbers are not finite.

    Raises:
        Diverged: logits or maps are not finite.
    """
    networks, found = context.networks, record.result
    with lock.held(record.folder), record.running():
        log_introduction(record)
        with tqdm(disable=None, leave=False) as bar, logging_redirect_tqdm([logging.getLogger()]):
            context.progress = bar.set_description
            evaluated = evaluate(networks, context.batches(None), context.method, context.measured)
            if evaluated.not_finite:
                raise Diverged(f"{whose}: {', '.join(evaluated.not_finite.values())}; {remedy}")
            after = measure_final(context, evaluated, val_set, record)
        for name in networks:
            found.arms[name] = ArmResult([{**evaluated.measured.means[name], **after.measured.means[name]}])
        outcome = write_report(record, title)
    log_summary(record.folder, outcome)
    return found


def measure_final(
    context: EvaluationContext, evaluated: Evaluated, val_set: ImageSet, record: RunRecord, keep: Keep = make_all
) -> AfterTraining:
    """Measure what takes longer, draw the gallery, write down the figures of every image.

    Args:
        context: networks and images.
        evaluated: of these images, by :func:`camtrain.evaluation.every_epoch.evaluate`.
        val_set: the images.
        record: of the run; takes all but the arms' figures.
        keep: keeps each measurement as soon as it is made.
    """
    if context.faithfulness_images:
        log.info("faithfulness is measured on %d of %d images", context.faithfulness_images, context.count)
    after = measure_after_training(context, evaluated, keep)
    quick, found = evaluated.measured.each, record.result
    record.classes = [classes_in_words(val_set, number) for number in range(context.count)]
    record.each = {name: {**quick.get(name, {}), **tags} for name, tags in after.measured.each.items()}
    control = {
        name: Control(float(power.log().mean().exp()), after.measured.means[name])
        for name, power in after.powers.items()
    }
    found.controls = {pair.treatment: control[pair.control] for pair in context.contrasts}
    found.controls_area = {pair.treatment: control[pair.control_area] for pair in context.contrasts}
    found.by_size, found.sanity = after.by_size, after.randomisation or None
    found.faithfulness_images = context.faithfulness_images
    if context.shown:
        chosen = choose_gallery(record.each, context.shown, next(iter(context.contrasts), None))
        if found.networks:
            chosen = _with_conflicts(chosen, context, evaluated, record.each)
        found.gallery_by = chosen.by.label
        try:
            found.gallery = write_gallery(
                record.folder, val_set, chosen, lambda numbers: views_of(context, evaluated, val_set, numbers)
            )
        except OSError as error:  # the figures are worth more than their pictures
            found.gallery = []
            log.warning("Note: %s: %s; the report shows no images", error.filename, error.strerror)
    write_images(record.folder, val_set, record.each)
    return after


def _with_conflicts(chosen: Chosen, context: EvaluationContext, evaluated: Evaluated, each: over_seeds.Each) -> Chosen:
    """With the images on which two networks disagree, and those on which they fail, half as many of each as random."""
    half, pair = (len(context.shown) + 1) // 2, chosen.contrast
    return chosen._replace(
        disagreement=disagreements(evaluated, pair, half) if pair else (),
        failures=failures(each, list(context.networks), context.measured, half),
    )


def views_of(context: EvaluationContext, evaluated: Evaluated, val_set: ImageSet, numbers: list[int]) -> Views:
    """Validation images, in ascending order, with the maps and logits that the evaluation holds of them."""
    batch = one_batch(val_set, numbers, next(next(iter(context.networks.values())).parameters()).device)
    maps = {name: evaluated.maps_of(name, batch) for name in context.networks}
    logits = {name: evaluated.logits_of(name, batch) for name in context.networks}
    placement = next(iter(context.networks.values())).placement(batch.images)
    return Views.of(batch, maps, logits, placement)


@dataclass(frozen=True)
class ReportOutcome:
    """The comparison of a run's arms, and what a reader has to know before believing it."""

    summary: over_seeds.Summary
    notes: list[str]


def write_report(record: RunRecord, title: str, shared_files: int = 0) -> ReportOutcome:
    """Judge the claim and write report.html.

    Args:
        record: of the run.
        title: of the page.
        shared_files: validation images that the arms were trained on.
    """
    run = over_seeds.Run(record.folder, record.save("running"), record.each, classes=record.classes)
    summary = over_seeds.summarise("", [run], record.result.config.report)
    notes = over_seeds.notes(summary, shared_files)
    build.write(record.folder / build.NAME, title, [summary], notes)
    return ReportOutcome(summary, notes)


def log_introduction(record: RunRecord) -> None:
    """Say what will be done."""
    for label, text in console.introduction(record.result):
        log.info("%-9s %s", label, text)


def log_summary(folder: Path, outcome: ReportOutcome) -> None:
    """Print the tables, the claims and the notes; show the report, if that was asked for."""
    log.info("\n%s\n", tables.as_text(outcome.summary))
    log.info("%s", tables.claims_text(outcome.summary))
    for note in outcome.notes:
        log.warning("Note: %s", note)
    log.info("\nrun folder   %s", folder)
    log.info("report       %s", folder / build.NAME)
    if outcome.summary.runs[0].result.config.report.open:
        show(folder / build.NAME)
