"""`task=export`: a finished run's network with its map as one file for other runtimes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from camtrain.cam.stretch import tiles
from camtrain.config.options import ExportFormat, Score
from camtrain.config.schema import Config, ExportConfig
from camtrain.config.validate import image_shape
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build
from camtrain.data.images import ImageSet
from camtrain.device import worker_threads
from camtrain.errors import UserError, first_line, out_of_memory
from camtrain.export.check import TOLERANCE, Difference, difference, noise
from camtrain.export.formats import FORMATS, Runner, check_installed
from camtrain.export.int8 import onnx_int8
from camtrain.export.measure import Given, given, seconds
from camtrain.export.network import MapKind, WithMap
from camtrain.export.web import page_files, runtime_files
from camtrain.files import write_atomically, write_text
from camtrain.networks.classifier import Classifier
from camtrain.runs.load import Finished, check_own_code, named, networks, of_this_machine, read
from camtrain.runs.result import finite
from camtrain.runs.search import version
from camtrain.runs.settings import signature
from camtrain.tasks.explain import number_of

log = logging.getLogger("camtrain")

RECORD = "export.json"

NETWORK = "network.onnx"
"""In the folder of a page."""

SEVERAL = 3
"""Images of a batch by which a file for any number of them is checked, beside one."""

LICENCE = "the program that wrote this file: MIT (camtrain); the weights: whoever trained them decides"

ALL = "all"


@dataclass(frozen=True)
class Exported:
    """A file that was checked."""

    arm: str
    numbers: str  # float32 or int8
    path: Path
    content: bytes
    run: Runner
    difference: Difference | None  # of int8 none is asked to be small
    figures: dict[str, float] = field(default_factory=dict)  # where they were measured


class Images(NamedTuple):
    """The run's images, by which numbers are scaled and files are measured."""

    calibration: Tensor  # (images, channels, height, width) uint8
    val: ImageSet


def export_run(config: Config, folder: Path, chosen: Collection[str]) -> None:
    """Write the networks of a finished run's arms, each with its map as a second output, and `export.json`.

    Args:
        config: checked; of it `run`, `class_name`, the section `export` and the machine's part count, the rest is the
            run's own.
        folder: where the files go; exists.
        chosen: keys that the user set.

    Raises:
        UserError: a package is missing, the run cannot be used, or its network has no map in closed form, or the file
            does not compute what the network does. No network was written then.
        Diverged: weights are not finite.
    """
    assert config.run is not None
    export = config.export
    check_installed(export.format)
    if export.int8 and export.format is not ExportFormat.onnx:
        raise UserError(f"export.int8=true: not for export.format={export.format.value}; use export.format=onnx")
    finished = read(Path(config.run).expanduser())
    check_own_code(finished.config, named(config, chosen), "model.name", *["dataset.source"] * export.int8)
    arms = arms_of(export, finished)
    paths = places(export, arms, folder)
    check_free(paths.values(), export)
    number = None if config.class_name is None else number_of(config.class_name, finished.result.data.classes)
    kind = kind_of(export, number, finished)
    trained = networks(finished, torch.device("cpu"))
    images = images_of(config, finished, chosen) if export.int8 else None
    runtime = runtime_files(export.runtime) if export.format is ExportFormat.web else None
    made = []
    for arm in arms:
        log.info("%-9s %s of %s, %s", "export", arm, finished.folder, in_words(kind, finished))
        network = trained[arm].to(memory_format=torch.contiguous_format)
        made += exported(network, arm, paths[arm], export, kind, finished, images)
    if images is not None:
        measure(made, images, finished, export, kind, trained[arms[0]])
    for one in made:
        write_atomically(one.path, partial(_write, one.content))
        if runtime is not None:
            for name, content in page_files(FORMATS[export.format].opened(one.content)[1], runtime).items():
                write_atomically(one.path.with_name(name), partial(_write, content))
    write_text(folder / RECORD, json.dumps(finite({"files": [record(one) for one in made]}), indent=1) + "\n")
    log.info("\n%s\n", table(made))
    for one in made:
        log.info("%-9s %s", "network", one.path)


def _write(content: bytes, opened: BinaryIO) -> None:
    opened.write(content)


def images_of(config: Config, finished: Finished, chosen: Collection[str]) -> Images:
    """Images of the run's training split as validation would see them, and its validation split.

    Raises:
        UserError: they are not there any more, are of other classes, or fill no batch of the file's size.
    """
    moved: dict[str, Any] = {"root": getattr(config.dataset, "root", None)} if "dataset.root" in chosen else {}
    dataset = replace(of_this_machine(finished.config.dataset, config.dataset), crop_scale=[1.0, 1.0], **moved)
    train, val = build(dataset, finished.config.seed, worker_threads(config.trainer))
    if list(val.classes) != finished.result.data.classes:
        raise UserError(f"{finished.folder}: its data set has other classes by now, so nothing can be measured on it")
    count = min(config.export.calibration, len(train.targets))
    if count < (batch_size(config.export) or 1):
        raise UserError(
            f"export.calibration={config.export.calibration}: with {len(train.targets)} training images it fills no"
            f" batch of export.batch={config.export.batch}; raise it, or lower export.batch"
        )
    numbers = torch.linspace(0, len(train.targets) - 1, count).round().long().tolist()
    return Images(train.gather(numbers)[0], val)


def measure(
    made: Sequence[Exported],
    images: Images,
    finished: Finished,
    export: ExportConfig,
    kind: MapKind,
    network: Classifier,
) -> None:
    """What each file gives for the validation images, and how long it takes for one."""
    size = batch_size(export)
    one_batch = as_given(images.calibration[: size or 1], export)
    placement = network.placement(torch.zeros(1, *image_shape(finished.config.dataset)))
    floats: dict[str, Given] = {}
    for one in made:
        batches = all_batches(images.val, Batching(finished.config.trainer.batch_size))
        found = given(one.run, batches, size, export.bytes, placement, kind.number)
        one.figures.update(found.figures(floats.setdefault(one.arm, found)))
        one.figures["cpu_milliseconds"] = 1000 * seconds(one.run, one_batch)


COLUMNS = {
    "accuracy": "{:.3f}",
    "entropy": "{:.3f}",
    "energy_in_mask": "{:.3f}",
    "dead_rate": "{:.3f}",
    "correlation": "{:.4f}",
    "cpu_milliseconds": "{:.2f}",
}
"""Of the table, with how they are written."""


def table(made: Sequence[Exported]) -> str:
    """A line for each file: size, and what was measured or how far it is from the network."""
    measured = bool(made[0].figures)
    names = list(COLUMNS) if measured else ["logits differ by", "map differs by"]
    lines = [["arm", "numbers", "MB", *(name.replace("_", " ") for name in names)]]
    for one in made:
        cells = [one.arm, one.numbers, f"{len(one.content) / 1e6:.2f}"]
        if measured:
            cells += [written.format(one.figures[name]) for name, written in COLUMNS.items()]
        elif one.difference is not None:
            cells += [f"{part:.1e}" for part in one.difference]
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def record(one: Exported) -> dict[str, Any]:
    """What `export.json` says of a file."""
    found: dict[str, Any] = {"arm": one.arm, "numbers": one.numbers, "file": str(one.path), "bytes": len(one.content)}
    if one.difference is not None:
        found |= {"logits_difference": one.difference.logits, "map_difference": one.difference.maps}
    return found | one.figures


def arms_of(export: ExportConfig, finished: Finished) -> list[str]:
    """Which arms are asked for.

    Raises:
        UserError: the run has no such arm.
    """
    known = list(finished.result.arms)
    if export.arm is None:
        return known[-1:]
    if export.arm == ALL:
        return known
    if export.arm not in known:
        raise UserError(f"export.arm={export.arm}: the run has no such arm; it has {', '.join(known)}, or {ALL}")
    return [export.arm]


def places(export: ExportConfig, arms: list[str], folder: Path) -> dict[str, Path]:
    """Where the file of each arm goes.

    Raises:
        UserError: one file for several arms, or of another suffix.
    """
    suffix, web = FORMATS[export.format].suffix, export.format is ExportFormat.web
    if export.output is None:
        return {arm: folder / arm / NETWORK if web else folder / f"{arm}{suffix}" for arm in arms}
    path = Path(export.output)
    if len(arms) > 1:
        raise UserError(
            f"export.output={path}: one file cannot hold {len(arms)} arms; leave it out, or name an export.arm"
        )
    if path.suffix != suffix and not web:
        raise UserError(
            f"export.output={path}: files of export.format={export.format.value} end in {suffix}; name it so"
        )
    return {arms[0]: path / NETWORK if web else path}


def check_free(paths: Iterable[Path], export: ExportConfig) -> None:
    """Raise :class:`UserError` if something is there already that would be written, of a page the folder."""
    web, key = export.format is ExportFormat.web, "hydra.run.dir" if export.output is None else "export.output"
    for path in paths:
        for target in [path.parent] if web else [path, *[int8_beside(path)] * export.int8]:
            if target.exists():
                raise UserError(f"{target}: this exists already; choose another {key}, or remove it")


def int8_beside(path: Path) -> Path:
    """Where the network of whole numbers goes that belongs to a file."""
    return path.with_suffix(f".int8{path.suffix}")


def kind_of(export: ExportConfig, number: int | None, finished: Finished) -> MapKind:
    """Which maps are exported: the run's, of these classes."""
    if export.all_classes and number is not None:
        raise UserError("class and export.all_classes=true: the maps of all classes hold that of each; leave one out")
    several = finished.result.data.multilabel
    score = Score.logit if several else export.score  # of sigmoids all scores are the logit
    return MapKind(finished.config.cam.variant, score, number, export.all_classes, several)


def in_words(kind: MapKind, finished: Finished) -> str:
    """Which maps."""
    classes = finished.result.data.classes
    whose = "the predicted class" if kind.number is None else classes[kind.number]
    whose = "all classes" if kind.all_classes else whose
    return f"{kind.method.value} of {finished.result.model.layer} for {whose}"


def batch_size(export: ExportConfig) -> int | None:
    """Images that a file takes at once; None: any number."""
    return export.batch or (1 if export.format is ExportFormat.executorch else None)


def as_given(images: Tensor, export: ExportConfig) -> Tensor:
    """Images (uint8) as a file takes them."""
    return images if export.bytes else images.float() / 255


def exported(
    network: Classifier,
    arm: str,
    path: Path,
    export: ExportConfig,
    kind: MapKind,
    finished: Finished,
    images: Images | None,
) -> list[Exported]:
    """An arm's file, checked against the network at batches of one and several images, and that of int8, for which
    there are images then.

    Raises:
        UserError: the map has no closed form, the exporter does not know a part of the network, the file cannot be run,
            or what it gives is something else.
    """
    network.float().precision = torch.float32
    size, form = batch_size(export), FORMATS[export.format]
    pixels = noise(image_shape(finished.config.dataset), size or SEVERAL)
    looked_at = as_given(pixels, export)
    module = WithMap(network, kind, 255 if export.bytes else 1, pixels.float() / 255).eval()
    described = json.dumps(metadata(network, arm, export, kind, finished), ensure_ascii=False)
    made = []
    with in_a_line(export, f"its exporter cannot write {finished.config.model.name}"):
        program = captured(module, looked_at, size)
        made.append(("float32", path, form.written(program, described)))
        if images is not None:
            parts = torch.split(as_given(images.calibration, export), size or 1)
            whole = [part for part in parts if len(part) == (size or 1)]
            content = onnx_int8(program, described, whole)
            made.append(("int8", int8_beside(path), content))
    found = []
    for numbers, place, content in made:
        with in_a_line(export, f"its runtime cannot run the file of {finished.config.model.name}"):
            run, _ = form.opened(content)
            counts = sorted({size or 1, len(looked_at)})
            differs = [difference(network, run, looked_at[:count], kind) for count in counts]
        worst = max(differs, key=lambda one: (not one.small, one.maps))
        if numbers == "float32" and not worst.small:
            raise UserError(
                f"{finished.folder}: the {export.format.value} file of {arm} differs from the network (logits"
                f" {worst.logits:.1g}, map {worst.maps:.1g}; {TOLERANCE:g} at most) and was not written; try another"
                " export.format"
            )
        found.append(Exported(arm, numbers, place, content, run, worst if numbers == "float32" else None))
    return found


@contextmanager
def in_a_line(export: ExportConfig, what: str) -> Iterator[None]:
    """Errors of other people's exporters and runtimes, whatever they are, as :class:`UserError`."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"export.format={export.format.value}: {what} ({type(error).__name__}: {first_line(error)}); try another"
            " export.format"
        ) from error


def captured(module: WithMap, images: Tensor, batch: int | None) -> torch.export.ExportedProgram:
    """The module's computation for batches of this size; None: of any."""
    sizes = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        return torch.export.export(module, (images[:batch],), dynamic_shapes=sizes, strict=False)


def metadata(network: Classifier, arm: str, export: ExportConfig, kind: MapKind, finished: Finished) -> dict[str, Any]:
    """What a file says of itself."""
    config, result = finished.config, finished.result
    channels, height, width = image_shape(config.dataset)
    placement = network.placement(torch.zeros(1, channels, height, width)) or tiles((height, width), result.model.grid)
    return {
        "camtrain": version(),
        "licence": LICENCE,
        "run": signature(config),
        "seed": result.seed,
        "arm": arm,
        "network": config.model.name,
        "layer": network.layer,
        "classes": result.data.classes,
        "several_classes_per_image": kind.multilabel,
        "input": {
            "channels": channels,
            "height": height,
            "width": width,
            "fit": config.dataset.fit.value,
            "range": [0, 255] if export.bytes else [0, 1],
        },
        "map": {
            "method": kind.method.value,
            "score": kind.score.value,
            "class": ALL if kind.all_classes else None if kind.number is None else result.data.classes[kind.number],
            **{
                axis: {
                    "cells": cells,
                    **{name: value if math.isfinite(value) else None for name, value in of._asdict().items()},
                }
                for axis, cells, of in zip(("rows", "columns"), result.model.grid, placement, strict=True)
            },
        },
    }
