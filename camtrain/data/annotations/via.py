"""VGG Image Annotator (VIA): regions as JSON objects, in a CSV file or in a project's JSON file.

Coordinates are distances from the upper left corner; a rectangle has x, y, width, height.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camtrain.data.annotations.entries import Annotation, UnusableError, drawn, ellipse, polygons, rectangle_at
from camtrain.data.listing import Box

CLASS_KEYS = ("class", "label", "category", "type", "name", "object", "species")
"""Attributes, of several, that are taken for the class."""


def images_of(content: Any) -> Mapping[str, Any] | None:
    """The images of a project, or of its exported annotations; None if it is neither."""
    images = content.get("_via_img_metadata", content) if isinstance(content, Mapping) else None
    if not isinstance(images, Mapping) or not images:
        return None
    fitting = (isinstance(image, Mapping) and {"filename", "regions"} <= image.keys() for image in images.values())
    return images if all(fitting) else None


def read(file: Path, images: Mapping[str, Any]) -> Iterator[Annotation]:
    """Every region of the images of :func:`images_of`."""
    for image in images.values():
        regions = image["regions"]
        for place, region in enumerate(regions.values() if isinstance(regions, Mapping) else regions or (), 1):
            where = f"{file} {image['filename']} region {place}"
            attributes, drawing = (
                region.get(f"{of}_attributes") if isinstance(region, Mapping) else None for of in ("region", "shape")
            )
            yield drawn(Annotation(str(image["filename"]), where, class_of(attributes)), shape, drawing)


def class_of(attributes: Any) -> str | None:
    """The class among a region's attributes: the only one, or the first that is called so; None if there is none."""
    if not isinstance(attributes, Mapping):
        return None
    by_name = {str(key).strip().casefold(): value for key, value in attributes.items()}
    chosen = list(by_name.values()) if len(by_name) == 1 else [by_name[key] for key in CLASS_KEYS if key in by_name]
    for value in chosen[:1]:
        if isinstance(value, Mapping):  # boxes that are ticked
            value = next((name for name, ticked in value.items() if ticked), None)
        return str(value).strip() or None if value is not None else None
    return None


def shape(attributes: Any) -> Iterator[Box]:
    """The region of VIA's shapes that have an area."""
    kind = attributes.get("name")
    if kind == "rect":
        return rectangle_at(*(attributes[key] for key in ("x", "y", "width", "height")))
    if kind == "circle":
        return ellipse(attributes["cx"], attributes["cy"], attributes["r"], attributes["r"])
    if kind == "ellipse":
        axes = attributes["rx"], attributes["ry"]
        return ellipse(attributes["cx"], attributes["cy"], *axes, turn=attributes.get("theta") or 0)
    if kind == "polygon":
        corners = zip(attributes["all_points_x"], attributes["all_points_y"], strict=True)
        return polygons([[value for corner in corners for value in corner]])
    raise UnusableError(f"a {kind} has no area" if kind else "it has no shape")
