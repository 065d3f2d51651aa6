"""LabelMe: a JSON file for each image, named after it; coordinates are distances from the upper left corner."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camtrain.data.annotations.entries import (
    Annotation,
    UnusableError,
    drawn,
    ellipse,
    json_of,
    number,
    polygons,
    rectangle,
    size_in,
    strips,
)
from camtrain.data.listing import Box


def is_labelme(content: Any) -> bool:
    """Whether a JSON file's content is in this layout."""
    return isinstance(content, Mapping) and isinstance(content.get("shapes"), list)


def read(file: Path) -> Iterator[Annotation]:
    """Every shape. The file is read again, since it may hold a copy of its image."""
    content = json_of(file)
    size = size_in(content.get("imageWidth"), content.get("imageHeight"))
    for place, found in enumerate(content["shapes"], 1):
        label = found.get("label") if isinstance(found, Mapping) else None
        entry = Annotation(str(file.with_suffix("")), f"{file} shape {place}", label and str(label), size=size)
        yield drawn(entry, _region, found)


def _region(found: Mapping[str, Any]) -> Iterator[Box]:
    kind, points = found.get("shape_type") or "polygon", [[number(x), number(y)] for x, y in found["points"]]
    if kind in ("polygon", "rotation", "oriented_rectangle"):
        return polygons([[value for point in points for value in point]])
    if kind == "rectangle":
        xs, ys = zip(*points, strict=True)
        return rectangle(min(xs), min(ys), max(xs), max(ys))
    if kind == "circle":  # its centre, and a point on it
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return ellipse(x, y, radius, radius)
    if kind == "mask":  # of the box between both points
        try:
            with Image.open(io.BytesIO(base64.b64decode(found["mask"]))) as opened:
                return strips(np.asarray(opened.convert("L")) > 0, *map(round, points[0]))
        except OSError:
            raise UnusableError("its mask cannot be decoded") from None
    raise UnusableError(f"a {kind} has no area")
