"""What a run prints: what is about to be trained, and a line for each epoch."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from camtrain.config.hydra_store import cam_of_arms
from camtrain.config.options import (
    BalanceOver,
    CamConfig,
    Conflict,
    EntropyUnit,
    Precision,
    Term,
    ViewKind,
    second_pass_terms,
)
from camtrain.config.validate import image_shape
from camtrain.metrics.catalogue import INDICATORS, Place, at
from camtrain.metrics.tags import metric_name
from camtrain.report.tables import short
from camtrain.runs.facts import pixels
from camtrain.runs.result import RunResult

NOTICED = 0.05
"""Pixels below which it is not worth saying that maps lie elsewhere."""

WIDTH = 120
"""Characters of a line."""

WIDTHS = (8, 11, 14)
"""Characters of an arm's name, the first ones that suffice."""

SHOWN = 5
"""Classes that are named, beyond which they are only counted."""

SPLITS = {"train": "training", "val": "validation"}


def term(cam: CamConfig, share: float | None) -> str:
    """The CAM term in words; `share`: of the gradient, None where the weight is a number."""
    if cam.weight == 0:
        return "none"
    unit = " / ln N" if cam.unit is EntropyUnit.normalised else " in nats"
    enough = "" if cam.enough is None else f" above that of {cam.enough:g} cells"
    of_each = cam.term.value.replace("_", " ") + unit * (cam.term is Term.entropy) + enough
    of_views = () if cam.views is ViewKind.none else ("consistency", "contrastive")
    parts = [of_each] * (cam.term is not Term.none)
    parts += [f"{getattr(cam, name):g} x {name}" for name in of_views if getattr(cam, name)]
    further = [f"{getattr(cam, name):g} x {name.replace('_', ' ')}" for name in second_pass_terms(cam)]
    start = f", from epoch {cam.start:g}" if cam.start else ""
    ramp = f", ramped over {cam.ramp:g}" if cam.ramp else ""
    if not parts:
        return f"{' + '.join(further)}, map {cam.variant.value}, score {cam.score.value}{start}{ramp}"
    what = f"{cam.variant.value} " + (f"({' + '.join(parts)})" if len(parts) > 1 else "".join(parts))
    confidence = f" x confidence^{cam.confidence_exponent:g}" if cam.confidence_exponent else ""
    weight = f" x {cam.weight:g}" if share is None else f", weighted for a gradient share of {share:.0%}"
    if share is not None and cam.confidence_exponent:
        weight += " x mean confidence"
    weight += ", at most that in any image" if cam.balance is BalanceOver.image and share is not None else ""
    weight += f", anchored by {cam.anchor:g}" if cam.anchor else ""
    weight += ", conflicting part removed" if cam.conflict is Conflict.project else ""
    beside = "".join(f" + {part}" for part in further)
    return f"{what}{confidence}{weight}, score {cam.score.value}{start}{ramp}{beside}"


def introduction(result: RunResult) -> Iterator[tuple[str, str]]:
    """A few labelled lines that say what is about to be trained or measured."""
    yield from _about_data(result)
    if result.networks:
        yield from _about_networks(result)
        yield "machine", f"{result.environment['device']}, torch {result.environment['torch']}"
        return
    model, trainer = result.model, result.config.trainer
    stem = f", stride 1 at {' and '.join(model.stem_strides_lowered)}" if model.stem_strides_lowered else ""
    relu = f", without its last ReLU ({model.relu_left_out})" if model.relu_left_out else ""
    yield (
        "network",
        f"{model.name}, {model.parameters:,} weights; map of {model.layer}: {model.grid[0]} x {model.grid[1]} cells,"
        f" gradient: {model.gradient_path.training.value}{stem}{relu}",
    )
    if apart := offset(result):
        drawn = "are drawn there" if result.config.evaluate.registered else "are drawn in equal tiles all the same"
        yield "", f"the cells lie {apart} of equal tiles of the image, and {drawn}"
    cams = cam_of_arms(result.config)
    for number, (name, share) in enumerate(result.cam_shares.items()):
        arm = f"{name}: " if len(result.cam_shares) > 1 else ""
        alone = cams[name].views is ViewKind.none and result.config.cam.views is not ViewKind.none
        yield "" if number else "CAM term", f"{arm}{term(cams[name], share)}{', without views' * alone}"
    yield "training", _training(result)
    lower = f", {trainer.precision.value}" if trainer.precision is not Precision.float32 else ""
    if trainer.precision.value in result.environment:
        lower += ", for which this CPU has no instructions: float32 is many times faster here"
    yield "machine", f"{result.environment['device']}, torch {result.environment['torch']}{lower}"


def _about_networks(result: RunResult) -> Iterator[tuple[str, str]]:
    """Of networks that are compared as they are, each with what was assumed of it, and what all have in common."""
    grids = {one.model.grid for one in result.networks.values()}
    for name, one in result.networks.items():
        model, (rows, columns) = one.model, one.model.grid
        yield (
            name,
            f"{one.given}: {model.name}, {model.parameters:,} weights, {counted(one.outputs, 'class', 'es')};"
            f" {one.method} of {model.layer}: {rows} x {columns} cells, gradient:"
            f" {model.gradient_path.evaluation.value}",
        )
        for note in one.notes:
            yield "", note
        if one.classes:
            parts = [
                f"{kind}: {', '.join(members[:SHOWN])}{f' and {len(members) - SHOWN} more' * (len(members) > SHOWN)}"
                for kind, members in [*one.classes.items()][:SHOWN]
            ]
            more = f" and {len(one.classes) - SHOWN} more" * (len(one.classes) > SHOWN)
            yield "", f"measured by the data set's classes alone: {'; '.join(parts)}{more}"
    if len(grids) > 1:
        rows, columns = (max(sides) for sides in zip(*grids, strict=True))
        yield "maps", f"all are measured in {rows} x {columns} equal tiles of the image"


def _training(result: RunResult) -> str:
    """Epochs, batches, optimiser, and what is out of the ordinary."""
    trainer, optim, cam = result.config.trainer, result.config.optim, result.config.cam
    batch = min(trainer.batch_size, result.data.train or trainer.batch_size)
    views = f" and views of {cam.views_share:.3g} of them ({cam.views.value})" if cam.views is not ViewKind.none else ""
    fork = f"; one network for {counted(trainer.fork, 'epoch')}, then the arms part" if trainer.fork is not None else ""
    least = f"; stopped after {trainer.max_steps} steps at the latest" if trainer.max_steps else ""
    return (
        f"{counted(trainer.epochs, 'epoch')} in batches of {batch}{views}, {optim.name.value} at"
        f" {result.learning_rate:g}, {optim.schedule.value}{fork}{least}"
    )


def counted(number: int, what: str, ending: str = "s") -> str:
    """Such as `1 epoch` or `2 epochs`."""
    return f"{number} {what}{ending * (number != 1)}"


def offset(result: RunResult) -> str:
    """How far, in words, the map's cells lie from equal tiles of the image; nothing where that is no pixel's tenth."""
    cells = result.model.cells
    if cells is None:
        return ""
    size, words = image_shape(result.config.dataset)[1:], (("up", "down"), ("to the left", "to the right"))
    parts = [
        f"{abs(apart):.3g} px {before if apart < 0 else behind}"
        for axis, side, number, (before, behind) in zip(cells, size, result.model.grid, words, strict=True)
        if abs(apart := axis.offset(side, number)) >= NOTICED
    ]
    return " and ".join(parts)


def _about_data(result: RunResult) -> Iterator[tuple[str, str]]:
    data, config = result.data, result.config
    regions = {0: "none", data.val: "all"}.get(data.val_with_region, str(data.val_with_region))
    trained = "" if data.train is None else f"{data.train} training images, "
    yield (
        "data",
        f"{data.name}: {trained}{data.val} validation images ({regions} of these with masks or boxes),"
        f" {len(data.classes)} classes, {pixels(config.dataset)}",
    )
    if data.val > config.evaluate.max_images:
        chosen = "a random choice, stratified by class"
        yield "", f"maps of {config.evaluate.max_images} of the validation images are measured, {chosen}"
    if 2 * data.middle_side <= min(image_shape(config.dataset)[1:]):
        yield (
            "",
            f"most are enlarged from about {data.middle_side} px: dataset.image_size sets the size that is trained at",
        )
    for line in said(data.notes):
        yield "files", line
    for split, skipped in data.skipped.items():
        if skipped:
            many = f"{len(skipped)} {SPLITS[split]} image{'s' * (len(skipped) > 1)}"
            yield "left out", f"{many}, listed in result.json; the first: {skipped[0].reason}"


def said(notes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each note of any split once, with the splits that it holds for where these are not all.

    Args:
        notes: of each split, by `train` and `val`.
    """
    for note in dict.fromkeys(line for lines in notes.values() for line in lines):
        of = [SPLITS[split] for split, lines in notes.items() if note in lines]
        yield note if len(of) == len(notes) else f"{', '.join(of)}: {note}"


def epoch_heading(multilabel: bool, arms: Sequence[str]) -> str:
    """Two lines over those of :func:`epoch_line`: indicators, and under each the arms; before, which arm is which."""
    (names, width), tags = _briefly(arms), _main_tags(multilabel, arms)
    across = (width + 1) * len(arms) - 1
    top = "".join(f"  {INDICATORS[tag].label:^{across}}" for tag in tags).rstrip()
    below = " ".join(f"{name:>{width}}" for name in names)
    numbered = [f"{name}: {arm}" for name, arm in zip(names, arms, strict=True) if name.startswith("arm ")]
    which = f"\n{', '.join(numbered)}" if numbered else ""
    return f"{which}\n{'':>5}{top}\n{'epoch':>5}" + f"  {below}" * len(tags)


def epoch_line(epoch: int, figures: Mapping[str, Mapping[str, float]], multilabel: bool) -> str:
    """The arms' main figures after an epoch, by arm and tag."""
    _, width = _briefly([*figures])
    groups = (
        " ".join(f"{short(arm.get(tag, math.nan)):>{width}}" for arm in figures.values())
        for tag in _main_tags(multilabel, [*figures])
    )
    return f"{epoch:>5}" + "".join(f"  {group}" for group in groups)


def _main_tags(multilabel: bool, arms: Sequence[str]) -> list[str]:
    """As many as a line has room for, but at least the first one."""
    tags = [f"{metric_name(multilabel)}/val", *(indicator.tag for indicator in at(Place.epochs))]
    return tags[: max(1, (WIDTH - 5) // ((_briefly(arms)[1] + 1) * len(arms) + 1))]


def _briefly(arms: Sequence[str]) -> tuple[list[str], int]:
    """Names in at most 8 characters, or as many as keep them apart, and how many; by number where that are too many."""
    for width in WIDTHS:
        names = [name if len(name) <= width else f"{name[: width - 1]}." for name in arms]
        if len(set(names)) == len(names):
            return names, width
    return [f"arm {number}" for number in range(1, len(arms) + 1)], WIDTHS[0]


def tensorboard_command() -> str:
    """How to start TensorBoard from here: by name where the shell finds it, else by its path beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else shlex.quote(str(beside))
