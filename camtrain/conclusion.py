"""The end of a run, or of measuring one again: look closely, draw, judge, and write everything down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camtrain import claim, closely, comparison, machine, narration, report, result, summary
from camtrain.arm import Arm
from camtrain.config import Config
from camtrain.data.batches import Batch, all_batches
from camtrain.data.pictures import Pictures
from camtrain.evaluate import Evaluated
from camtrain.model import Classifier, untrained
from camtrain.score import is_multilabel
from camtrain.wall import choose_pictures, choose_wall, draw_wall

log = logging.getLogger("camtrain")

PAGE = "report.html"


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

    def batches(self) -> Generator[Batch, None, None]:
        """The validation pictures."""
        trainer = self.config.trainer
        threads = machine.workers(trainer)
        return all_batches(self.pictures, trainer.batch_size, self.device, machine.layout(trainer), threads)

    def fresh(self) -> Classifier:
        """A network as the arms' that was not trained."""
        model = untrained(self.config, len(self.pictures.classes), is_multilabel(self.pictures.targets))
        return model.to(self.device, memory_format=machine.layout(self.config.trainer))  # type: ignore[call-overload,no-any-return]


class Closely(NamedTuple):
    """What was found once, after training."""

    means: Mapping[str, Mapping[str, float]]  # by arm, and of the control
    each: Mapping[str, Mapping[str, Tensor]]
    facts: dict[str, Any]  # for result.json: `control`, `by_size`, `sanity`, `wall`, `wall_by`


def look(scene: Scene, evaluated: Evaluated, say: Callable[[str], object]) -> Closely:
    """Measure what takes longer, draw the pictures of the report, write down the figures of every picture.

    Args:
        scene: arms and pictures.
        evaluated: of these pictures, by :func:`camtrain.evaluate.evaluate`.
        say: is told what is being done.
    """
    config = scene.config
    close = closely.measure(scene.arms, evaluated.maps, scene.batches, config, scene.measured, scene.fresh, say)
    quick = evaluated.measured.each
    each = {name: {**quick.get(name, {}), **tags} for name, tags in close.measured.each.items()}
    facts = close.found
    if scene.shown:
        chosen = choose_wall(each, scene.shown)
        wall = draw_wall(scene.folder, scene.arms, scene.pictures, chosen, config.cam, scene.device)
        facts |= {"wall": wall, "wall_by": chosen.by}
    result.write_pictures(scene.folder, scene.pictures, each)
    return Closely(close.measured.means, each, facts)


class Judged(NamedTuple):
    one: summary.Summary
    notes: list[str]


def judge(scene: Scene, told: Mapping[str, Any], close: Closely, title: str, shared: int = 0) -> Judged:
    """Settle the claim and write report.html.

    Args:
        scene: arms and pictures.
        told: what result.json holds.
        close: what was found after training.
        title: of the page.
        shared: files that both arms were trained on and are validated on.
    """
    one = summary.summarise("", [summary.Run(scene.folder, scene.config, told, close.each)], scene.config.report)
    notes = summary.notes(one, shared)
    report.write(scene.folder / PAGE, title, [one], notes)
    return Judged(one, notes)


def tell(scene: Scene, judged: Judged) -> None:
    """Print the tables, the claim and the notes."""
    log.info("\n%s\n", comparison.as_text(judged.one.final, judged.one.rows))
    log.info("%s", "\n".join(claim.told(judged.one.claim)))
    for note in judged.notes:
        log.warning("Note: %s", note)
    log.info("\nrun folder   %s", scene.folder)
    log.info("report       %s", scene.folder / PAGE)


def introduce(facts: Mapping[str, Any], config: Config) -> None:
    """Say what will be done."""
    for label, text in narration.introduction(facts, config):
        log.info("%-9s %s", label, text)
