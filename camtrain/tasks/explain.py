"""`task=explain`: maps of a finished run's arms over a user's own images."""

from __future__ import annotations

import difflib
import glob
import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from camtrain.cam import distribution
from camtrain.cam.stretch import Placement
from camtrain.config.options import CamVariant, Fit
from camtrain.config.schema import Config
from camtrain.data.build import rule_of
from camtrain.data.decode import each, image_and_region, prepared
from camtrain.data.files import counted, is_image, is_system, why_left_out
from camtrain.data.listing import Listing, Rule, Skipped
from camtrain.data.resample import place
from camtrain.device import memory_format, prepare_device, worker_threads
from camtrain.errors import Diverged, UserError
from camtrain.evaluation.every_epoch import not_finite
from camtrain.evaluation.forward import forward_maps
from camtrain.files import printable, write_atomically, write_csv, write_text
from camtrain.metrics import concentration
from camtrain.networks.classifier import Classifier
from camtrain.report import overlay
from camtrain.runs.load import TRAIN_AGAIN, Finished, check_own_code, named, networks, read

log = logging.getLogger("camtrain")


MAPS, TABLE, LEFT_OUT = "maps", "explanations.csv", "left_out.txt"

SHOWN = 20
"""Lines of the log about single images, or classes in an error, beyond which the rest is only counted."""


class ArmOutput(NamedTuple):
    """What an arm makes of a batch of images."""

    maps: Tensor  # (batch, height, width) float32, before ReLU; like the others on the CPU
    kinds: Tensor  # (batch,) int64, the class whose map it is
    probability: Tensor  # (batch,) of that class, 0..1
    predicted: Tensor  # (batch,) int64
    confidence: Tensor  # (batch,) probability of the predicted class, 0..1
    faults: Tensor  # (2, batch) bool: whose logits, and whose maps, are not finite


class Explanation(NamedTuple):
    """One arm's map of one image, in words."""

    image: str
    arm: str
    kind: str  # the class whose map it is
    probability: float
    predicted: str
    confidence: float
    entropy: float  # nats; nan of a dead map
    dead: bool
    png: str  # relative to the folder, like the next
    npy: str


def explain_images(config: Config, folder: Path, chosen: Collection[str]) -> None:
    """Draw every arm's maps over images, and write the maps and a table.

    In the folder: `maps/NAME.png`, `maps/NAME.ARM.npy` (float32, (height, width), before ReLU), `explanations.csv`, and
    `left_out.txt` where images could not be read.

    Args:
        config: checked; of it `run`, `images`, `class_name` and the machine's part count, the rest is the run's own.
        folder: where the files go; exists.
        chosen: keys that the user set.

    Raises:
        UserError: the run cannot be used, or has no such class, or no image can be read. Only the log was written then.
        Diverged: weights, logits or maps are not finite. What is written is of the other images.
    """
    assert config.run is not None
    assert config.images is not None
    device, threads = prepare_device(config.trainer), worker_threads(config.trainer)
    finished = read(Path(config.run).expanduser())
    check_own_code(finished.config, named(config, chosen), "model.name")
    classes, rule = finished.result.data.classes, rule_of_run(finished)
    kind = None if config.class_name is None else number_of(config.class_name, classes)
    paths, left_out = find(config.images)
    names = distinct(paths)
    trained = networks(finished, device)
    for label, text in introduction(finished, len(paths), config.class_name):
        log.info("%-9s %s", label, text)
    for note in left_out:
        log.warning("%s", printable(note))
    found: list[list[Explanation]] = []
    faults = torch.zeros(len(trained), 2, dtype=torch.int64)
    skipped: list[Skipped] = []
    with (
        closing(batches(paths, rule, config.trainer.batch_size, threads, skipped)) as made,
        tqdm(total=len(paths), unit="image", disable=None, leave=False, dynamic_ncols=True) as bar,
        logging_redirect_tqdm([logging.getLogger()]),
    ):
        for numbers, sizes, pixels in made:
            images = pixels.to(device).float().div_(255)
            images = images.contiguous(memory_format=memory_format(finished.config.trainer))
            seen = explain_by_arm(trained, images, finished, kind)
            placement = next(iter(trained.values())).placement(images)
            faulty = torch.stack([part.faults for part in seen.values()])
            faults += faulty.sum(2)
            for at, number in enumerate(numbers):
                if bool(faulty[:, :, at].any()):
                    skipped.append(Skipped(str(paths[number]), f"{paths[number]}: logits or maps are not finite"))
                    continue
                found.append(describe(seen, at, paths[number], names[number], classes))
                maps = {arm: part.maps[at] for arm, part in seen.items()}
                png = drawn(images[at], maps, placement, view_of(sizes[at], rule), found[-1], kind is not None)
                write(folder, png, maps, found[-1])
            bar.update(numbers[-1] + 1 - bar.n)
    wrong = not_finite(dict(zip(trained, faults.tolist(), strict=True)), f"{len(paths)} images")
    if found:
        report(folder, found, skipped, config.class_name)
    if wrong:
        raise Diverged(f"{finished.folder}: {', '.join(wrong.values())}; {TRAIN_AGAIN}")
    if not found:
        raise UserError(f"images={config.images}: none can be read; the first: {printable(skipped[0].reason)}")


def rule_of_run(finished: Finished) -> Rule:
    """What files become for a run's networks.

    Raises:
        UserError: no file holds as many channels as they take.
    """
    rule = rule_of(finished.config.dataset)
    rule = rule._replace(span=rule.span or finished.result.data.intensity_range)
    if rule.channels not in (1, 3):
        raise UserError(f"{finished.folder}: its networks take {rule.channels} channels, which image files do not hold")
    return rule


def introduction(finished: Finished, images: int, name: str | None) -> list[tuple[str, str]]:
    """Labelled lines that say what is about to be drawn."""
    config, model = finished.config, finished.result.model
    rule, grid = rule_of_run(finished), " x ".join(map(str, model.grid))
    middle = "of each the middle square" if rule.height == rule.width else "of each the middle"
    part = {Fit.crop: middle, Fit.pad: "each of them whole and padded", Fit.stretch: "each of them whole"}[rule.fit]
    whose = "the class that each arm predicts" if name is None else name
    return [
        ("run", f"{finished.folder}: {config.model.name}, trained on {finished.result.data.name}"),
        ("images", f"{images}, {part} at {rule.height} x {rule.width} pixels"),
        ("maps", f"{config.cam.variant.value} of {model.layer}, {grid} cells, of {whose}"),
    ]


def number_of(name: str, classes: Sequence[str]) -> int:
    """The number of a class.

    Raises:
        UserError: there is none of that name.
    """
    if name in classes:
        return classes.index(name)
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.75)
    hint = f" (did you mean {near[0]}?)" if near else ""
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    raise UserError(f"class={name}: the run has no such class{hint}; it has {', '.join(classes[:SHOWN])}{more}")


class Chosen(NamedTuple):
    """What `images` names."""

    paths: list[Path]  # of the images
    notes: list[str]  # what else is there and was left out, a line each


def find(images: Any) -> Chosen:
    """The images of a file whatever its name, of a folder, of a pattern, or of a list of these.

    Raises:
        UserError: there are none.
    """
    several = images if isinstance(images, list) else [images]
    found = [find_one(str(one)) for one in several if one not in (None, "")]
    paths = list(dict.fromkeys(path for one in found for path in one.paths))
    if not paths:
        raise UserError("images=[]: the list is empty; give files, folders or patterns")
    return Chosen(paths, [note for one in found for note in one.notes])


def find_one(images: str) -> Chosen:
    """As :func:`find`, of one text."""
    if re.match(r"[a-z][a-z0-9+.-]+://", images, re.IGNORECASE):
        raise UserError(f"images={images}: addresses are not read; download it, and give the file")
    try:
        place = Path(images).expanduser()
        if place.is_file():
            return Chosen([place], [])
        if place.is_dir():
            return chosen(sorted(place.iterdir()), f"images={images}: no images in this folder", images)
        if not glob.has_magic(images):
            raise UserError(f"images={images}: there is no such file or folder")
        # Path.glob would look into hidden folders, and takes no absolute pattern.
        matches = sorted(map(Path, glob.iglob(str(place), recursive=True)))  # noqa: PTH207
    except (OSError, RuntimeError, ValueError) as error:  # no access, a name too long, no such user's home
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"images={images}: {reason}; give a file, a folder or a pattern that can be read") from error
    return chosen(
        matches, f"images={images}: no image fits this pattern; * stands for part of a name, ** for any folders"
    )


def chosen(places: Sequence[Path], otherwise: str, folder: str | None = None) -> Chosen:
    """The images among files and folders.

    Args:
        places: the files and folders.
        otherwise: what is wrong if there are none.
        folder: whose content they are, if they are one's.

    Raises:
        UserError: there are none.
    """
    files = [path for path in places if not is_system(path.name) and not path.is_dir()]
    paths = [path for path in files if is_image(path)]
    notes = list(counted("file% left out", ((path, why_left_out(path)) for path in files if not is_image(path))))
    if folder is not None and any(path.is_dir() and not is_system(path.name) for path in places):
        notes.append(f"folders below are not looked into; {shlex.quote(f'images={folder}/**')} does that as well")
    if not paths:
        raise UserError("; ".join([otherwise, *notes]))
    return Chosen(paths, notes)


def distinct(paths: Sequence[Path]) -> list[str]:
    """What to call each image's files: its stem; its folder and stem where several have that; numbered if need be.

    No two are the same, also where case does not count.
    """
    stems = Counter(path.stem.casefold() for path in paths)
    taken: set[str] = set()
    names = []
    for path in paths:
        alone = stems[path.stem.casefold()] == 1
        stem = path.stem if alone else f"{path.absolute().parent.name}_{path.stem}"
        # File systems allow 255 bytes, and an ending is to follow.
        stem = name = printable(stem).encode()[:180].decode(errors="ignore")
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def batches(
    paths: Sequence[Path], rule: Rule, size: int, threads: int, skipped: list[Skipped]
) -> Generator[tuple[list[int], list[tuple[int, int]], Tensor], None, None]:
    """(numbers, widths and heights, images (batch, channels, height, width) uint8) of all that can be read, in order,
    as validation sees them.

    Args:
        paths: of the images.
        rule: what they become; the range of images of more than 8 bits is found from them if it has none.
        size: images in a batch; the last has what is left.
        threads: that decode.
        skipped: takes those that cannot be read.
    """
    nothing = np.zeros(256, np.uint8)
    listing = Listing([], list(paths), torch.zeros(len(paths), dtype=torch.int64), [None] * len(paths), nothing)
    sizes, rule, depth = prepared(listing, rule, threads, skipped)
    if depth is not None:
        log.info("%-9s %s", "values", depth.words())

    def pixels(number: int) -> np.ndarray:
        return image_and_region(listing, number, rule, sizes[number])[0]

    with closing(each(pixels, listing, list(sizes), threads, skipped)) as made:
        while part := list(islice(made, size)):
            numbers = [number for number, _ in part]
            images = torch.from_numpy(np.stack([image for _, image in part]))
            yield numbers, [sizes[number] for number in numbers], images.permute(0, 3, 1, 2)


def explain_by_arm(
    trained: Mapping[str, Classifier], images: Tensor, finished: Finished, kind: int | None
) -> dict[str, ArmOutput]:
    """What each arm of a run makes of a batch of images; `kind`: class of the maps, None for the predicted one."""
    data, method = finished.result.data, finished.config.cam.variant
    kinds = None if kind is None else torch.full((len(images),), kind, device=images.device)
    several = len(data.classes) if data.multilabel else None
    return {name: explain_batch(network, images, method, kinds, several) for name, network in trained.items()}


def explain_batch(
    network: Classifier, images: Tensor, method: CamVariant, kinds: Tensor | None, several: int | None
) -> ArmOutput:
    r"""A network's map and probabilities of each image.

    The predicted class is the most probable one, :math:`\arg\max_c y_c`; a probability is that of the softmax, in a
    multi-label run of the sigmoid.

    Args:
        network: of an arm.
        images: (batch, channels, height, width), 0..1.
        method: of the map.
        kinds: (batch,) int64, the class of each image's map; None: the predicted one.
        several: how many classes there are, in a multi-label run; None in any other.
    """
    predicted = None
    if kinds is None:
        with torch.no_grad():
            kinds = predicted = network.eval()(images).logits.argmax(1)
    target = kinds if several is None else one_hot(kinds, several)
    mapped = forward_maps(network, images, target, method)
    logits, _, maps = mapped
    probability = logits.softmax(1) if several is None else logits.sigmoid()
    predicted = logits.argmax(1) if predicted is None else predicted
    of_both = [probability.gather(1, which[:, None])[:, 0].cpu() for which in (kinds, predicted)]
    return ArmOutput(maps.float().cpu(), kinds.cpu(), of_both[0], predicted.cpu(), of_both[1], mapped.faults().cpu())


def describe(
    seen: Mapping[str, ArmOutput], at: int, path: Path, name: str, classes: Sequence[str]
) -> list[Explanation]:
    """One image of a batch as each arm explains it."""
    return [
        Explanation(
            printable(str(path)),
            arm,
            classes[int(part.kinds[at])],
            float(part.probability[at]),
            classes[int(part.predicted[at])],
            float(part.confidence[at]),
            float(concentration.entropy(part.maps[at : at + 1]).clamp_min(0)) + 0.0,  # of one cell it is -0.0
            bool(distribution.is_dead(part.maps[at : at + 1])),
            f"{MAPS}/{name}.png",
            f"{MAPS}/{name}.{arm}.npy",
        )
        for arm, part in seen.items()
    ]


def view_of(size: tuple[int, int], rule: Rule) -> overlay.View:
    """What is drawn of an image of this width and height: what the network sees of it, in the image's own aspect."""
    left, top, right, bottom = place(*size, rule)
    aspect = size[1] / size[0] if rule.fit is Fit.stretch else (bottom - top) / (right - left)
    return overlay.View((left, top, right, bottom), aspect)


def drawn(
    image: Tensor,
    maps: Mapping[str, Tensor],
    placement: Placement | None,
    view: overlay.View,
    of_image: Sequence[Explanation],
    asked: bool,
) -> overlay.Pixels:
    """The image of an image's maps.

    Args:
        image: (channels, height, width), 0..1.
        maps: by arm, (height, width) float32, before ReLU.
        placement: where their cells lie in the image; None: in equal tiles.
        view: what is drawn of them.
        of_image: the explanation by each arm.
        asked: the map's class was, rather than predicted.
    """
    nowhere = torch.zeros(image.shape[1:], dtype=torch.uint8)
    density = {arm: overlay.density(cells[None])[0] for arm, cells in maps.items()}
    strip = overlay.strip(overlay.Drawn(image, nowhere, "", density, {}, {}, {}, placement), view)
    captions = [[file_name(Path(of_image[0].image).name)], *(caption(entry, asked) for entry in of_image)]
    return overlay.captioned(strip, captions)


def write(folder: Path, png: overlay.Pixels, maps: Mapping[str, Tensor], of_image: Sequence[Explanation]) -> None:
    """Write the image of the maps, and the maps.

    Args:
        folder: where `maps/` is.
        png: the image.
        maps: by arm, (height, width) float32, before ReLU.
        of_image: the explanation by each arm.
    """
    write_atomically(folder / of_image[0].png, partial(overlay.save_png, png))
    for entry in of_image:
        write_atomically(folder / entry.npy, partial(np.save, arr=maps[entry.arm].numpy()))


def file_name(name: str) -> overlay.Line:
    """A file's name, whose end is what tells it from others."""
    return overlay.Line(printable(name[:-10]), printable(name[-10:]))


def caption(entry: Explanation, asked: bool) -> list[overlay.Line]:
    """What stands under an arm's map; `asked`: its class was, rather than predicted."""
    lines = [overlay.Line(entry.arm), overlay.Line(f"predicts {entry.predicted}", f" {entry.confidence:.0%}")]
    if asked:
        lines.append(overlay.Line(f"map of {entry.kind}", f" {entry.probability:.0%}"))
    if entry.dead:
        lines.append(overlay.Line("dead map: shows nothing"))
    return lines


COLUMNS: dict[str, Callable[[Explanation], str]] = {
    "picture": lambda entry: entry.image,
    "arm": lambda entry: entry.arm,
    "class": lambda entry: entry.kind,
    "probability": lambda entry: f"{entry.probability:.7g}",
    "predicted class": lambda entry: entry.predicted,
    "predicted probability": lambda entry: f"{entry.confidence:.7g}",
    "entropy": lambda entry: "" if entry.dead else f"{entry.entropy:.7g}",
    "dead": lambda entry: "yes" if entry.dead else "no",
    "png": lambda entry: entry.png,
    "npy": lambda entry: entry.npy,
}


def report(folder: Path, found: Sequence[Sequence[Explanation]], skipped: Sequence[Skipped], name: str | None) -> None:
    """Write the table and the list of what was left out, and say what was found and where everything is."""
    rows = ([cell(entry) for cell in COLUMNS.values()] for of_image in found for entry in of_image)
    write_csv(folder / TABLE, COLUMNS, rows)
    if skipped:
        write_text(folder / LEFT_OUT, "".join(f"{printable(entry.reason)}\n" for entry in skipped))
    log.info("\n%s\n", table(found, name))
    for entry in skipped[:SHOWN]:
        log.warning("left out: %s", printable(entry.reason))
    if len(skipped) > SHOWN:
        log.warning("left out: %d more, all listed in %s", len(skipped) - SHOWN, LEFT_OUT)
    log.info("maps         %s", folder / MAPS)
    log.info("table        %s", folder / TABLE)


def table(found: Sequence[Sequence[Explanation]], name: str | None) -> str:
    """The first images in a line each: what each arm predicts, and the entropy of its map in nats.

    Args:
        found: of each image, the explanation by each arm.
        name: of the class that was asked for, whose probability is given then, or None.
    """
    asked = [] if name is None else [f"p of {cut(name, 16)}"]
    lines = [["image", *(head for entry in found[0] for head in (entry.arm, *asked, "entropy"))]]
    for of_image in found[:SHOWN]:
        cells = [cut(of_image[0].image, 48, end=True)]
        for entry in of_image:
            cells.append(f"{cut(entry.predicted, 24)} {entry.confidence:.2f}")
            cells += [f"{entry.probability:.2f}"] * len(asked)
            cells.append("dead" if entry.dead else f"{entry.entropy:.2f}")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    if len(found) > SHOWN:
        rows.append(f"and {len(found) - SHOWN} more")
    return "\n".join(rows)


def cut(text: str, most: int, end: bool = False) -> str:
    """At most so many characters of a text: its beginning, or its end, and an ellipsis."""
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if end else f"{text[: most - 1]}…"
