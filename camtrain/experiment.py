"""The composition root: from a configuration to a finished run. Only this module knows all the others."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain import (
    checkpoint,
    claim,
    closely,
    comparison,
    drawing,
    learning,
    machine,
    narration,
    performance,
    report,
    result,
    summary,
)
from camtrain.arm import BASELINE, REGULARISED, Arm, make_arms
from camtrain.balance import Balance, default_share
from camtrain.compiled import compile_network
from camtrain.config import AUTO, BatchNorm, CamConfig, Config, OnError, Term, keys
from camtrain.data import overview
from camtrain.data.batches import Batch, all_batches, one_batch, steps_per_epoch, training_batches
from camtrain.data.build import augmentation
from camtrain.data.build import build as build_data
from camtrain.data.pictures import Pictures, name_of, shared_files, shows
from camtrain.evaluate import evaluate, forward_maps
from camtrain.files import write_atomically, write_text
from camtrain.indicators import VOID
from camtrain.model import Classifier, build_for, is_pretrained, survey
from camtrain.optim import default_learning_rate
from camtrain.preconditions import check_alive, check_maps, probe_paths
from camtrain.score import is_multilabel, regions_of
from camtrain.streams import Stream, stream, torch_seed
from camtrain.tensorboard import Board
from camtrain.train import train_epoch

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
    device = machine.choose_device(config.trainer.device)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
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

    def validation() -> Generator[Batch, None, None]:
        return all_batches(val_pictures, config.trainer.batch_size, device, layout, threads)

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
    measured, shown = choose_pictures(val_pictures, config)

    def fresh() -> Classifier:
        return untrained(config, len(train_pictures.classes), multilabel).to(device, memory_format=layout)  # type: ignore[call-overload,no-any-return]

    result.claim(folder)

    # ---- say what will be done
    tree: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    yaml = OmegaConf.to_yaml(OmegaConf.structured(config))
    facts = narration.facts(config, train_pictures, val_pictures, built, paths, rate, share if auto else None, device)
    introduction = list(narration.introduction(facts, config))
    for label, text in introduction:
        log.info("%-9s %s", label, text)

    steps = steps_per_epoch(len(train_pictures.targets), config.trainer.batch_size)
    total = min(config.trainer.epochs * steps, config.trainer.max_steps or sys.maxsize)
    epochs: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    each: dict[str, dict[str, Tensor]] = {arm.name: {} for arm in arms}
    maps: dict[str, Tensor] = {}
    kept: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    started = time.perf_counter()
    batches = batches_of(config.trainer.epochs, threads)

    def save(status: str) -> dict[str, Any]:
        timing = {"seconds": time.perf_counter() - started, **step_times(epochs)}
        found = summary.differences([each], shared=True)
        return result.write(folder, status, config.seed, tree, epochs, found, timing, facts)

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
                (figures, each), maps = evaluate(arms, validation(), config.cam.variant, measured)
                for arm in arms:
                    kept[arm.name].append(learning.keep(maps[arm.name]))
                    figures[arm.name] |= trained[arm.name].summary()
                    figures[arm.name]["optim/lr"] = arm.optimiser.param_groups[0]["lr"]
                    epochs[arm.name].append(figures[arm.name])
                    checkpoint.save(arm, folder / arm.name, epoch + 1)
                board.scalars(figures, epoch + 1)
                last = epoch + 1 == -(-total // steps)
                if shown and (last or epoch + 1 in picture_epochs(config)):
                    drawn = draw(arms, val_pictures, shown, config.cam, device)
                    strips = [drawing.strip(picture, (BASELINE, REGULARISED)) for picture in drawn.values()]
                    board.strips(REGULARISED, strips, epoch + 1)
                log.info("%s", narration.epoch_line(epoch + 1, figures, multilabel))
                save("running")

            # ---- measure what takes longer, once
            measure = f"{performance.measure(multilabel)}/val"
            for arm in arms:
                add_course(epochs[arm.name], kept[arm.name], measure)
            for number in range(len(epochs[BASELINE])):
                settling = {name: course(rows[number]) for name, rows in epochs.items()}
                board.scalars(settling, number + 1)
            close = closely.measure(arms, maps, validation, config, measured, fresh, bar.set_description)
            facts |= close.found
            for name, tags in close.measured.each.items():
                each[name] = each.get(name, {}) | tags
            for arm in arms:
                epochs[arm.name][-1] |= close.measured.means[arm.name]
            board.scalars({arm.name: close.measured.means[arm.name] for arm in arms}, len(epochs[BASELINE]))

            # ---- report
            result.write_pictures(folder, val_pictures, each)
            if shown:
                chosen = choose_wall(each, shown)
                facts |= {
                    "wall": draw_wall(folder, arms, val_pictures, chosen, config.cam, device),
                    "wall_by": chosen.by,
                }
            final = {arm: rows[-1] for arm, rows in epochs.items()}
            one = summary.summarise("", [summary.Run(folder, config, save("running"), each)], config.report)
            for arm in arms:
                checkpoint.save_weights(arm, folder / arm.name)
            board.text("comparison", comparison.as_markdown(final, one.rows), len(epochs[BASELINE]))
            board.hparams({key: narration.plain(value) for key, value, _ in keys(config)}, final)
        intervals = {row.indicator.tag: row.interval for rows in one.rows.values() for row in rows}
        both = len(shared_files(train_pictures, val_pictures))
        notes = list(comparison.warnings(final, intervals, config.cam, both))
        page = folder / "report.html"
        report.write(page, narration.title(config), [one], notes)
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        finished = save(status)

    log.info("\n%s\n", comparison.as_text(final, one.rows))
    log.info("%s\n", "\n".join(claim.told(one.claim)))
    for note in notes:
        log.warning("Note: %s", note)
    log.info("run folder   %s", folder)
    log.info("report       %s", page)
    log.info("TensorBoard  %s --logdir %s", tensorboard_command(), shlex.quote(str(folder / "tb")))
    return finished


def untrained(config: Config, classes: int, multilabel: bool) -> Classifier:
    """A network as the arms' with fresh weights that no arm has seen."""
    model = replace(config.model, weights=None, batch_norm=BatchNorm.batch)
    return build_for(config, model, classes, multilabel, Stream.sanity).classifier


def add_course(rows: list[dict[str, float]], kept: Sequence[Tensor], tag: str) -> None:
    """Add what can be said of an arm's learning once its last epoch is known.

    Args:
        rows: figures of each epoch, in place.
        kept: maps of each epoch, from :func:`camtrain.learning.keep`.
        tag: of accuracy or average precision.
    """
    with_previous, with_final = learning.similarities(kept)
    for row, before, final in zip(rows, with_previous, with_final, strict=True):
        row["settling/with_previous"], row["settling/with_final"] = before, final
    curve = [row[tag] for row in rows]
    rows[-1]["settling/epoch"] = learning.settled(with_final)
    rows[-1]["effort/epochs_to_90"] = learning.epochs_to(curve)
    rows[-1]["effort/mean_performance"] = learning.mean_height(curve)


def course(row: dict[str, float]) -> dict[str, float]:
    """What :func:`add_course` added."""
    return {tag: value for tag, value in row.items() if tag.startswith("settling/") or tag in COURSE}


COURSE = ("effort/epochs_to_90", "effort/mean_performance")


def choose_pictures(pictures: Pictures, config: Config) -> tuple[Tensor, list[int]]:
    """Whose maps are measured, (pictures,) bool, and which of those are drawn: fixed random choices."""
    count = len(pictures.targets)
    order = stream(config.seed, Stream.subset).permutation(count)[: config.evaluate.max_pictures]
    measured = torch.zeros(count, dtype=torch.bool)
    measured[torch.from_numpy(order)] = True
    shown = stream(config.seed, Stream.pictures).permutation(order)[: config.evaluate.pictures]
    return measured, sorted(shown.tolist())


def picture_epochs(config: Config) -> Sequence[int]:
    """Epochs after which maps are drawn: as configured, or 1, 2, 4, 8, ..."""
    if config.evaluate.picture_epochs is not None:
        return config.evaluate.picture_epochs
    return [2**power for power in range(32)]


def draw(
    arms: Sequence[Arm], pictures: Pictures, shown: list[int], cam: CamConfig, device: torch.device
) -> dict[int, drawing.Drawn]:
    """Every arm's map and prediction of the chosen validation pictures, by their number."""
    batch = one_batch(pictures, shown, device)
    mapped = {arm.name: forward_maps(arm, batch.images, batch.targets, cam.variant) for arm in arms}
    # Of several classes in a picture, the first one's map is drawn.
    first = next(iter(mapped.values())).of.occurrence == 0
    rows, classes = (part[first].tolist() for part in next(iter(mapped.values())).of)
    regions = regions_of(batch.regions, batch.targets, next(iter(mapped.values())).of)[first]
    density = {name: drawing.density(part.maps[first]) for name, part in mapped.items()}
    said = {name: predictions(part.output.logits[rows], batch.targets[rows], classes) for name, part in mapped.items()}
    return {
        shown[row]: drawing.Drawn(
            batch.images[row],
            regions[number],
            pictures.classes[classes[number]],
            {name: maps[number] for name, maps in density.items()},
            {name: pictures.classes[top[number][0]] for name, top in said.items()},
            {name: top[number][1] for name, top in said.items()},
        )
        for number, row in enumerate(rows)
    }


class Chosen(NamedTuple):
    """Pictures of the report, by number."""

    best: list[int]
    worst: list[int]
    random: list[int]
    by: str  # what best and worst go by


def choose_wall(each: Mapping[str, Mapping[str, Tensor]], shown: list[int]) -> Chosen:
    """Beside the random ones half as many where the regularised arm gained most, and lost most."""
    energy, entropy = ((each[REGULARISED][tag] - each[BASELINE][tag]) for tag in ("cam/energy_in_mask", "cam/entropy"))
    by = "energy in mask" if bool(energy.isfinite().any()) else "entropy"
    gain = energy if by == "energy in mask" else -entropy
    order = gain.argsort(descending=True, stable=True)
    ranked = order[gain[order].isfinite()].tolist()
    half = min(len(shown), len(ranked)) // 2
    return Chosen(ranked[:half], ranked[: -half - 1 : -1] if half else [], shown, by)


def draw_wall(
    folder: Path, arms: Sequence[Arm], pictures: Pictures, chosen: Chosen, cam: CamConfig, device: torch.device
) -> list[dict[str, Any]]:
    """Write `pictures/NUMBER.png` for each of them, and say what is on it."""
    wall = []
    for why in ("best", "worst", "random"):
        numbers: list[int] = getattr(chosen, why)
        for number, drawn in draw(arms, pictures, numbers, cam, device).items() if numbers else ():
            path = folder / "pictures" / f"{why}-{number}.png"
            strip = drawing.strip(drawn, (BASELINE, REGULARISED))
            write_atomically(path, partial(drawing.save_png, strip))
            said = {
                arm: {
                    "predicted": drawn.predicted[arm],
                    "probability": drawn.probability[arm],
                    "peak": float(drawn.density[arm].max()),
                }
                for arm in (BASELINE, REGULARISED)
            }
            name = str(path.relative_to(folder))
            wall.append({"file": name, "why": why, "picture": name_of(pictures, number), "truth": drawn.truth, **said})
    return wall


def predictions(logits: Tensor, target: Tensor, drawn: Sequence[int]) -> list[tuple[int, float]]:
    """Class and probability that stand under each map: the predicted one's, or, of several, the drawn one's."""
    if is_multilabel(target):
        return [(kind, float(row[kind])) for kind, row in zip(drawn, logits.sigmoid(), strict=True)]
    best = logits.softmax(1).max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


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
