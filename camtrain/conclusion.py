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

from camtrain import claim, closely, comparison, machine, narration, report, result, summary
from camtrain.arm import Arm
from camtrain.config import Config
from camtrain.data.batches import Batch, all_batches
from camtrain.data.pictures import Pictures
from camtrain.evaluate import Evaluated
from camtrain.model import untrained
from camtrain.score import is_multilabel
from camtrain.wall import WORDS, choose_pictures, choose_wall, draw_wall

log = logging.getLogger("camtrain")


@dataclass
class Scene:
    """Trained arms in front of validation pictures."""

    config: Config
    folder: Path
    arms: Sequence[Arm]
    pictures: Pictures
    device: torch.device

    def __post_init__(self) -> None:
        self.measured, self.shown = choose_pictures(self.pictures, self.config)
        self.started = time.perf_counter()

    def batches(self, chosen: Tensor | None = None) -> Generator[Batch, None, None]:
        """The validation pictures, or the chosen ones, (pictures,) bool."""
        trainer = self.config.trainer
        threads = machine.workers(trainer)
        return all_batches(self.pictures, trainer.batch_size, self.device, machine.layout(trainer), threads, chosen)

    def fresh(self) -> Mapping[str, Tensor]:
        """State dict of a network as the arms' that was not trained."""
        several = is_multilabel(self.pictures.targets)
        return untrained(self.config, len(self.pictures.classes), several).backbone.state_dict()

    def save(
        self,
        status: str,
        epochs: Mapping[str, list[dict[str, float]]],
        each: summary.Each,
        facts: Mapping[str, Any],
        timing: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write `result.json`; arguments as for :func:`camtrain.result.write`."""
        tree: Any = OmegaConf.to_container(OmegaConf.structured(self.config), enum_to_str=True)
        found = summary.differences([each], shared=True)
        timing = {"seconds": time.perf_counter() - self.started, **timing}
        return result.write(self.folder, status, self.config.seed, tree, epochs, found, timing, facts)


class Seen(NamedTuple):
    """What was found once, after training."""

    means: Mapping[str, Mapping[str, float]]  # by arm, and of the control
    each: summary.Each
    facts: dict[str, Any]  # for result.json: `control`, `by_size`, `sanity`, `wall`, `wall_by`


def look(scene: Scene, evaluated: Evaluated, say: Callable[[str], object]) -> Seen:
    """Measure what takes longer, draw the pictures of the report, write down the figures of every picture.

    Args:
        scene: arms and pictures.
        evaluated: of these pictures, by :func:`camtrain.evaluate.evaluate`.
        say: is told what is being done.
    """
    config = scene.config
    close = closely.measure(scene.arms, evaluated, scene.batches, config, scene.measured, scene.fresh, say)
    quick = evaluated.measured.each
    each = {name: {**quick.get(name, {}), **tags} for name, tags in close.measured.each.items()}
    facts = close.found
    if scene.shown:
        chosen = choose_wall(each, scene.shown)
        wall = draw_wall(scene.folder, scene.arms, scene.pictures, chosen, config.cam, scene.device)
        facts |= {"wall": wall, "wall_by": WORDS[chosen.by]}
    result.write_pictures(scene.folder, scene.pictures, each)
    return Seen(close.measured.means, each, facts)


class Settled(NamedTuple):
    one: summary.Summary
    notes: list[str]


def settle(scene: Scene, told: Mapping[str, Any], each: summary.Each, title: str, shared: int = 0) -> Settled:
    """Judge the claim and write report.html.

    Args:
        scene: arms and pictures.
        told: what result.json holds.
        each: the figures of every picture.
        title: of the page.
        shared: files that both arms were trained on and are validated on.
    """
    one = summary.summarise("", [summary.Run(scene.folder, scene.config, told, each)], scene.config.report)
    notes = summary.notes(one, shared)
    report.write(scene.folder / report.NAME, title, [one], notes)
    return Settled(one, notes)


def tell(scene: Scene, settled: Settled) -> None:
    """Print the tables, the claim and the notes."""
    log.info("\n%s\n", comparison.as_text(settled.one.final, settled.one.rows))
    log.info("%s", "\n".join(claim.told(settled.one.claim, settled.one.seeds)))
    for note in settled.notes:
        log.warning("Note: %s", note)
    log.info("\nrun folder   %s", scene.folder)
    log.info("report       %s", scene.folder / report.NAME)


def introduce(facts: Mapping[str, Any], config: Config) -> None:
    """Say what will be done."""
    for label, text in narration.introduction(facts, config):
        log.info("%-9s %s", label, text)
