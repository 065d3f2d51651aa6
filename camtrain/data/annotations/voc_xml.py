"""Pascal VOC: an XML file for each image, named after it, as written by labelImg, CVAT, Roboflow and others.

VOC itself counts pixels from 1 and includes the maximum, so that an object's box begins at xmin - 1. Files that say
that they are VOC's are read so. labelImg writes the edges as distances from the corner, though never less than 1, and
CVAT writes them so too: those of all other files are taken as they stand, and labelImg's boxes at the very edge may
lack its first pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from camtrain.data.annotations.entries import Annotation, UnusableError, drawn, rectangle, size_in
from camtrain.data.listing import Box
from camtrain.errors import UserError, first_line


def root_of(file: Path) -> ElementTree.Element:
    """The annotation in a file.

    Raises:
        UserError: it is none.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        raise UserError(f"{file}: not an XML file ({first_line(error)})") from error
    if root.tag != "annotation":
        raise UserError(f"{file}: not an annotation in the layout of Pascal VOC, but <{root.tag}>")
    return root


def read(file: Path, root: ElementTree.Element) -> Iterator[Annotation]:
    """Every object."""
    source = " ".join(root.findtext(f"source/{part}") or "" for part in ("database", "annotation"))
    first = 1 if "VOC" in source.upper() else 0
    size = size_in(root.findtext("size/width"), root.findtext("size/height"))
    for place, found in enumerate(root.iter("object"), 1):
        label = (found.findtext("name") or "").strip() or None
        entry = Annotation(str(file.with_suffix("")), f"{file} object {place}", label, size=size)
        yield drawn(entry, _region, found.find("bndbox"), first)


def _region(box: ElementTree.Element | None, first: int) -> Iterator[Box]:
    if box is None:
        raise UnusableError("it has no bndbox")
    left, top, right, bottom = (float(box.findtext(edge) or "") for edge in ("xmin", "ymin", "xmax", "ymax"))
    return rectangle(left - first, top - first, right, bottom)
