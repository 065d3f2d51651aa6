"""COCO: one JSON file for many images, with polygons, run lengths or boxes (Lin et al. 2014).

A box is x, y, width, height, in distances from the upper left corner. Run lengths go down the columns and begin with
background. pycocotools is not needed for so little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from camtrain.data.annotations.entries import (
    Annotation,
    UnusableError,
    drawn,
    number,
    outline_of,
    polygons,
    rectangle_at,
    size_in,
    strips,
)
from camtrain.data.listing import Box
from camtrain.errors import UserError, first_line


class Layout(NamedTuple):
    """The parts of a file, by their identifiers."""

    files: dict[str, str]  # names of images
    sizes: dict[str, tuple[int, int] | None]
    categories: dict[str, str]
    annotations: list[tuple[str, Mapping[str, Any]]]  # with their images'


def layout(file: Path, content: Any) -> Layout:
    """The parts of a file's content.

    Raises:
        UserError: not in this layout.
    """
    try:
        images = {str(image["id"]): image for image in content["images"]}
        return Layout(
            {key: str(image["file_name"]) for key, image in images.items()},
            {key: size_in(image.get("width"), image.get("height")) for key, image in images.items()},
            {str(entry["id"]): str(entry["name"]) for entry in content.get("categories") or ()},
            [(str(entry["image_id"]), entry) for entry in content["annotations"]],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: not in the COCO layout ({first_line(error)}); needed: images with id and file_name, annotations"
            " with image_id and bbox or segmentation, categories with id and name"
        ) from error


def read(file: Path, parts: Layout) -> Iterator[Annotation]:
    """Every annotation."""
    for image, entry in parts.annotations:
        where = f"{file} annotation {entry.get('id', '?')}"
        if image not in parts.files:
            yield Annotation("", where, unusable=f"there is no image {image}")
            continue
        number = entry.get("category_id")
        label = parts.categories.get(str(number))
        found = Annotation(parts.files[image], where, label, crowd=bool(entry.get("iscrowd")), size=parts.sizes[image])
        if parts.categories and number is not None and label is None:
            yield found._replace(unusable=f"there is no category {number}")
        else:
            yield drawn(found, _region, entry)


def _region(entry: Mapping[str, Any]) -> Iterator[Box]:
    """The region of an annotation: its mask or its polygons within its box, else its box."""
    outline, edges = entry.get("segmentation"), entry.get("bbox")
    box = next(rectangle_at(*edges)) if edges else None
    if isinstance(outline, Mapping):
        try:
            return strips(decoded(outline))
        except (LookupError, TypeError, ValueError):
            if box is None:
                raise UnusableError("its run lengths cannot be read") from None
    elif outline:
        parts = outline if isinstance(outline[0], list) else [outline]
        if box is None or not (box.left < box.right and box.top < box.bottom):
            return polygons(parts)
        box = box._replace(outline=outline_of(parts))
    if box is None:
        raise UnusableError("it has neither box nor polygon")
    return iter([box])


def decoded(runs: Mapping[str, Any]) -> np.ndarray:
    """The mask (height, width) bool of run lengths, given as a list or in COCO's compressed text.

    In the text each number is written in characters of six bits, above 48: five bits of the number, lowest first, and
    one that says that more follow; the last one's fifth bit is the sign. From the fourth number on, what is written is
    the difference from the last but one.

    Raises:
        LookupError, TypeError, ValueError: malformed.
    """
    height, width = (int(number(edge)) for edge in runs["size"])
    counts = runs["counts"]
    if isinstance(counts, str):
        counts, at, text = [], 0, counts
        while at < len(text):
            value, shift, more = 0, 0, True
            while more:
                bits = ord(text[at]) - 48
                if not 0 <= bits < 64:
                    raise ValueError("no run lengths")
                value |= (bits & 31) << shift
                more, at, shift = bool(bits & 32), at + 1, shift + 5
                if not more and bits & 16:
                    value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
    lengths = np.array(counts, dtype=np.int64)
    if lengths.sum() != height * width:
        raise ValueError("the run lengths do not fill the image")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T
