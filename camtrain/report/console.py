"""What a run says about itself, line by line."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camtrain.arms import BASELINE, REGULARISED
from camtrain.config.options import Conflict, EntropyUnit, Precision, Term
from camtrain.config.schema import CamConfig, Config
from camtrain.metrics.classification import metric_name
from camtrain.report.tables import short


def term(cam: CamConfig, share: float | None) -> str:
    """The CAM term in words."""
    unit = " / ln N" if cam.unit is EntropyUnit.normalised else " in nats"
    what = f"{cam.variant.value} {cam.term.value.replace('_', ' ')}{unit if cam.term is Term.entropy else ''}"
    confidence = f" x confidence^{cam.confidence_exponent:g}" if cam.confidence_exponent else ""
    start = f", from epoch {cam.start:g}" if cam.start else ""
    ramp = f", ramped over {cam.ramp:g}" if cam.ramp else ""
    weight = f" x {cam.weight:g}" if share is None else f", weight for {share:.0%} of the effort"
    if share is not None and cam.confidence_exponent:
        weight += " x mean confidence"
    weight += ", conflict taken out" if cam.conflict is Conflict.project else ""
    return f"{what}{confidence}{weight}, score {cam.score.value}{start}{ramp}"


SPLITS = {"train": "training", "val": "validation"}


def introduction(told: Mapping[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """A few labelled lines that say what is about to be trained."""
    data, model, environment = told["data"], told["model"], told["environment"]
    regions = {0: "none", data["val"]: "all"}.get(data["val_with_region"], str(data["val_with_region"]))
    trained = "" if data["train"] is None else f"{data['train']} training images, "
    yield (
        "data",
        f"{data['name']}: {trained}{data['val']} for"
        f" validation ({regions} of these with masks or boxes), {len(data['classes'])} classes,"
        f" {config.dataset.image_size} px",
    )
    if data["val"] > config.evaluate.max_images:
        yield "", f"maps of {config.evaluate.max_images} of the validation images are measured, a random choice"
    if 2 * data["middle_side"] <= config.dataset.image_size:
        yield "", f"most are enlarged from about {data['middle_side']} px: dataset.image_size sets what to train at"
    for split, left_out in data["skipped"].items():
        if left_out:
            many = f"{len(left_out)} {SPLITS[split]} image{'s' * (len(left_out) > 1)}"
            yield "left out", f"{many}, listed in result.json; the first: {left_out[0]['reason']}"
    stem = f", stride 1 at {' and '.join(model['stem_strides_lowered'])}" if model["stem_strides_lowered"] else ""
    relu = f", without its last ReLU ({model['relu_left_out']})" if model["relu_left_out"] else ""
    yield (
        "network",
        f"{model['name']}, {model['parameters']:,} weights; map of {model['layer']}:"
        f" {model['grid'][0]} x {model['grid'][1]} cells, {model['gradient_path']['training']}{stem}{relu}",
    )
    yield "CAM term", term(config.cam, told["cam_share"])
    optim, trainer = config.optim, config.trainer
    batch = min(trainer.batch_size, data["train"] or trainer.batch_size)
    yield (
        "training",
        f"{trainer.epochs} epoch{'s' * (trainer.epochs > 1)} in batches of {batch}, {optim.name.value} at"
        f" {told['learning_rate']:g}, {optim.schedule.value}"
        + (f"; stopped after {trainer.max_steps} steps at the latest" if trainer.max_steps else ""),
    )
    lower = f", {trainer.precision.value}" if trainer.precision is not Precision.float32 else ""
    if trainer.precision.value in environment:
        lower += ", for which this CPU has no instructions: float32 is many times faster here"
    yield "machine", f"{environment['device']}, torch {environment['torch']}{lower}"


MAIN = {"cam/entropy": "entropy", "cam/energy_in_mask": "energy in mask", "cam/dead_rate": "dead rate"}
"""What is printed of every epoch, beside accuracy or average precision."""


def epoch_heading(multilabel: bool) -> str:
    """Two lines over those of :func:`epoch_line`."""
    names = (metric_name(multilabel).replace("_", " "), *MAIN.values())
    top = "".join(f"  {name:^17}" for name in names).rstrip()
    return f"\n{'':>5}{top}\n{'epoch':>5}" + f"  {'base':>8} {'regul.':>8}" * len(names)


def epoch_line(epoch: int, figures: Mapping[str, Mapping[str, float]], multilabel: bool) -> str:
    """Both arms' main figures after an epoch."""
    tags = (f"{metric_name(multilabel)}/val", *MAIN)
    pairs = ((figures[BASELINE][tag], figures[REGULARISED][tag]) for tag in tags)
    return f"{epoch:>5}" + "".join(f"  {short(first):>8} {short(second):>8}" for first, second in pairs)


def tensorboard_command() -> str:
    """How to start TensorBoard from here: by name where the shell finds it, else by its path beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else shlex.quote(str(beside))
