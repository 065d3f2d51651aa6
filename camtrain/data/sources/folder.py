"""A person's own images: one folder per class, with masks or boxes if there are any.

    root/[images/]{train,val}/CLASS/image.jpg
    root/masks/{train,val}/CLASS/image.png    0 background, `void` left out of every score, other values the object
    root/boxes.csv                              columns path, xmin, ymin, xmax, ymax, and class if there are several
    root/FILE.json                              instead, with `boxes` naming it: COCO; polygons, or boxes without them

Paths in the boxes file are relative to root, with or without ``images/``; coordinates are pixels of the image as
displayed (after the rotation that its EXIF data asks for), maximum edges exclusive. Boxes of another class than the
image's are not its object. A mask is preferred to boxes.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camtrain.config.schema import FolderConfig
from camtrain.data.decode import mask_values
from camtrain.data.listing import SUFFIXES, BadImage, Box, Listing, Mask
from camtrain.errors import UserError
from camtrain.regions import VOID

_CHECKED_MASKS = 50  # masks decoded at the start to see whether their values make sense


def list_folder(config: FolderConfig, split: str, classes: Sequence[str] | None = None, fewest: int = 2) -> Listing:
    """One split of a folder data set.

    Args:
        config: where, and how masks and boxes are read.
        split: name of its folder.
        classes: of the training split, for another split; None for the training split itself.
        fewest: classes that there must be.

    Raises:
        UserError: the layout is not the one above, or a line of the boxes file makes no sense.
    """
    root = Path(config.root).expanduser()
    base = _split_folder(root, split)
    classes = classes or _class_names(base, fewest)
    paths: list[Path] = []
    targets: list[int] = []
    for name in sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        if name not in classes:
            raise UserError(f"{base / name}: this class has no images in the training split; move it or add some")
        found = sorted(
            path
            for path in (base / name).iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not found:
            raise UserError(
                f"{base / name}: no images in this class folder ({' '.join(SUFFIXES)}); remove it or add some"
            )
        paths += found
        targets += [classes.index(name)] * len(found)
    if not paths:
        raise UserError(f"{base}: no class folders; expected {base}/CLASS/image.jpg")
    boxes = read_boxes(root, config.boxes, set(paths))
    masks = {name: _masks(root / "masks" / split / name) for name in classes}
    regions = [
        Mask(masks[path.parent.name][path.stem])
        if path.stem in masks[path.parent.name]
        else tuple(boxes.get(path, ())) or None
        for path in paths
    ]
    meaning = np.ones(256, np.uint8)
    meaning[0] = 0
    if config.void is not None:
        meaning[config.void] = VOID
        _check_mask_values([region.path for region in regions if isinstance(region, Mask)], config.void)
    return Listing(classes, paths, torch.tensor(targets), regions, meaning)


def _check_mask_values(masks: Sequence[Path], void: int) -> None:
    if not masks:
        return
    some = masks[:: max(1, len(masks) // _CHECKED_MASKS)]
    seen: set[int] = set()
    for mask in some:
        try:
            seen |= {int(value) for value in np.unique(mask_values(mask))}
        except BadImage:
            continue  # said when it is read
    if void in seen and seen <= {0, void}:
        raise UserError(
            f"{masks[0].parent}: the masks hold only {sorted(seen)}, and dataset.void={void} is left out of"
            f" every score; if {void} marks the object, set dataset.void=null"
        )


def _split_folder(root: Path, split: str) -> Path:
    for base in (root / split, root / "images" / split):
        if base.is_dir():
            return base
    raise UserError(
        f"{root}: neither {split}/ nor images/{split}/ is there; expected {split}/CLASS/image.jpg, or name the"
        " folders that are there by dataset.train_split and dataset.val_split"
    )


def _class_names(base: Path, fewest: int) -> list[str]:
    names = sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < fewest:
        needed = "one class folder is" if fewest == 1 else "two class folders are"
        raise UserError(f"{base}: at least {needed} needed, found {len(names)}")
    return names


def _masks(folder: Path) -> dict[str, Path]:
    """The masks in a folder by the names of their images without suffix."""
    return {path.stem: path for path in folder.iterdir() if path.suffix == ".png"} if folder.is_dir() else {}


def read_boxes(root: Path, name: str | None, images: set[Path]) -> dict[Path, list[Box]]:
    """Boxes of each image's own class.

    Args:
        root: of the data set.
        name: of the file, relative to root; None for no boxes.
        images: of the split; what the file says of others is not read.

    Raises:
        UserError: the file cannot be read, names an image that is not there, or has boxes of other classes only for
            some image. A file that was asked for by another name than the default must be there.
    """
    if name is None:
        return {}
    file = root / name
    if not file.is_file():
        if name == FolderConfig.boxes:
            return {}
        raise UserError(f"dataset.boxes={name}: there is no file {file}")
    rows = _coco_rows(file) if file.suffix.lower() == ".json" else _csv_rows(file)
    boxes: dict[Path, list[Box]] = {}
    others: dict[Path, str] = {}
    named = {path.relative_to(root).as_posix(): path for path in images if path.is_relative_to(root)}
    for given, kind, box in rows:
        path = named.get(given)
        if path is None:
            ways = root / given, root / "images" / given, root / given.removeprefix("images/")
            path = next((way for way in ways if way in images), None)
        if path is not None:
            if kind is not None and kind != path.parent.name:
                others.setdefault(path, f"{box.where}: {kind}")
            else:
                boxes.setdefault(path, []).append(box)
        elif not any(way.is_file() for way in ways):
            raise UserError(
                f"{box.where}: there is no image {given or '(empty path)'} in {root}; correct or remove the line"
            )
    for path, other in others.items():
        if path not in boxes:
            raise UserError(
                f"{other}: no box of {path} is of its class {path.parent.name}; classes are named after their folders"
            )
    return boxes


def _csv_rows(file: Path) -> Iterator[tuple[str, str | None, Box]]:
    """Path, class (None if there is no such column) and box of each line."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened)
            missing = {"path", "xmin", "ymin", "xmax", "ymax"} - set(rows.fieldnames or ())
            if missing:
                raise UserError(f"{file}: no column {', '.join(sorted(missing))}; needed: path, xmin, ymin, xmax, ymax")
            for row in rows:
                where = f"{file} line {rows.line_num}"
                edges = [row[column] for column in ("xmin", "ymin", "xmax", "ymax")]
                yield row["path"] or "", row.get("class") or None, _box(edges, where)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({_first_line(error)})") from error


def _coco_rows(file: Path) -> Iterator[tuple[str, str | None, Box]]:
    """File name, category and outline of each annotation; crowds are left out, their boxes are of no one object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        kinds = {kind["id"]: str(kind["name"]) for kind in content.get("categories", ())}
        for annotation in content["annotations"]:
            where = f"{file} annotation {annotation.get('id', '?')}"
            if annotation["image_id"] not in names:
                raise UserError(f"{where}: there is no image {annotation['image_id']}")
            if annotation.get("iscrowd"):
                continue
            left, top, width, height = annotation["bbox"]
            box = _box((left, top, left + width, top + height), where)
            outline = annotation.get("segmentation")
            if isinstance(outline, list):  # otherwise run lengths: its box will do
                box = box._replace(outline=tuple(_polygon(part, where) for part in outline))
            kind = annotation.get("category_id")
            if kind is not None and kind not in kinds:
                raise UserError(f"{where}: there is no category {kind}")
            yield names[annotation["image_id"]], None if kind is None else kinds[kind], box
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: not a JSON file in UTF-8 ({_first_line(error)})") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{file}: not in the COCO layout ({_first_line(error)}); needed: images with id and file_name, annotations"
            " with image_id and bbox, categories with id and name"
        ) from error


def _polygon(part: Any, where: str) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in part) if isinstance(part, list) else ()
    if len(numbers) < 6 or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: segmentation holds something that is no polygon x, y, x, y, x, y, ...")
    return numbers


def _box(edges: Sequence[Any], where: str) -> Box:
    try:
        left, top, right, bottom = (float(edge) for edge in edges)
    except (TypeError, ValueError):
        raise UserError(f"{where}: a coordinate is not a number") from None
    return Box(left, top, right, bottom, where=where)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
