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
from pathlib import Path
from typing import NamedTuple

from camtrain.data.annotations import via
from camtrain.data.annotations.entries import Annotation, drawn, number, rectangle, size_in, text_of
from camtrain.errors import UserError, first_line

IMAGE = ("path", "filename", "image", "imagepath", "imagename", "imageid")
LABEL = ("class", "label", "labelname", "classname", "category")
EDGES = ("xmin", "ymin", "xmax", "ymax")
SHAPE = "regionshapeattributes"

DESCRIPTIONS = "class-descriptions"
"""In the name of the file that gives the names of Open Images' classes."""


class Table(NamedTuple):
    """Lines by column, with their numbers in the file."""

    rows: list[tuple[int, dict[str, str]]]
    image: str  # the column that names the image
    label: str | None  # the column of classes

    def is_in_shares(self) -> bool:
        """Whether coordinates are shares of the image, as in Open Images."""
        return self.image == "imageid" and all(_is_share(row.get(edge)) for _, row in self.rows for edge in EDGES)


def table(file: Path) -> Table:
    """The table in a file.

    Raises:
        UserError: it is none, or lacks a column.
    """
    lines = text_of(file).splitlines(keepends=True)
    if lines and lines[0].lower().startswith("sep="):  # for Excel
        lines[0] = "\n"
    heading = next((line for line in lines if line.strip()), "")
    separator = max(",;\t", key=lambda sign: _recognised(heading, sign))
    try:
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        columns: list[str] = []
        found = []
        for row in rows:
            cells = [cell.strip() for cell in row]
            if columns and any(cells):
                found.append((rows.line_num, dict(zip(columns, cells, strict=False))))
            elif any(cells):
                columns = [_plain(cell) for cell in cells]
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({first_line(error)})") from error
    image = next((name for name in IMAGE if name in columns), None)
    missing = set() if image else {"path"}
    if SHAPE not in columns:
        missing |= set(EDGES) - set(columns)
    if image is None or missing:
        raise UserError(
            f"{file}: no column {', '.join(sorted(missing))}; needed: path, xmin, ymin, xmax, ymax, or the columns of"
            " VIA, VoTT, Open Images or TensorFlow"
        )
    return Table(found, image, next((name for name in LABEL if name in columns), None))


def read(file: Path, found: Table) -> Iterator[Annotation]:
    """An annotation for each line."""
    shares, names = found.is_in_shares(), _descriptions(file.parent) if found.label == "labelname" else {}
    for line, row in found.rows:
        where = f"{file} line {line}"
        label = row.get(found.label or "") or None
        entry = Annotation(
            row.get(found.image, ""),
            where,
            names.get(label, label) if label else None,
            crowd=row.get("isgroupof") == "1",
            shares=shares,
            size=size_in(row.get("width"), row.get("height")),
        )
        if SHAPE not in row:
            yield drawn(entry, rectangle, *(row.get(edge) for edge in EDGES))
        elif row[SHAPE] not in ("", "{}"):  # an image without regions
            attributes = _object(row.get("regionattributes", ""))
            yield drawn(entry._replace(label=via.class_of(attributes)), via.shape, _object(row[SHAPE]))


def _recognised(heading: str, separator: str) -> int:
    return sum(_plain(cell) in (*IMAGE, *LABEL, *EDGES, SHAPE) for cell in heading.split(separator))


def _plain(heading: str) -> str:
    """A heading in lower case, without what tools put round and between its words."""
    return "".join(sign for sign in heading.casefold() if sign.isalnum())


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
        found |= {row[0].strip(): row[1].strip() for row in csv.reader(text_of(file).splitlines()) if len(row) == 2}
    return found
