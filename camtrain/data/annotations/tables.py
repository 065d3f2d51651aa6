"""Tables with a line for each object, known by their headings.

    path, xmin, ymin, xmax, ymax, class                              our own
    filename, width, height, class, xmin, ymin, xmax, ymax           TensorFlow, Roboflow
    image, xmin, ymin, xmax, ymax, label                             VoTT
    ImageID, ..., LabelName, ..., XMin, XMax, YMin, YMax, IsGroupOf  Open Images: shares of the image
    filename, ..., region_shape_attributes, region_attributes        VIA

Columns may stand in any order and may be written in capitals; others are ignored. Separators are commas, semicolons or
tabs. Edges are distances from the upper left corner, so that maxima are exclusive: the tools write them so.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from camtrain.data.annotations import via
from camtrain.data.annotations.entries import Annotation, drawn, encoding_of, no_text, number, rectangle, size_in
from camtrain.errors import UserError, first_line

IMAGE = ("path", "filename", "image", "imagepath", "imagename", "imageid")
LABEL = ("class", "label", "labelname", "classname", "category")
EDGES = ("xmin", "ymin", "xmax", "ymax")
SHAPE = "regionshapeattributes"
KNOWN = {*IMAGE, *LABEL, *EDGES, SHAPE}

DESCRIPTIONS = "class-descriptions"
"""In the name of the file that gives the names of Open Images' classes."""


class Table(NamedTuple):
    """How a file is laid out."""

    columns: list[str]
    separator: str
    image: str  # the column that names the image
    label: str | None  # the column of classes
    shares: bool  # coordinates are shares of the image, as in Open Images


def table(file: Path) -> Table:
    """The layout of a file.

    Raises:
        UserError: it is no table, or lacks a column.
    """
    headings = {sign: next((_plain(row) for _, row in _rows(file, sign)), []) for sign in ",;\t"}
    separator = max(headings, key=lambda sign: sum(name in KNOWN for name in headings[sign]))
    columns = headings[separator]
    image = next((name for name in IMAGE if name in columns), None)
    missing = set() if image else {"path"}
    if SHAPE not in columns:
        missing |= set(EDGES) - set(columns)
    if image is None or missing:
        raise UserError(
            f"{file}: no column {', '.join(sorted(missing))}; needed: path, xmin, ymin, xmax, ymax, or the columns of"
            " VIA, VoTT, Open Images or TensorFlow"
        )
    found = Table(columns, separator, image, next((name for name in LABEL if name in columns), None), False)
    if image != "imageid":
        return found
    return found._replace(shares=all(_is_share(row.get(edge)) for _, row in _lines(file, found) for edge in EDGES))


def read(file: Path, layout: Table) -> Iterator[Annotation]:
    """An annotation for each line."""
    names = _descriptions(file.parent) if layout.label == "labelname" else {}
    for line, row in _lines(file, layout):
        where = f"{file} line {line}"
        label = row.get(layout.label or "") or None
        entry = Annotation(
            row.get(layout.image, ""),
            where,
            names.get(label, label) if label else None,
            crowd=row.get("isgroupof") == "1",
            shares=layout.shares,
            size=size_in(row.get("width"), row.get("height")),
        )
        if SHAPE not in row:
            yield drawn(entry, rectangle, *(row.get(edge) for edge in EDGES))
        elif row[SHAPE] not in ("", "{}"):  # an image without regions
            attributes = _object(row.get("regionattributes", ""))
            yield drawn(entry._replace(label=via.class_of(attributes)), via.shape, _object(row[SHAPE]))


def _lines(file: Path, layout: Table) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells, by column, of each line below the headings."""
    lines = islice(_rows(file, layout.separator), 1, None)
    return ((line, dict(zip(layout.columns, cells, strict=False))) for line, cells in lines)


def _rows(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not empty, without Excel's first line that names the separator."""
    try:
        with file.open(newline="", encoding=encoding_of(file)) as opened:
            rows = csv.reader(opened, delimiter=separator, skipinitialspace=True)
            for row in rows:
                cells = [cell.strip() for cell in row]
                if any(cells) and not (rows.line_num == 1 and cells[0].lower().startswith("sep=")):
                    yield rows.line_num, cells
    except UnicodeDecodeError as error:
        raise no_text(file, error) from error
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({first_line(error)})") from error


def _plain(headings: list[str]) -> list[str]:
    """Headings in lower case, without what tools put round and between their words."""
    return ["".join(sign for sign in heading.casefold() if sign.isalnum()) for heading in headings]


def _is_share(text: str | None) -> bool:
    try:
        return -0.001 <= number(text) <= 1.001 or math.isnan(number(text))
    except (TypeError, ValueError):
        return True  # counted when it is read


def _object(text: str) -> Mapping[str, object] | None:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, Mapping) else None


def _descriptions(folder: Path) -> dict[str, str]:
    """Names of Open Images' classes by their codes, from the file that is published for this."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob(f"*{DESCRIPTIONS}*.csv")):
        found |= {row[0]: row[1] for _, row in _rows(file, ",") if len(row) == 2}
    return found
