"""`task=train`: from a configuration to a finished run."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam.targets import is_multilabel
from camtrain.config import schema
from camtrain.config.options import AUTO, Term
from camtrain.config.schema import Config, keys
from camtrain.data.batches import Batch, steps_per_epoch, training_batches
from camtrain.data.build import augmentation
from camtrain.data.build import build as build_data
from camtrain.data.images import shared_files
from camtrain.device import memory_format, prepare_device, worker_threads
from camtrain.evaluation.every_epoch import evaluate
from camtrain.loss.balance import Balance, default_share
from camtrain.metrics import classification, learning_curves
from camtrain.networks.build import build_for
from camtrain.networks.compile import compile_network
from camtrain.networks.weights import is_pretrained
from camtrain.report import console, overlay, tables
from camtrain.report.console import tensorboard_command
from camtrain.report.gallery import draw
from camtrain.runs import result
from camtrain.runs.facts import facts as run_facts
from camtrain.runs.facts import title as title_of
from camtrain.runs.tensorboard import Board
from camtrain.streams import Stream, torch_seed
from camtrain.tasks import session
from camtrain.tasks.session import EvaluationContext
from camtrain.training import checkpoint
from camtrain.training.arm import make_arms
from camtrain.training.checks import check_alive, check_maps, probe_paths
from camtrain.training.loop import train_epoch
from camtrain.training.optim import default_learning_rate

log = logging.getLogger("camtrain")


PROBED_BATCHES = 4
"""Training batches of which at least one must have a live CAM term before training starts."""


def train(config: Config, folder: Path) -> dict[str, Any]:
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
    device = prepare_device(config.trainer)
    threads = worker_threads(config.trainer)
    guided = config.cam.term is Term.energy_outside
    train_images, val_images = build_data(config.dataset, config.seed, threads, guided)
    multilabel = is_multilabel(train_images.targets)
    built = build_for(config, config.model, len(train_images.classes), multilabel, Stream.weights)
    layout = memory_format(config.trainer)
    model = built.classifier.to(device, memory_format=layout)  # type: ignore[call-overload]
    varied = augmentation(config.dataset)

    def batches_of(epochs: int, threads: int) -> Generator[Batch, None, None]:
        size = config.trainer.batch_size
        pixels = config.dataset.image_size
        return training_batches(train_images, size, epochs, config.seed, varied, pixels, device, layout, threads)

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
    result.reserve_folder(folder)
    scene = EvaluationContext(config, folder, arms, val_images, device)

    # ---- say what will be done
    yaml = OmegaConf.to_yaml(OmegaConf.structured(config))
    facts = run_facts(config, train_images, val_images, built, paths, rate, share if auto else None, device)
    session.log_introduction(facts, config)

    steps = steps_per_epoch(len(train_images.targets), config.trainer.batch_size)
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
            log.info("%s", console.epoch_heading(multilabel))
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
                    kept[arm.name].append(learning_curves.keep(evaluated.maps[arm.name]))
                    figures[arm.name] |= trained[arm.name].summary()
                    figures[arm.name]["optim/lr"] = arm.optimiser.param_groups[0]["lr"]
                    epochs[arm.name].append(figures[arm.name])
                    checkpoint.save(arm, folder / arm.name, epoch + 1)
                board.scalars(figures, epoch + 1)
                last = epoch + 1 == -(-total // steps)
                if scene.shown and (last or epoch + 1 in image_epochs(config)):
                    drawn = draw(arms, val_images, scene.shown, config.cam, device)
                    strips = [overlay.strip(image, (BASELINE, REGULARISED)) for image in drawn.values()]
                    board.strips(REGULARISED, strips, epoch + 1)
                log.info("%s", console.epoch_line(epoch + 1, figures, multilabel))
                save("running")

            for arm in arms:
                checkpoint.save_weights(arm, folder / arm.name)

            # ---- measure what takes longer, once
            measure = f"{classification.metric_name(multilabel)}/val"
            courses = {name: learning_curves.course(rows, kept[name], measure) for name, rows in epochs.items()}
            seen = session.measure_final(scene, evaluated, bar.set_description)
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
            title, shared = title_of(config), len(shared_files(train_images, val_images))
            settled = session.write_report(scene, save("running"), each, title, shared)
            final = {arm: rows[-1] for arm, rows in epochs.items()}
            board.text("comparison", tables.as_markdown(final, settled.one.rows), len(epochs[BASELINE]))
            board.hparams({key: schema.plain(value) for key, value, _ in keys(config)}, final)
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        finished = save(status)

    session.log_summary(scene, settled)
    log.info("TensorBoard  %s --logdir %s", tensorboard_command(), shlex.quote(str(folder / "tb")))
    return finished


def image_epochs(config: Config) -> Sequence[int]:
    """Epochs after which maps are drawn: as configured, or 1, 2, 4, 8, ..."""
    if config.evaluate.image_epochs is not None:
        return config.evaluate.image_epochs
    return [2**power for power in range(32)]


def step_times(epochs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Seconds of a training step of each arm, the median over epochs of the epochs' medians, and their ratio."""
    times = {arm: sorted(row["time/step"] for row in rows if "time/step" in row) for arm, rows in epochs.items()}
    medians = {arm: values[len(values) // 2] for arm, values in times.items() if values}
    ratio = medians[REGULARISED] / medians[BASELINE] if len(medians) == 2 else None
    return {"step": medians, "step_ratio": ratio}
