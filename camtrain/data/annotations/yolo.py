"""YOLO: a text file for each image, named after it, with a line for each object, in shares of the image.

    CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT [CONFIDENCE]    a box
    CLASS X Y X Y X Y ...                                a polygon
    CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT X Y [V] ...     a box with key points, where data.yaml has `kpt_shape`

Classes are numbers, whose names stand in a file beside the text or in a folder above it. Where there is none, any box
counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from camtrain.data.annotations.entries import Annotation, UnusableError, drawn, polygons, rectangle, text_of
from camtrain.data.listing import Box
from camtrain.errors import UserError

NAMES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "obj.yaml")

SHARES = (-0.1, 1.1)
"""What coordinates are within: an object may reach a little beyond its image."""


class Described(NamedTuple):
    """What a file beside the texts says of them."""

    names: Mapping[int, str]  # of the classes by number; empty where they are not known
    points: int = 0  # numbers behind a box that are key points


def lines_of(file: Path) -> list[tuple[int, list[str]]]:
    """The words of every line that is not empty, with its number.

    Raises:
        UserError: not in this layout, judged by the first line.
    """
    lines = [(place, line.split()) for place, line in enumerate(text_of(file).splitlines(), 1) if line.strip()]
    for _, words in lines[:1]:
        try:
            int(words[0]), *map(float, words[1:])
        except ValueError:
            words = []
        if len(words) < 5:
            raise UserError(f"{file}: not in the layout of YOLO: a line is CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT")
    return lines


def read(file: Path, lines: list[tuple[int, list[str]]], described: Described) -> Iterator[Annotation]:
    """Every line.

    Args:
        file: of the lines.
        lines: as :func:`lines_of` gives them.
        described: as :func:`description_for` gives it.
    """
    names, points = described
    for place, words in lines:
        entry = Annotation(str(file.with_suffix("")), f"{file} line {place}", shares=True)
        try:
            number = int(words[0])
        except ValueError:
            yield entry._replace(unusable="its class is not a number")
            continue
        if names and number not in names:
            yield entry._replace(unusable=f"no class is numbered {number}")
        else:
            yield drawn(entry._replace(label=names.get(number)), _region, words[1:], points)


def _region(words: list[str], points: int) -> Iterator[Box]:
    values = [float(word) for word in words]
    if points and len(values) == 4 + points:
        values = values[:4]
    if any(not SHARES[0] <= value <= SHARES[1] for value in values):
        several = len(values) > 5
        others = " (key points are known by kpt_shape in data.yaml)" if several else ""
        raise UnusableError(f"its coordinates are not shares of the image{others}")
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        return rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return polygons([values])


def description_for(folder: Path, top: Path, known: dict[Path, Described]) -> Described:
    """What the nearest file says that lists class names, in the folder or above it up to `top`; nothing without one.

    Args:
        folder: of a text file.
        top: root of the data set.
        known: results for folders that were asked for before; is added to.
    """
    if folder not in known:
        known[folder] = _description_in(folder)
        if not known[folder].names and folder != top and folder.parent != folder and folder.is_relative_to(top):
            known[folder] = description_for(folder.parent, top, known)
    return known[folder]


def _description_in(folder: Path) -> Described:
    for name in NAMES:
        if (folder / name).is_file():
            return Described(dict(enumerate(line.strip() for line in text_of(folder / name).rstrip().splitlines())))
    for name in DESCRIPTIONS:
        if (folder / name).is_file():
            try:
                content = yaml.safe_load(text_of(folder / name))
                names = content["names"]
                pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
                return Described({int(number): str(text) for number, text in pairs}, _points(content.get("kpt_shape")))
            except (yaml.YAMLError, LookupError, TypeError, ValueError):
                continue  # a file of something else
    return Described({})


def _points(shape: Any) -> int:
    """Numbers of all key points, from how many there are and how many numbers each has; 0 where there are none."""
    return math.prod(map(int, shape)) if isinstance(shape, list) and shape else 0
