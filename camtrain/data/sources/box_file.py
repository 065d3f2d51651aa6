"""The boxes of a user's own images: a CSV file, or JSON in the COCO layout.

COCO is read here and not by pycocotools: file names, boxes and polygons are all that is needed of it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from camtrain.config.schema import FolderConfig
from camtrain.data.listing import Box
from camtrain.errors import UserError, first_line


def read_boxes(root: Path, name: str | None, images: Mapping[Path, str]) -> dict[Path, list[Box]]:
    """Boxes of each image's own class.

    Args:
        root: of the data set.
        name: of the file, relative to root; None for no boxes.
        images: of the split, each with its class; what the file says of others is ignored.

    Raises:
        UserError: the file cannot be read, names an image that is not there, or has only boxes of other classes for
            some image. A file with another name than the default must be there.
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
    for given, class_name, box in rows:
        path = named.get(given)
        if path is None:
            ways = root / given, root / "images" / given, root / given.removeprefix("images/")
            path = next((way for way in ways if way in images), None)
        if path is not None:
            if class_name is not None and class_name != images[path]:
                others.setdefault(path, f"{box.where}: {class_name}")
            else:
                boxes.setdefault(path, []).append(box)
        elif not any(way.is_file() for way in ways):
            raise UserError(
                f"{box.where}: there is no image {given or '(empty path)'} in {root}; correct or remove the line"
            )
    for path, other in others.items():
        if path not in boxes:
            raise UserError(
                f"{other}: no box of {path} is of its class {images[path]}; classes are named after their folders"
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
        raise UserError(f"{file}: not a CSV file in UTF-8 ({first_line(error)})") from error


def _coco_rows(file: Path) -> Iterator[tuple[str, str | None, Box]]:
    """File name, category and box of each annotation; crowds are left out, since their boxes hold no single object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        for annotation in content["annotations"]:
            where = f"{file} annotation {annotation.get('id', '?')}"
            if annotation["image_id"] not in names:
                raise UserError(f"{where}: there is no image {annotation['image_id']}")
            if annotation.get("iscrowd"):
                continue
            left, top, width, height = annotation["bbox"]
            box = _box((left, top, left + width, top + height), where)
            outline = annotation.get("segmentation")
            if isinstance(outline, list):  # else run lengths, in place of which the box is taken
                box = box._replace(outline=tuple(_polygon(part, where) for part in outline))
            category = annotation.get("category_id")
            if category is not None and category not in categories:
                raise UserError(f"{where}: there is no category {category}")
            yield names[annotation["image_id"]], None if category is None else categories[category], box
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: not a JSON file in UTF-8 ({first_line(error)})") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{file}: not in the COCO layout ({first_line(error)}); needed: images with id and file_name, annotations"
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
