"""A user's own images: one folder per class, with masks or boxes if there are any.

    root/[images/]{train,val}/CLASS/image.jpg   the images, also in folders below
    root/masks/{train,val}/CLASS/image.png      0 background, `void` left out of every score, other values the object;
                                                other places and values: see mask_files
    root/boxes.csv                              columns path, xmin, ymin, xmax, ymax, and class if there are several
    root/FILE.json                              instead, where `boxes` names it: COCO, with polygons or boxes

Paths in the boxes file are relative to root, with or without ``images/``; coordinates are pixels of the image as
displayed (after the rotation that its EXIF data asks for), maximum edges exclusive. Boxes of another class than the
image's are ignored. A mask takes precedence over boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from camtrain.config.schema import FolderConfig
from camtrain.data.files import below, counted, is_image, is_system, why_left_out
from camtrain.data.listing import Listing, Mask
from camtrain.data.sources import mask_files
from camtrain.data.sources.box_file import read_boxes
from camtrain.errors import UserError
from camtrain.regions import VOID


def splits(config: FolderConfig, _seed: int = 0, /) -> tuple[Listing, Listing]:
    """Training and validation split.

    Raises:
        UserError: as for :func:`list_folder`, or the masks of one split were understood otherwise than the other's.
    """
    train = list_folder(config, config.train_split)
    val = list_folder(config, config.val_split, train.classes)
    if all(any(isinstance(region, Mask) for region in split.regions) for split in (train, val)):
        for value in (1, VOID):
            if train.meaning[value] != val.meaning[value]:
                raise UserError(
                    f"{config.root}: the masks' value {value} seems to be {_meant(train, value)} in"
                    f" {config.train_split} and {_meant(val, value)} in {config.val_split}; say what it is by"
                    " dataset.void=VALUE or dataset.void=null"
                )
    return train, val


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
        UserError: the layout is not the one above, or a line of the boxes file is malformed.
    """
    root = Path(config.root).expanduser()
    base = _split_folder(root, split)
    if classes is None:
        classes = _class_folders(base)
        if len(classes) < fewest:
            needed = "one class folder is" if fewest == 1 else "two class folders are"
            raise UserError(f"{base}: at least {needed} needed, found {len(classes)}")
    found = _files(base, classes)
    class_of = {path: classes[number] for path, number in zip(found.paths, found.targets, strict=True)}
    boxes = read_boxes(root, config.boxes, class_of)
    masks = mask_files.find(root, split, base, found.paths, found.masks)
    meaning, on_masks = mask_files.judged(list(masks.of.values()), config.void)
    return Listing(
        classes,
        found.paths,
        torch.tensor(found.targets),
        [
            Mask(masks.of[path], stored=False) if path in masks.of else tuple(boxes.get(path, ())) or None
            for path in found.paths
        ],
        meaning,
        [*_notes(base, found), *on_masks, *masks.notes],
    )


class _Files(NamedTuple):
    """What a split's folder holds."""

    paths: list[Path]  # of the images
    targets: list[int]  # their class numbers
    masks: list[Path]  # beside or below them
    left_out: list[tuple[Path, str]]  # with the reason


def _files(base: Path, classes: Sequence[str]) -> _Files:
    """The images of a split's folder and their class numbers, and what else it holds."""
    found = _Files([], [], [], [])
    for name in _class_folders(base):
        if name not in classes:
            raise UserError(f"{base / name}: this class has no images in the training split; move it or add some")
        files = below(base / name)
        called = list(filter(is_image, files))
        images, masks = mask_files.apart(base / name, called)
        others = files if len(called) < len(files) else ()
        left_out = [(path, why_left_out(path)) for path in others if not is_image(path)]
        if not images:
            why = "".join(f" ({line})" for line in counted("file% left out", left_out))
            raise UserError(f"{base / name}: no images in this class folder{why}; remove it or add some")
        found.paths.extend(images)
        found.targets.extend([classes.index(name)] * len(images))
        found.masks.extend(masks)
        found.left_out.extend(left_out)
    if not found.paths:
        raise UserError(f"{base}: no class folders; expected {base}/CLASS/image.jpg")
    alone = [entry for entry in sorted(base.iterdir()) if is_image(entry) and not is_system(entry.name)]
    found.left_out.extend((entry, "in no class folder") for entry in alone if entry.is_file())
    return found


def _notes(base: Path, found: _Files) -> Iterator[str]:
    """What was left out, and what lies deeper than it need."""
    yield from counted("file% left out", found.left_out)
    deep = [path for path in found.paths if len(path.parts) > len(base.parts) + 2]
    if deep:
        yield f"{len(deep)} image{'s' * (len(deep) > 1)} in folders below the class folders; the first: {deep[0]}"


def _class_folders(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not is_system(entry.name))


def _split_folder(root: Path, split: str) -> Path:
    for base in (root / split, root / "images" / split):
        if base.is_dir():
            return base
    raise UserError(
        f"{root}: neither {split}/ nor images/{split}/ is there; expected {split}/CLASS/image.jpg, or name the"
        " folders that are there by dataset.train_split and dataset.val_split"
    )
