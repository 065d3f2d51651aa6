"""The end of a run, or of measuring one again: look closely, draw, judge, and write everything down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from camtrain.analysis import over_seeds, verdict
from camtrain.cam.targets import is_multilabel
from camtrain.config.schema import Config
from camtrain.data.batches import Batch, all_batches
from camtrain.data.images import ImageSet
from camtrain.device import memory_format, worker_threads
from camtrain.evaluation import after_training
from camtrain.evaluation.every_epoch import Evaluated
from camtrain.evaluation.subset import choose_images
from camtrain.networks.build import untrained
from camtrain.report import build, console, tables
from camtrain.report.gallery import CHOSEN_BY, choose_gallery, write_gallery
from camtrain.runs import result
from camtrain.training.arm import Arm

log = logging.getLogger("camtrain")


@dataclass
class EvaluationContext:
    """Trained arms in front of validation images."""

    config: Config
    folder: Path
    arms: Sequence[Arm]
    images: ImageSet
    device: torch.device

    def __post_init__(self) -> None:
        self.measured, self.shown = choose_images(self.images, self.config)
        self.started = time.perf_counter()

    def batches(self, chosen: Tensor | None = None) -> Generator[Batch, None, None]:
        """The validation images, or the chosen ones, (images,) bool."""
        trainer = self.config.trainer
        threads = worker_threads(trainer)
        return all_batches(self.images, trainer.batch_size, self.device, memory_format(trainer), threads, chosen)

    def fresh(self) -> Mapping[str, Tensor]:
        """State dict of a network as the arms' that was not trained."""
        several = is_multilabel(self.images.targets)
        return untrained(self.config, len(self.images.classes), several).backbone.state_dict()

    def save(
        self,
        status: str,
        epochs: Mapping[str, list[dict[str, float]]],
        each: over_seeds.Each,
        facts: Mapping[str, Any],
        timing: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write `result.json`; arguments as for :func:`camtrain.runs.result.write`."""
        tree: Any = OmegaConf.to_container(OmegaConf.structured(self.config), enum_to_str=True)
        found = over_seeds.differences([each], shared=True)
        timing = {"seconds": time.perf_counter() - self.started, **timing}
        return result.write(self.folder, status, self.config.seed, tree, epochs, found, timing, facts)


class FinalMeasurements(NamedTuple):
    """What was found once, after training."""

    means: Mapping[str, Mapping[str, float]]  # by arm, and of the control
    each: over_seeds.Each
    facts: dict[str, Any]  # for result.json: `control`, `by_size`, `sanity`, `wall`, `wall_by`


def measure_final(scene: EvaluationContext, evaluated: Evaluated, say: Callable[[str], object]) -> FinalMeasurements:
    """Measure what takes longer, draw the images of the report, write down the figures of every image.

    Args:
        scene: arms and images.
        evaluated: of these images, by :func:`camtrain.evaluation.every_epoch.evaluate`.
        say: is told what is being done.
    """
    config = scene.config
    close = after_training.measure(scene.arms, evaluated, scene.batches, config, scene.measured, scene.fresh, say)
    quick = evaluated.measured.each
    each = {name: {**quick.get(name, {}), **tags} for name, tags in close.measured.each.items()}
    facts = close.found
    if scene.shown:
        chosen = choose_gallery(each, scene.shown)
        wall = write_gallery(scene.folder, scene.arms, scene.images, chosen, config.cam, scene.device)
        facts |= {"wall": wall, "wall_by": CHOSEN_BY[chosen.by]}
    result.write_images(scene.folder, scene.images, each)
    return FinalMeasurements(close.measured.means, each, facts)


class ReportOutcome(NamedTuple):
    one: over_seeds.Summary
    notes: list[str]


def write_report(
    scene: EvaluationContext, told: Mapping[str, Any], each: over_seeds.Each, title: str, shared: int = 0
) -> ReportOutcome:
    """Judge the claim and write report.html.

    Args:
        scene: arms and images.
        told: what result.json holds.
        each: the figures of every image.
        title: of the page.
        shared: files that both arms were trained on and are validated on.
    """
    one = over_seeds.summarise("", [over_seeds.Run(scene.folder, scene.config, told, each)], scene.config.report)
    notes = over_seeds.notes(one, shared)
    build.write(scene.folder / build.NAME, title, [one], notes)
    return ReportOutcome(one, notes)


def log_summary(scene: EvaluationContext, settled: ReportOutcome) -> None:
    """Print the tables, the claim and the notes."""
    log.info("\n%s\n", tables.as_text(settled.one.final, settled.one.rows))
    log.info("%s", "\n".join(verdict.sentences(settled.one.claim, settled.one.seeds)))
    for note in settled.notes:
        log.warning("Note: %s", note)
    log.info("\nrun folder   %s", scene.folder)
    log.info("report       %s", scene.folder / build.NAME)


def log_introduction(facts: Mapping[str, Any], config: Config) -> None:
    """Say what will be done."""
    for label, text in console.introduction(facts, config):
        log.info("%-9s %s", label, text)
