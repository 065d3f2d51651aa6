"""What every format is read as: annotations, whose regions are boxes, with an outline where there is one.

Coordinates here are distances from the image's upper left corner, so that a box from 2 to 5 covers the pixels 2, 3 and
4: maxima are exclusive. Readers convert what their format counts in another way.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from camtrain.data.listing import Box
from camtrain.errors import UserError, first_line

CORNERS = 128
"""Of the polygon that stands for an ellipse: its area is 0.04 % smaller."""


class Annotation(NamedTuple):
    """One object that a file tells of."""

    image: str  # name or path of its image, as written; without a suffix where the file itself is named after the image
    where: str  # file, and line or number in it
    label: str | None = None  # its class; None where the file names none
    boxes: tuple[Box, ...] = ()
    unusable: str = ""  # why there are no boxes
    crowd: bool = False  # several objects under one outline
    shares: bool = False  # coordinates are shares of the image's width and height
    size: tuple[int, int] | None = None  # width and height of the image that it was drawn on, where the file says so


class Source(NamedTuple):
    """A file of annotations whose format is known."""

    file: Path
    format: str
    read: Callable[[], Iterable[Annotation]]


class UnusableError(ValueError):
    """An annotation that holds no region; says why."""


def drawn(entry: Annotation, draw: Callable[..., Iterable[Box]], *arguments: Any) -> Annotation:
    """The annotation with the boxes that `draw` makes of the arguments, or with the reason why it makes none."""
    try:
        return entry._replace(boxes=tuple(box._replace(where=entry.where) for box in draw(*arguments)))
    except UnusableError as error:
        return entry._replace(unusable=str(error))
    except (ValueError, OverflowError):
        return entry._replace(unusable="a coordinate is not a number")
    except (LookupError, TypeError, AttributeError):
        return entry._replace(unusable="a coordinate is missing")


def number(value: Any) -> float:
    """A number, or its text with a decimal point or comma.

    Raises:
        ValueError, TypeError: neither.
    """
    return float(value.replace(",", ".") if isinstance(value, str) and "." not in value else value)


def rectangle(left: Any, top: Any, right: Any, bottom: Any) -> Iterator[Box]:
    """A box from its edges."""
    yield Box(number(left), number(top), number(right), number(bottom))


def rectangle_at(left: Any, top: Any, width: Any, height: Any) -> Iterator[Box]:
    """A box from its upper left corner and its extent."""
    x, y = number(left), number(top)
    # 0.1 + 0.2 must not reach into another pixel.
    yield Box(x, y, round(x + number(width), 6), round(y + number(height), 6))


def outline_of(parts: Sequence[Sequence[Any]]) -> tuple[tuple[float, ...], ...]:
    """The polygons x, y, x, y, ... that have an area.

    Raises:
        UnusableError: one of the parts is no polygon at all.
    """
    outline = tuple(tuple(number(value) for value in part) for part in parts)
    if any(len(part) % 2 or not all(map(math.isfinite, part)) for part in outline):
        raise UnusableError("it holds something that is no polygon x, y, x, y, x, y, ...")
    return tuple(part for part in outline if _has_area(part))


def _has_area(polygon: Sequence[float]) -> bool:
    """Whether the corners lie on no single line."""
    ways = [(x - polygon[0], y - polygon[1]) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
    across, down = max(ways, key=lambda way: abs(way[0]) + abs(way[1]), default=(0, 0))
    return any(abs(across * y - down * x) > 1e-9 * (across**2 + down**2) for x, y in ways)


def polygons(parts: Sequence[Sequence[Any]]) -> Iterator[Box]:
    """The box round all polygons, with these as its outline."""
    outline = outline_of(parts)
    if not outline:
        raise UnusableError("its polygon has no area")
    xs, ys = ([value for part in outline for value in part[first::2]] for first in (0, 1))
    yield Box(min(xs), min(ys), max(xs), max(ys), outline=outline)


def ellipse(x: Any, y: Any, across: Any, down: Any, turn: Any = 0) -> Iterator[Box]:
    """An ellipse from its centre, its half axes and the angle in radians by which it is turned clockwise."""
    angle = np.arange(CORNERS) * 2 * math.pi / CORNERS
    along, aside = number(across) * np.cos(angle), number(down) * np.sin(angle)
    cos, sin = math.cos(number(turn)), math.sin(number(turn))
    corners = np.stack([number(x) + along * cos - aside * sin, number(y) + along * sin + aside * cos], 1)
    return polygons([corners.flatten().tolist()])


def strips(mask: np.ndarray, left: int = 0, top: int = 0) -> Iterator[Box]:
    """A mask (height, width) as the rectangles that it is made of: the runs of its columns, as wide as they go on.

    A pixel that stands alone in the image's corner is left out, as it looks like a box in shares of the image.

    Args:
        mask: bool.
        left: column of the image that the mask begins at.
        top: row.

    Raises:
        UnusableError: the mask is empty.
    """
    if not mask.any():
        raise UnusableError("its mask is empty")
    padded = np.pad(mask.astype(np.int8), ((1, 1), (0, 0)))
    columns, edges = np.diff(padded, axis=0).T.nonzero()  # of each column, in turn where a run begins and ends
    open_runs: dict[tuple[int, int], int] = {}
    for column in range(mask.shape[1] + 1):
        here = edges[columns == column].tolist()
        runs = set(zip(here[::2], here[1::2], strict=True))
        for first, end in sorted(set(open_runs) - runs):
            box = Box(left + open_runs.pop((first, end)), top + first, left + column, top + end)
            if (box.right, box.bottom) != (1, 1):
                yield box
        for run in runs - set(open_runs):
            open_runs[run] = column


def encoding_of(file: Path) -> str:
    """A text's encoding by its first bytes: UTF-8, or UTF-16 as Windows' programs write it.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(2)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return {0: "utf-16-be", 1: "utf-16-le"}.get(start.find(b"\0"), "utf-8-sig")


def no_text(file: Path, error: UnicodeDecodeError) -> UserError:
    """What is said of a file that is in neither of these encodings."""
    return UserError(f"{file}: not a text in UTF-8 or UTF-16 ({first_line(error)}); save it as UTF-8")


def text_of(file: Path) -> str:
    """A file's text.

    Raises:
        UserError: it is in neither of the encodings of :func:`encoding_of`, or cannot be read.
    """
    try:
        return file.read_text(encoding=encoding_of(file))
    except UnicodeDecodeError as error:
        raise no_text(file, error) from error


def json_of(file: Path) -> Any:
    """A JSON file's content.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(text_of(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not a JSON file ({first_line(error)})") from error


def size_in(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height that a file states, None where it states none."""
    try:
        stated = int(width), int(height)
    except (TypeError, ValueError):
        return None
    return stated if min(stated) > 0 else None
