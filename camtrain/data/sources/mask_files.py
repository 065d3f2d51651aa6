"""The masks of a user's own images: where they lie, which image each belongs to, and what their values mean.

    root/masks/{train,val}/CLASS/NAME.png   or in a folder of another usual name, or without the class or the split
    root/{train,val}/CLASS/masks/NAME.png   below the class folder
    root/{train,val}/CLASS/NAME_mask.png    beside the image

NAME is the image's name, with or without its suffix, and with or without an ending such as `_mask`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from camtrain.data import masks
from camtrain.data.decode import mask_values
from camtrain.data.files import below, counted, is_image, open_image, why_left_out
from camtrain.data.listing import BadImage, Mask
from camtrain.data.masks import Kind, Shape
from camtrain.errors import UserError
from camtrain.regions import VOID

FOLDERS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations", "seg"),
    *("segmentationclass", "gt", "groundtruth", "ground_truth", "trimaps"),
}
"""Names of folders of masks, in lower case."""

ENDING = re.compile(r"(?i)[._ -](mask|masks|seg|segmentation|label|labels|gt|groundtruth|trimap|matte)$")

SAMPLE = 50
"""Masks of a split that are looked at, spread evenly, to see what their values mean."""

FEW = 5
"""Files of a class folder that are called like masks of others in it, of which it is seen whether they are masks."""

COLOURS = 64
"""A mask has fewer colours than this, or is grey: what lies beside images and has more is an image."""

Place = tuple[Path, str]
"""A folder relative to the class folders', and a name."""


class Split(NamedTuple):
    """A split of the data set."""

    name: str
    base: Path  # the folder of its class folders
    images: Callable[[], Sequence[Path]]


class Found(NamedTuple):
    """The masks of a split."""

    of: dict[Path, Path]  # by image
    notes: list[str]


def is_mask_folder(name: str, split: str = "") -> bool:
    """Whether a folder is called like one of masks, also with the split's name before or after that."""
    plain = name.casefold()
    around = (plain.removeprefix(split.casefold()), plain.removesuffix(split.casefold())) if split else (plain,)
    return any(part.strip("_- ") in FOLDERS for part in around)


def apart(base: Path, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images of a class folder, and the masks among them.

    Args:
        base: the class folder.
        files: in it and below that are called like images.
    """
    above = len(base.parts)
    found = {file for file in files if any(map(is_mask_folder, file.parts[above:-1]))}
    if len(found) == len(files):  # a folder that happens to have such a name
        found = set()
    beside = [file for file in files if ENDING.search(file.stem) and file not in found]
    if beside:
        names = {(file.parent, _name(file.stem)) for file in files}
        beside = [file for file in beside if (file.parent, _without_ending(file)) in names]
        if all(map(_looks_like_a_mask, _spread(beside, FEW))):
            found |= set(beside)
    return [file for file in files if file not in found], sorted(found)


def find(root: Path, split: Split, inside: Sequence[Path], other: Split | None) -> Found:
    """Which mask belongs to which image.

    Args:
        root: of the data set.
        split: whose masks are looked for.
        inside: masks among its class folders, from :func:`apart`.
        other: the other split, if it is there: where both may have masks in one folder, a mask that fits images of both
            is not used.
    """
    base = split.base
    folders = list(_folders(root, split))
    files = [(file, folder) for folder in folders for file in below(folder)]
    unused = [(file, why_left_out(file)) for file, _ in files if not is_image(file) and not _is_text(file)]
    candidates = [pair for pair in files if is_image(pair[0])] + [(file, base) for file in inside]
    places: dict[Place, Path] = {}
    for file, folder in candidates:
        parts = file.relative_to(folder).parent.parts
        at = Path(*(part for part in parts if folder != base or not is_mask_folder(part)))
        for name in (_name(file.stem), _without_ending(file)):
            places.setdefault((at, name), file)
    of, ambiguous = _matched(base, split.images(), places)
    of_other = _of_other(other, set(folders) & set(_folders(root, other)), candidates, places) if other else set()
    of_both = of_other & set(of.values())
    of = {image: mask for image, mask in of.items() if mask not in of_both}
    reasons = dict.fromkeys(places.values(), "no image here has its name")
    reasons |= dict.fromkeys(ambiguous, "its name fits images of several classes")
    reasons |= dict.fromkeys(of_both, "its name fits images of both splits")
    used = set(of.values()) | (of_other - of_both - ambiguous)
    unused += [(file, reasons.get(file, "its image has another mask")) for file, _ in candidates if file not in used]
    return Found(of, [*counted("mask% not used", unused), *_shared(of)])


def _of_other(
    other: Split, shared: Collection[Path], candidates: Sequence[tuple[Path, Path]], places: Mapping[Place, Path]
) -> set[Path]:
    """Masks in folders of both splits that fit images of the other one."""
    there = {file for file, folder in candidates if folder in shared}
    if not there:
        return set()
    of, ambiguous = _matched(other.base, other.images(), {at: file for at, file in places.items() if file in there})
    return ambiguous | set(of.values())


class Judged(NamedTuple):
    """What is known of a split's masks."""

    meaning: np.ndarray  # (256,) uint8, see :func:`camtrain.data.masks.meaning`
    held: frozenset[int]  # values of the masks that were looked at
    notes: list[str]


def judged(used: Sequence[Path], void: int | str | None) -> Judged:
    """What the values of a split's masks stand for.

    Raises:
        UserError: all that they mark is void, or some are black and white and others hold label numbers.
    """
    shapes: dict[Path, Shape] = {}
    for file in _spread(used, SAMPLE):
        try:
            shapes[file] = masks.shape_of(mask_values(Mask(file, stored=False)))
        except BadImage:
            continue  # reported when it is read
    if not shapes:
        return Judged(masks.meaning([], void), frozenset(), [])
    some = list(shapes.values())
    total, kind = masks.together(some), masks.kind_together(some)
    values = np.flatnonzero(total.counts).tolist()
    first = next(iter(shapes))
    if isinstance(void, int) and void in values and set(values) <= {0, void}:
        raise UserError(
            f"{first.parent}: the masks hold only {values}, and dataset.void={void} is left out of"
            f" every score; if {void} marks the object, set dataset.void=null"
        )
    meant = masks.meaning(some, void)
    if not isinstance(void, int) and kind is Kind.soft:
        labels = min(masks.SMALL_LABELS, masks.half(total))
        small = [file for file, shape in shapes.items() if 0 < _most(shape) < labels]
        if small:
            raise UserError(
                f"{small[0]}: this mask holds no value above {_most(shapes[small[0]])}, others have grey levels up to"
                f" {values[-1]}; store all masks alike, as 0 and 255"
            )
    return Judged(meant, frozenset(values), [*_words(some, void, int(meant[VOID]))])


def _words(shapes: Sequence[Shape], void: int | str | None, of_255: int) -> Iterator[str]:
    """What the masks hold, and what is made of it."""
    total, kind = masks.together(shapes), masks.kind_together(shapes)
    values = np.flatnonzero(total.counts).tolist()
    held = ", ".join(map(str, values)) if len(values) <= 6 else f"{len(values)} levels from {values[0]} to {values[-1]}"
    object_is = "all but 0 is the object"
    if isinstance(void, int):
        object_is = f"all but 0 and {void} is the object; {void} is void" if void in values else object_is
    elif kind is Kind.soft:
        object_is = f"a white object with soft edges, to which {masks.half(total)} and more belong"
    elif total.counts[VOID] and of_255 == VOID:
        object_is = "255 is a thin rim and void, in no score; the others but 0 are the object"
    elif total.counts[VOID] and kind is Kind.labels and void is not None:
        object_is = (
            "255 fills areas, and is object like the others but 0; dataset.void=255 leaves it out of every score"
        )
    yield f"masks hold {held} ({len(shapes)} looked at): {object_is}"
    if not total.counts[0]:
        yield "masks hold no 0: all of each image counts as object; background must be 0"


def _folders(root: Path, of: Split) -> Iterator[Path]:
    """Folders outside the split's own that may hold its masks, `masks` first."""
    split, base = of.name, of.base
    if Path(split).is_absolute():
        root, split = base.parent, base.name
    folders = [entry for entry in root.iterdir() if entry.is_dir() and entry != base]
    named = [entry for entry in folders if is_mask_folder(entry.name, split)]
    for entry in sorted(named, key=lambda entry: (entry.name != "masks", entry.name)):
        if is_mask_folder(entry.name) and (entry / split).is_dir():
            yield entry / split
        elif not any((entry / other.name).is_dir() for other in base.parent.iterdir()):  # masks of other splits alone
            yield entry


def _matched(base: Path, images: Sequence[Path], places: Mapping[Place, Path]) -> tuple[dict[Path, Path], set[Path]]:
    """Each image's mask: from its own folder, its class folder or from beside these, in this order.

    Returns:
        Masks by image, and those that might belong to images of several classes.
    """
    of: dict[Path, Path] = {}
    loose: dict[Path, list[Path]] = {}
    for image in images if places else ():
        at = image.relative_to(base).parent
        names = [_name(image.name), _name(image.stem)]
        ways = [(folder, name) for folder in dict.fromkeys((at, Path(at.parts[0]))) for name in names]
        mask = next((places[way] for way in ways if way in places), None)
        if mask is not None:
            of[image] = mask
            continue
        mask = next((places[Path(), name] for name in names if (Path(), name) in places), None)
        if mask is not None:
            loose.setdefault(mask, []).append(image)
    ambiguous = set()
    for mask, several in loose.items():
        if len({image.parent for image in several}) > 1:
            ambiguous.add(mask)
        else:
            of |= dict.fromkeys(several, mask)
    return of, ambiguous - set(of.values())


def _shared(of: Mapping[Path, Path]) -> Iterator[str]:
    twice = [mask for mask, count in Counter(of.values()).items() if count > 1]
    if twice:
        first = [image for image, mask in of.items() if mask == twice[0]]
        yield (
            f"{len(twice)} mask{'s' * (len(twice) > 1)} with several images of the same name, all of which use it; the"
            f" first: {twice[0]}, of {' and '.join(image.name for image in first)}"
        )


def _looks_like_a_mask(file: Path) -> bool:
    """Whether a file that is called like a mask is none but an image: few colours, or grey."""
    try:
        with open_image(file) as opened:
            if opened.mode not in ("RGB", "RGBA", "CMYK", "YCbCr"):
                return True
            small = opened.convert("RGB")
            pixels = np.asarray(small)
            return small.getcolors(COLOURS) is not None or bool((pixels.max(2) - pixels.min(2) <= 16).all())
    except Exception:  # Pillow's readers raise anything on a damaged file
        return True


def _spread(files: Sequence[Path], most: int) -> Sequence[Path]:
    """At most so many of them, evenly."""
    return [files[number * len(files) // most] for number in range(most)] if len(files) > most else files


def _is_text(file: Path) -> bool:
    """Annotations, which masks may lie beside."""
    return file.suffix.lower() in (".txt", ".xml", ".json", ".csv", ".yaml", ".md")


def _most(shape: Shape) -> int:
    return int(np.flatnonzero(shape.counts)[-1])


def _name(text: str) -> str:
    """The same for both of Unicode's ways to write an accent, of which file systems choose one."""
    return unicodedata.normalize("NFC", text)


def _without_ending(file: Path) -> str:
    """The name of a mask's image."""
    return ENDING.sub("", _name(file.stem))
