"""The composition root of training: from a configuration to a finished run."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain import (
    checkpoint,
    comparison,
    conclusion,
    drawing,
    learning,
    machine,
    narration,
    performance,
    result,
)
from camtrain.arm import BASELINE, REGULARISED, make_arms
from camtrain.balance import Balance, default_share
from camtrain.compiled import compile_network
from camtrain.conclusion import Scene
from camtrain.config import AUTO, Config, OnError, Term, keys
from camtrain.data import overview
from camtrain.data.batches import Batch, one_batch, steps_per_epoch, training_batches
from camtrain.data.build import augmentation
from camtrain.data.build import build as build_data
from camtrain.data.pictures import Pictures, shared_files, shows
from camtrain.evaluate import evaluate
from camtrain.files import write_atomically, write_text
from camtrain.indicators import VOID
from camtrain.model import build_for, is_pretrained, survey
from camtrain.optim import default_learning_rate
from camtrain.preconditions import check_alive, check_maps, probe_paths
from camtrain.score import is_multilabel
from camtrain.streams import Stream, stream, torch_seed
from camtrain.tensorboard import Board
from camtrain.train import train_epoch
from camtrain.wall import draw

log = logging.getLogger("camtrain")

PROBED_BATCHES = 4
"""Training batches of which at least one must have a live CAM term before training starts."""


def run(config: Config, folder: Path) -> dict[str, Any]:
    """Train both arms, measure them after every epoch, and leave everything in the run folder.

    Args:
        config: checked configuration.
        folder: run folder; exists.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: data, network, or settings that cannot work together. Nothing was written then but the log.
    """
    # ---- set up: everything that can be wrong is found before the run folder is taken
    device = machine.prepare(config.trainer)
    threads = machine.workers(config.trainer)
    guided = config.cam.term is Term.energy_outside
    train_pictures, val_pictures = build_data(config.dataset, config.seed, threads, guided)
    multilabel = is_multilabel(train_pictures.targets)
    built = build_for(config, config.model, len(train_pictures.classes), multilabel, Stream.weights)
    layout = machine.layout(config.trainer)
    model = built.classifier.to(device, memory_format=layout)  # type: ignore[call-overload]
    varied = augmentation(config.dataset)

    def batches_of(epochs: int, threads: int) -> Generator[Batch, None, None]:
        size = config.trainer.batch_size
        pixels = config.dataset.image_size
        return training_batches(train_pictures, size, epochs, config.seed, varied, pixels, device, layout, threads)

    with closing(batches_of(1, min(threads, PROBED_BATCHES))) as early:
        first = list(islice(early, PROBED_BATCHES))
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(config.seed, Stream.dropout))
        paths = probe_paths(model, first[0].images, config.cam)
        check_maps(config.evaluate.maps, paths, built.layer)
        if config.cam.weight != 0:
            check_alive(model, first, config.cam, paths)
    rate = config.optim.lr or default_learning_rate(config.optim.name, is_pretrained(config.model), model)
    share = config.cam.share or default_share(is_pretrained(config.model))
    auto = Balance(share) if config.cam.weight == AUTO else None
    arms = make_arms(model, config.optim, rate, paths, auto)
    if config.trainer.compile:
        for arm in arms:
            compile_network(arm.model, paths)
    result.claim(folder)
    scene = Scene(config, folder, arms, val_pictures, device)

    # ---- say what will be done
    yaml = OmegaConf.to_yaml(OmegaConf.structured(config))
    facts = narration.facts(config, train_pictures, val_pictures, built, paths, rate, share if auto else None, device)
    conclusion.introduce(facts, config)

    steps = steps_per_epoch(len(train_pictures.targets), config.trainer.batch_size)
    total = min(config.trainer.epochs * steps, config.trainer.max_steps or sys.maxsize)
    epochs: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    each: Mapping[str, Mapping[str, Tensor]] = {arm.name: {} for arm in arms}
    kept: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    batches = batches_of(config.trainer.epochs, threads)

    def save(status: str) -> dict[str, Any]:
        return scene.save(status, epochs, each, facts, step_times(epochs))

    # ---- train
    status = "failed"
    save("running")
    try:
        with (
            closing(batches),
            Board(folder / "tb", [arm.name for arm in arms]) as board,
            tqdm(total=total, unit="step", disable=None, smoothing=0.05, dynamic_ncols=True) as bar,
            logging_redirect_tqdm([logging.getLogger()]),
        ):
            board.text("config", f"```yaml\n{yaml}\n```")
            log.info("%s", narration.epoch_heading(multilabel))
            for epoch in range(-(-total // steps)):
                bar.set_description(f"epoch {epoch + 1}/{config.trainer.epochs}")
                trained = train_epoch(
                    arms,
                    batches,
                    config,
                    rate,
                    epoch,
                    min(steps, total - epoch * steps),
                    steps,
                    device,
                    lambda _: bar.update(),
                )
                evaluated = evaluate(arms, scene.batches(), config.cam.variant, scene.measured)
                figures, each = evaluated.measured
                for arm in arms:
                    kept[arm.name].append(learning.keep(evaluated.maps[arm.name]))
                    figures[arm.name] |= trained[arm.name].summary()
                    figures[arm.name]["optim/lr"] = arm.optimiser.param_groups[0]["lr"]
                    epochs[arm.name].append(figures[arm.name])
                    checkpoint.save(arm, folder / arm.name, epoch + 1)
                board.scalars(figures, epoch + 1)
                last = epoch + 1 == -(-total // steps)
                if scene.shown and (last or epoch + 1 in picture_epochs(config)):
                    drawn = draw(arms, val_pictures, scene.shown, config.cam, device)
                    strips = [drawing.strip(picture, (BASELINE, REGULARISED)) for picture in drawn.values()]
                    board.strips(REGULARISED, strips, epoch + 1)
                log.info("%s", narration.epoch_line(epoch + 1, figures, multilabel))
                save("running")

            for arm in arms:
                checkpoint.save_weights(arm, folder / arm.name)

            # ---- measure what takes longer, once
            measure = f"{performance.measure(multilabel)}/val"
            courses = {name: learning.course(rows, kept[name], measure) for name, rows in epochs.items()}
            seen = conclusion.look(scene, evaluated, bar.set_description)
            facts |= seen.facts
            each = seen.each
            for arm in arms:
                courses[arm.name][-1] |= seen.means[arm.name]
            for number in range(len(epochs[BASELINE])):
                late = {name: rows[number] for name, rows in courses.items()}
                for name, figures_of in late.items():
                    epochs[name][number] |= figures_of
                board.scalars(late, number + 1)

            # ---- report
            title, shared = narration.title(config), len(shared_files(train_pictures, val_pictures))
            settled = conclusion.settle(scene, save("running"), each, title, shared)
            final = {arm: rows[-1] for arm, rows in epochs.items()}
            board.text("comparison", comparison.as_markdown(final, settled.one.rows), len(epochs[BASELINE]))
            board.hparams({key: narration.plain(value) for key, value, _ in keys(config)}, final)
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        finished = save(status)

    conclusion.tell(scene, settled)
    log.info("TensorBoard  %s --logdir %s", tensorboard_command(), shlex.quote(str(folder / "tb")))
    return finished


def picture_epochs(config: Config) -> Sequence[int]:
    """Epochs after which maps are drawn: as configured, or 1, 2, 4, 8, ..."""
    if config.evaluate.picture_epochs is not None:
        return config.evaluate.picture_epochs
    return [2**power for power in range(32)]


def layers(config: Config) -> str:
    """The network's layers as a table: what has a grid, and how the gradient of a score reaches it.

    Raises:
        UserError: as for :func:`camtrain.model.build`.
    """
    # Which layers there are does not depend on the number of classes.
    chosen, found = survey(config.model, 10, config.dataset.image_size)
    return narration.layers(config, chosen, found)


def look_at_data(config: Config, folder: Path) -> None:
    """Say what is in the data set, and leave a contact sheet with the objects' outlines in the folder.

    Raises:
        UserError: files are missing, or cannot be read.
    """
    # Nothing is kept, and both splits are looked at in the same way.
    dataset = replace(config.dataset, crop_scale=[1.0, 1.0], cache=None, on_error=OnError.skip)
    train, val = build_data(dataset, config.seed, machine.workers(config.trainer), guided=True)
    looks = overview.look(train, machine.workers(config.trainer)), overview.look(val, machine.workers(config.trainer))
    parts = {"training": overview.count(train, looks[0]), "validation": overview.count(val, looks[1])}
    log.info("%s, %d px\n", narration.data_name(config), dataset.image_size)
    same = overview.twins(train, val, looks)
    log.info("%s\n", overview.table(parts, same))
    if same:
        write_text(folder / overview.TWINS, overview.as_csv(same))
    for entry in (*train.skipped, *val.skipped):
        log.info("cannot be used: %s", entry.reason)
    rows = contact_rows(train, stream(config.seed, Stream.pictures))
    sheet = folder / "contact_sheet.png"
    write_atomically(sheet, lambda opened: drawing.save_png(drawing.contact_sheet(rows), opened))
    of = f", the first {SHEET_ROWS} classes" if len(train.classes) > SHEET_ROWS else ""
    log.info("contact sheet of training pictures%s: %s", of, sheet)


SHEET_COLUMNS, SHEET_ROWS = 8, 40


def contact_rows(pictures: Pictures, generator: np.random.Generator) -> list[drawing.Row]:
    """Random pictures of each class (of the first ones, where there are many), with its own objects' regions."""
    rows = []
    for kind, name in enumerate(pictures.classes[:SHEET_ROWS]):
        having = shows(pictures.targets, kind).nonzero().flatten().tolist()
        chosen = sorted(generator.permutation(having)[:SHEET_COLUMNS].tolist())
        if chosen:
            batch = one_batch(pictures, chosen, torch.device("cpu"))
            own = batch.regions
            if is_multilabel(batch.targets):
                own = torch.where((own == kind + 1) | (own == VOID), own, 0)
            rows.append(drawing.Row(f"{name} ({len(having)})", batch.images, own))
    return rows


def tensorboard_command() -> str:
    """How to start TensorBoard from here: by name where the shell finds it, else by its path beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else shlex.quote(str(beside))


def step_times(epochs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Seconds of a training step of each arm, the median over epochs of the epochs' medians, and their ratio."""
    times = {arm: sorted(row["time/step"] for row in rows if "time/step" in row) for arm, rows in epochs.items()}
    medians = {arm: values[len(values) // 2] for arm, values in times.items() if values}
    ratio = medians[REGULARISED] / medians[BASELINE] if len(medians) == 2 else None
    return {"step": medians, "step_ratio": ratio}
