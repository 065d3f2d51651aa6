"""A user's own images: one folder per class, with masks or boxes if there are any.

    root/[images/]{train,val}/CLASS/image.jpg   the images, also in folders below
    root/masks/{train,val}/CLASS/image.png      0 background, `void` left out of every score, other values the object;
                                                other places and values: see mask_files
    annotations                                 boxes and outlines in any format of :mod:`camtrain.data.annotations`

Coordinates are pixels of the image as displayed (after the rotation that its EXIF data asks for). Annotations of
another class than the image's are not its region. A mask takes precedence over annotations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from camtrain.config.schema import FolderConfig
from camtrain.data.annotations.find import FOLDERS, names_classes
from camtrain.data.annotations.match import Known
from camtrain.data.annotations.use import annotate
from camtrain.data.files import below, counted, is_image, is_system, why_left_out
from camtrain.data.listing import Listing, Mask, Region
from camtrain.data.sources import mask_files
from camtrain.data.sources.mask_files import Split
from camtrain.errors import UserError
from camtrain.regions import VOID


def splits(config: FolderConfig, _seed: int = 0, /) -> tuple[Listing, Listing]:
    """Training and validation split.

    Raises:
        UserError: as for :func:`list_folder`, or the masks of one split were understood otherwise than the other's.
    """
    train, in_train = _list(config, config.train_split)
    val, in_val = _list(config, config.val_split, train.classes)
    _annotate(config, [(config.train_split, train, in_train), (config.val_split, val, in_val)])
    if in_train.values and in_val.values:
        _agree(config, (train, in_train.values), (val, in_val.values))
    return train, val


def _agree(config: FolderConfig, of_train: tuple[Listing, Set[int]], of_val: tuple[Listing, Set[int]]) -> None:
    """Let the masks' values that are in one split's alone mean in the other's what they mean there.

    Args:
        config: of the data set.
        of_train: the training split, and the values that its masks hold.
        of_val: the same of the validation split.

    Raises:
        UserError: a value that is in both seems to be void, or background, in one of them only.
    """
    (train, in_train), (val, in_val) = of_train, of_val
    differ = np.flatnonzero(train.meaning != val.meaning).tolist()
    if 1 not in differ:  # of soft edges on both sides the levels need not be equal
        differ = [value for value in differ if value == VOID]
    for value in reversed(differ):
        if value in in_train and value in in_val:
            remedy = "say what it is by dataset.void=VALUE or dataset.void=null"
            raise UserError(
                f"{config.root}: the masks' value {value} seems to be {_meant(train, value)} in {config.train_split}"
                f" and {_meant(val, value)} in {config.val_split};"
                f" {remedy if value == VOID else 'store the masks of both alike, as 0 and 255'}"
            )
        giver, taker = (val, train) if value in in_val else (train, val)
        taker.meaning[value] = giver.meaning[value]


def _meant(split: Listing, value: int) -> str:
    return {0: "background", VOID: "void"}.get(int(split.meaning[value]), "the object")


def validation(config: FolderConfig, _seed: int = 0, /) -> Listing:
    """The validation split alone, with its own classes; errors as for :func:`list_folder`."""
    return list_folder(config, config.val_split, fewest=1)


def list_folder(config: FolderConfig, split: str, classes: Sequence[str] | None = None, fewest: int = 2) -> Listing:
    """One split of a folder data set.

    Args:
        config: where, and how masks and boxes are read.
        split: name of its folder.
        classes: of the training split, for another split; None for the training split itself.
        fewest: smallest number of classes.

    Raises:
        UserError: the layout is not the one above, or annotations cannot be used.
    """
    listing, files = _list(config, split, classes, fewest)
    _annotate(config, [(split, listing, files)])
    return listing


def _list(
    config: FolderConfig, split: str, classes: Sequence[str] | None = None, fewest: int = 2
) -> tuple[Listing, _Files]:
    """One split, whose regions are its masks alone, and what its folder holds."""
    root = Path(config.root).expanduser()
    base = _split_folder(root, split)
    if classes is None:
        classes = _class_folders(base)
        if len(classes) < fewest:
            needed = "one class folder is" if fewest == 1 else "two class folders are"
            raise UserError(f"{base}: at least {needed} needed, found {len(classes)}")
    found = _files(base, classes)
    bases = [(name, _base(root, name)) for name in (config.train_split, config.val_split)]
    other = next((Split(name, at, partial(_all_images, at)) for name, at in bases if at not in (None, base)), None)
    masks = mask_files.find(root, Split(split, base, lambda: found.paths), found.masks, other)
    meaning, values, on_masks = mask_files.judged(list(masks.of.values()), config.void)
    regions: list[Region] = [Mask(masks.of[path], stored=False) if path in masks.of else None for path in found.paths]
    targets = torch.tensor(found.targets)
    listing = Listing(classes, found.paths, targets, regions, meaning, [*on_masks, *masks.notes])
    return listing, found._replace(values=values)


def _annotate(config: FolderConfig, splits: Sequence[tuple[str, Listing, _Files]]) -> None:
    """Add the annotations to the listings, and note what was read and what was not; errors as for :func:`annotate`."""
    root = Path(config.root).expanduser()
    bases = {split: base for split in (config.train_split, config.val_split) if (base := _base(root, split))}
    listings = {split: listing for split, listing, _ in splits}
    images = _known(bases, listings)
    said = annotate(root, config.annotations, [*bases.values()], images, [listing for _, listing, _ in splits])
    for split, listing, files in splits:
        listing.notes = [*_notes(_split_folder(root, split), files, said.files), *listing.notes, *said.lines]


def _known(bases: Mapping[str, Path], listings: Mapping[str, Listing]) -> Iterator[Known]:
    """Images of all splits, of those that are not listed as well: a bare name may be theirs."""
    for split, base in bases.items():
        if split in listings:
            listing = listings[split]
            classes = [listing.classes[number] for number in listing.targets.tolist()]
            pairs = list(zip(listing.paths, classes, strict=True))
        else:
            pairs = [(path, path.relative_to(base).parts[0]) for path in _all_images(base)]
        for path, name in pairs:
            yield Known(path, name, base.name, path.relative_to(base.parent).parts)


class _Files(NamedTuple):
    """What a split's folder holds."""

    paths: list[Path]  # of the images
    targets: list[int]  # their class numbers
    masks: list[Path]  # beside or below them
    left_out: list[tuple[Path, str]]  # with the reason
    values: frozenset[int] = frozenset()  # of the masks


def _files(base: Path, classes: Sequence[str]) -> _Files:
    """The images of a split's folder and their class numbers, and what else it holds."""
    found = _Files([], [], [], [])
    for name in _class_folders(base):
        if name not in classes:
            raise UserError(f"{base / name}: this class has no images in the training split; move it or add some")
        images, masks, others = _images(base / name)
        left_out = [(path, why_left_out(path)) for path in others]
        if not images:
            why = "".join(f" ({line})" for line in counted("file% left out", left_out))
            raise UserError(f"{base / name}: no images in this class folder{why}; remove it or add some")
        found.paths.extend(images)
        found.targets.extend([classes.index(name)] * len(images))
        found.masks.extend(masks)
        found.left_out.extend(left_out)
    if not found.paths:
        raise UserError(f"{base}: no class folders; expected {base}/CLASS/image.jpg")
    alone = [entry for entry in sorted(base.iterdir()) if entry.is_file() and not is_system(entry.name)]
    found.left_out.extend((entry, "in no class folder" if is_image(entry) else why_left_out(entry)) for entry in alone)
    return found


def _all_images(base: Path) -> list[Path]:
    """The images of a split."""
    return [path for name in _class_folders(base) for path in _images(base / name)[0]]


def _images(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, masks and other files of a class folder."""
    files = below(folder)
    called = list(filter(is_image, files))
    others = [path for path in files if not is_image(path)] if len(called) < len(files) else []
    return *mask_files.apart(folder, called), others


def _notes(base: Path, found: _Files, annotations: Collection[Path]) -> Iterator[str]:
    """What was left out, apart from annotations, and what lies deeper than it need."""
    known = {path for path, _ in found.left_out if path in annotations or (annotations and names_classes(path))}
    yield from counted("file% left out", [entry for entry in found.left_out if entry[0] not in known])
    deep = [path for path in found.paths if len(path.parts) > len(base.parts) + 2]
    if deep:
        yield f"{len(deep)} image{'s' * (len(deep) > 1)} in folders below the class folders; the first: {deep[0]}"


def _class_folders(base: Path) -> list[str]:
    """Folders of classes; one called as annotations' folders are is none, unless it holds images."""
    names = sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not is_system(entry.name))
    return [name for name in names if name.casefold() not in FOLDERS or any(map(is_image, below(base / name)))]


def _split_folder(root: Path, split: str) -> Path:
    base = _base(root, split)
    if base is not None:
        return base
    raise UserError(
        f"{root}: neither {split}/ nor images/{split}/ is there; expected {split}/CLASS/image.jpg, or name the"
        " folders that are there by dataset.train_split and dataset.val_split"
    )


def _base(root: Path, split: str) -> Path | None:
    return next((base for base in (root / split, root / "images" / split) if base.is_dir()), None)
