"""A user's own images: one folder per class, with masks or boxes if there are any.

    root/[images/]{train,val}/CLASS/image.jpg   the images
    root/masks/{train,val}/CLASS/image.png      0 background, `void` left out of every score, other values the object
    annotations                                 boxes and outlines in any format of :mod:`camtrain.data.annotations`

Coordinates are pixels of the image as displayed (after the rotation that its EXIF data asks for). Annotations of
another class than the image's are not its region. A mask takes precedence over annotations.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from camtrain.config.schema import FolderConfig
from camtrain.data.annotations.find import FOLDERS
from camtrain.data.annotations.match import Known
from camtrain.data.annotations.use import annotate
from camtrain.data.decode import mask_values
from camtrain.data.listing import SUFFIXES, BadImage, Listing, Mask, Region
from camtrain.errors import UserError
from camtrain.regions import VOID

log = logging.getLogger("camtrain")

_CHECKED_MASKS = 50  # masks decoded at the start to see whether their values make sense


def splits(config: FolderConfig, _seed: int = 0, /) -> tuple[Listing, Listing]:
    """Training and validation split; errors as for :func:`list_folder`."""
    train = _list(config, config.train_split)
    val = _list(config, config.val_split, train.classes)
    _annotate(config, [(config.train_split, train), (config.val_split, val)])
    return train, val


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
    listing = _list(config, split, classes, fewest)
    _annotate(config, [(split, listing)])
    return listing


def _list(config: FolderConfig, split: str, classes: Sequence[str] | None = None, fewest: int = 2) -> Listing:
    """One split, whose regions are its masks alone."""
    root = Path(config.root).expanduser()
    base = _split_folder(root, split)
    if classes is None:
        classes = _class_folders(base)
        if len(classes) < fewest:
            needed = "one class folder is" if fewest == 1 else "two class folders are"
            raise UserError(f"{base}: at least {needed} needed, found {len(classes)}")
    paths, targets = _images(base, classes)
    masks = {name: _masks(root / "masks" / split / name) for name in classes}
    regions: list[Region] = [
        Mask(masks[path.parent.name][path.stem]) if path.stem in masks[path.parent.name] else None for path in paths
    ]
    meaning = np.ones(256, np.uint8)
    meaning[0] = 0
    if config.void is not None:
        meaning[config.void] = VOID
        _check_mask_values([region.path for region in regions if isinstance(region, Mask)], config.void)
    return Listing(classes, paths, torch.tensor(targets), regions, meaning)


def _annotate(config: FolderConfig, splits: Sequence[tuple[str, Listing]]) -> None:
    """Add the annotations to the listings of these splits, and say what was read; errors as for :func:`annotate`."""
    root = Path(config.root).expanduser()
    bases = {split: base for split in (config.train_split, config.val_split) if (base := _base(root, split))}
    listings = [listing for _, listing in splits]
    said = annotate(root, config.annotations, list(bases.values()), _known(bases, dict(splits)), listings)
    for line in said.lines:
        log.info("%-9s %s", "boxes", line)


def _known(bases: Mapping[str, Path], listings: Mapping[str, Listing]) -> Iterator[Known]:
    """Images of all splits, of those that are not listed as well: a bare name may be theirs."""
    for split, base in bases.items():
        if split in listings:
            listing = listings[split]
            classes = [listing.classes[number] for number in listing.targets.tolist()]
            pairs = list(zip(listing.paths, classes, strict=True))
        else:
            pairs = [(path, name) for name in _class_folders(base) for path in _files(base / name)]
        for path, name in pairs:
            yield Known(path, name, base.name, path.relative_to(base.parent).parts)


def _images(base: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The images of a split's folder and their class numbers."""
    paths: list[Path] = []
    targets: list[int] = []
    for name in _class_folders(base):
        if name not in classes:
            raise UserError(f"{base / name}: this class has no images in the training split; move it or add some")
        found = _files(base / name)
        if not found:
            raise UserError(
                f"{base / name}: no images in this class folder ({' '.join(SUFFIXES)}); remove it or add some"
            )
        paths += found
        targets += [classes.index(name)] * len(found)
    if not paths:
        raise UserError(f"{base}: no class folders; expected {base}/CLASS/image.jpg")
    return paths, targets


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _class_folders(base: Path) -> list[str]:
    """Folders of classes; one called as annotations' folders are is none, unless it holds images."""
    return sorted(
        entry.name
        for entry in base.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
        if entry.name.casefold() not in FOLDERS or _files(entry)
    )


def _check_mask_values(masks: Sequence[Path], void: int) -> None:
    if not masks:
        return
    some = masks[:: max(1, len(masks) // _CHECKED_MASKS)]
    seen: set[int] = set()
    for mask in some:
        try:
            seen |= {int(value) for value in np.unique(mask_values(mask))}
        except BadImage:
            continue  # reported when it is read
    if void in seen and seen <= {0, void}:
        raise UserError(
            f"{masks[0].parent}: the masks hold only {sorted(seen)}, and dataset.void={void} is left out of"
            f" every score; if {void} marks the object, set dataset.void=null"
        )


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


def _masks(folder: Path) -> dict[str, Path]:
    """The masks in a folder, by their images' names without suffix."""
    return {path.stem: path for path in folder.iterdir() if path.suffix == ".png"} if folder.is_dir() else {}
