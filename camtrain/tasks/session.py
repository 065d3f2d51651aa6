"""What training and measuring again have in common: the context of evaluation, the record, the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camtrain.analysis import over_seeds, verdict
from camtrain.cam.targets import is_multilabel
from camtrain.config.hydra_store import to_tree
from camtrain.config.schema import Config
from camtrain.data.batches import Batching, all_batches
from camtrain.data.images import ImageSet
from camtrain.device import memory_format, worker_threads
from camtrain.evaluation.after_training import measure_after_training
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated
from camtrain.networks.build import untrained
from camtrain.networks.classifier import Classifier
from camtrain.report import build, console, tables
from camtrain.report.gallery import CHOSEN_BY, choose_gallery, write_gallery
from camtrain.runs import result
from camtrain.streams import Stream, torch_seed

log = logging.getLogger("camtrain")


def evaluation_context(
    config: Config,
    networks: Mapping[str, Classifier],
    val_set: ImageSet,
    device: torch.device,
    progress: Callable[[str], object] = lambda _: None,
) -> EvaluationContext:
    """Networks by arm in front of the validation images of a run."""
    trainer = config.trainer
    batching = Batching(trainer.batch_size, device, memory_format(trainer), worker_threads(trainer))
    classes, multilabel = len(val_set.classes), is_multilabel(val_set.targets)
    seed = torch_seed(config.seed, Stream.sanity)
    return EvaluationContext(
        networks,
        len(val_set.targets),
        lambda chosen: all_batches(val_set, batching, chosen),
        config.cam.variant,
        config.evaluate,
        config.seed,
        lambda: untrained(config.model, classes, config.dataset.image_size, seed, multilabel).backbone.state_dict(),
        progress,
    )


@dataclass
class RunRecord:
    """What is known of a run so far, as `result.json` holds it."""

    folder: Path
    config: Config
    facts: dict[str, Any]
    history: dict[str, list[dict[str, float]]]
    each: over_seeds.Each
    timing: Callable[[], Mapping[str, Any]] = dict
    started: float = field(default_factory=time.perf_counter)

    def save(self, status: str) -> dict[str, Any]:
        """Write `result.json`, whole."""
        found = over_seeds.differences([self.each], shared=True)
        timing = {"seconds": time.perf_counter() - self.started, **self.timing()}
        return result.write(
            self.folder, status, self.config.seed, to_tree(self.config), self.history, found, timing, self.facts
        )


class FinalMeasurements(NamedTuple):
    """What was found once, after training."""

    means: Mapping[str, Mapping[str, float]]  # by arm, and of the sharpened baselines
    each: over_seeds.Each
    facts: dict[str, Any]  # for result.json: `control`, `by_size`, `sanity`, `wall`, `wall_by`


def measure_final(
    context: EvaluationContext, evaluated: Evaluated, val_set: ImageSet, config: Config, folder: Path
) -> FinalMeasurements:
    """Measure what takes longer, draw the gallery, write down the figures of every image.

    Args:
        context: networks and images.
        evaluated: of these images, by :func:`camtrain.evaluation.every_epoch.evaluate`.
        val_set: the images.
        config: of the run.
        folder: of the run.
    """
    after = measure_after_training(context, evaluated)
    quick = evaluated.measured.each
    each = {name: {**quick.get(name, {}), **tags} for name, tags in after.measured.each.items()}
    control = context.contrasts[0]
    facts: dict[str, Any] = {
        "control": {"power": after.powers[control.treatment], "final": after.measured.means[control.control]},
        "by_size": after.by_size,
    }
    if after.randomisation:
        facts["sanity"] = after.randomisation
    if context.shown:
        chosen = choose_gallery(each, context.shown)
        wall = write_gallery(folder, context.networks, val_set, chosen, config.cam)
        facts |= {"wall": wall, "wall_by": CHOSEN_BY[chosen.by]}
    result.write_images(folder, val_set, each)
    return FinalMeasurements(after.measured.means, each, facts)


class ReportOutcome(NamedTuple):
    one: over_seeds.Summary
    notes: list[str]


def write_report(record: RunRecord, title: str, shared: int = 0) -> ReportOutcome:
    """Judge the claim and write report.html.

    Args:
        record: of the run.
        title: of the page.
        shared: files that the arms were trained on and are validated on.
    """
    run = over_seeds.Run(record.folder, record.config, record.save("running"), record.each)
    one = over_seeds.summarise("", [run], record.config.report)
    notes = over_seeds.notes(one, shared)
    build.write(record.folder / build.NAME, title, [one], notes)
    return ReportOutcome(one, notes)


def log_summary(folder: Path, outcome: ReportOutcome) -> None:
    """Print the tables, the claim and the notes."""
    log.info("\n%s\n", tables.as_text(outcome.one.final, outcome.one.rows))
    log.info("%s", "\n".join(verdict.sentences(outcome.one.claim, outcome.one.seeds)))
    for note in outcome.notes:
        log.warning("Note: %s", note)
    log.info("\nrun folder   %s", folder)
    log.info("report       %s", folder / build.NAME)


def log_introduction(facts: Mapping[str, Any], config: Config) -> None:
    """Say what will be done."""
    for label, text in console.introduction(facts, config):
        log.info("%-9s %s", label, text)


def per_image(evaluated: Evaluated) -> over_seeds.Each:
    """The figures of every image that are measured after each epoch."""
    each: Mapping[str, Mapping[str, Tensor]] = evaluated.measured.each
    return each
