"""YOLO: a text file for each image, named after it, with a line for each object, in shares of the image.

    CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT [CONFIDENCE]    a box
    CLASS X Y X Y X Y ...                                a polygon

Classes are numbers, whose names stand in a file beside the text or in a folder above it. Where there is none, any box
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from camtrain.data.annotations.entries import Annotation, UnusableError, drawn, polygons, rectangle, text_of
from camtrain.data.listing import Box
from camtrain.errors import UserError

NAMES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "obj.yaml")


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


def read(file: Path, lines: list[tuple[int, list[str]]], names: Mapping[int, str]) -> Iterator[Annotation]:
    """Every line.

    Args:
        file: of the lines.
        lines: as :func:`lines_of` gives them.
        names: of the classes by number; empty where they are not known.
    """
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
            yield drawn(entry._replace(label=names.get(number)), _region, words[1:])


def _region(words: list[str]) -> Iterator[Box]:
    values = [float(word) for word in words]
    if any(abs(value) > 2 for value in values):
        raise UnusableError("its coordinates are not shares of the image")
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        return rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return polygons([values])


def names_for(folder: Path, top: Path, known: dict[Path, dict[int, str]]) -> dict[int, str]:
    """Class names from the nearest file that lists them, in the folder or above it up to `top`; empty without one.

    Args:
        folder: of a text file.
        top: root of the data set.
        known: results for folders that were asked for before; is added to.
    """
    if folder not in known:
        known[folder] = _names_in(folder)
        if not known[folder] and folder != top and folder.parent != folder and folder.is_relative_to(top):
            known[folder] = names_for(folder.parent, top, known)
    return known[folder]


def _names_in(folder: Path) -> dict[int, str]:
    for name in NAMES:
        if (folder / name).is_file():
            return dict(enumerate(line.strip() for line in text_of(folder / name).rstrip().splitlines()))
    for name in DESCRIPTIONS:
        if (folder / name).is_file():
            try:
                names = yaml.safe_load(text_of(folder / name))["names"]
                pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
                return {int(number): str(text) for number, text in pairs}
            except (yaml.YAMLError, LookupError, TypeError, ValueError):
                continue  # a file of something else
    return {}
