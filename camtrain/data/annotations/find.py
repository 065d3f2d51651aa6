"""Which files hold annotations: those that are named, or those that lie where label tools put them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from camtrain.config.options import AUTO
from camtrain.data.annotations import coco, labelme, tables, via, voc_xml, yolo
from camtrain.data.annotations.entries import Annotation, Source, json_of
from camtrain.errors import UserError

DEFAULT = "boxes.csv"
"""The table that comes before everything else that is found by looking."""

FOLDERS = ("annotations", "annotation", "labels")
"""Names, in any case, of folders beside those of the images that hold annotations."""

SUFFIXES = ((".csv", ".tsv"), (".json",), (".xml",), (".txt",))
"""In the order in which they are looked at; of what is found the first that holds an annotation is used."""

FORMATS = ("table", "COCO", "VIA", "LabelMe", "Pascal VOC", "YOLO")


class Found(NamedTuple):
    """The annotations that are used, and the files that hold others."""

    sources: list[Source]
    asked_for: bool  # named by the user
    unread: dict[Path, str]  # files that are not read, with what is wrong with them; nothing of most

    @property
    def files(self) -> list[Path]:
        """Of the annotations that are used."""
        return [source.file for source in self.sources]

    def annotations(self) -> Iterator[tuple[Path, Annotation]]:
        """Each with its file, in turn, since there may be many."""
        return ((source.file, annotation) for source in self.sources for annotation in source.read())


def find(root: Path, given: str | Sequence[str] | None, bases: Sequence[Path]) -> Found:
    """The annotations of a data set.

    By looking, `boxes.csv` comes first. Else tables and JSON files are looked for in the root, and files of every kind
    in the splits' folders and in those of :data:`FOLDERS`. Of several formats one is used, see :func:`_chosen`.

    Args:
        root: of the data set.
        given: names of files and folders, relative to root; `auto` to look; None for none.
        bases: folders of the splits.

    Raises:
        UserError: a file or folder that is named, or `boxes.csv`, is not there or holds no annotations.
    """
    there = set(_candidates(root, bases))
    names = [given] if isinstance(given, str) else list(given or ())
    asked_for = True
    sources: list[Source] = []
    wrong: dict[Path, str] = {}
    if names == [DEFAULT] and not (root / DEFAULT).is_file():  # what runs of former versions may say
        names = []
    if names == [AUTO] and (root / DEFAULT).is_file():
        names = [DEFAULT]
    if names == [AUTO]:
        asked_for = False
        sources, wrong = _chosen(there, root)
    else:
        for name in names:
            sources += _named(root, name)
    rest = there - {source.file for source in sources}
    texts = {file for file in rest if file.suffix.lower() == ".txt"} if names else set()  # else none is looked into
    texts = {file for file in texts if file in wrong or _yolo_lines(file) is None}
    return Found(sources, asked_for, {file: wrong.get(file, "") for file in sorted(rest - texts)})


def _named(root: Path, name: str) -> list[Source]:
    """The annotations in a file or folder that is named; errors as for :func:`find`."""
    place = root / Path(name).expanduser()
    if place.is_file():
        return [recognised(place, root)]
    if not place.is_dir():
        raise UserError(f"dataset.annotations={name}: there is no file {place}; names are relative to dataset.root")
    sources, wrong = _chosen(list(_files_in(place)), root)
    if not sources:
        why = next((f"; {text}" for text in wrong.values()), "")
        raise UserError(f"dataset.annotations={name}: no file in {place} holds annotations{why}")
    return sources


def _chosen(files: Collection[Path], root: Path) -> tuple[list[Source], dict[Path, str]]:
    """The files of the first of the formats, in the order of :data:`FORMATS`, that holds an annotation.

    Returns:
        Files of a format without annotations if there is no other; and what is wrong with files of no format, as far as
        they were looked at.
    """
    empty: list[Source] = []
    wrong: dict[Path, str] = {}
    known: dict[Path, yolo.Described] = {}
    for suffixes in SUFFIXES:
        by_format: dict[str, list[Source]] = {name: [] for name in FORMATS}
        for file in sorted(file for file in files if file.suffix.lower() in suffixes):
            try:
                source = recognised(file, root, known)
                by_format[source.format].append(source)
            except UserError as error:
                wrong[file] = str(error)
        for sources in by_format.values():
            if any(True for source in sources for _ in source.read()):
                return sources, wrong
            empty = empty or sources
    return empty, wrong


def recognised(file: Path, root: Path, known: dict[Path, yolo.Described] | None = None) -> Source:
    """A file as annotations of the format that it has.

    Args:
        file: to look into.
        root: of the data set.
        known: what is said of YOLO's texts by folder, as far as it is known; is added to.

    Raises:
        UserError: it has none of the formats.
    """
    suffix = file.suffix.lower()
    if suffix == ".json":
        content = json_of(file)
        if labelme.is_labelme(content):
            return Source(file, "LabelMe", partial(labelme.read, file))
        images = via.images_of(content)
        if images is not None:
            return Source(file, "VIA", partial(via.read, file, images))
        return Source(file, "COCO", partial(coco.read, file, coco.layout(file, content)))
    if suffix == ".xml":
        return Source(file, "Pascal VOC", partial(voc_xml.read, file, voc_xml.root_of(file)))
    lines = _yolo_lines(file) if suffix == ".txt" else None
    if lines is not None:
        top = root if file.is_relative_to(root) else file.parent.parent
        described = yolo.description_for(file.parent, top, {} if known is None else known)
        return Source(file, "YOLO", partial(yolo.read, file, lines, described))
    return Source(file, "table", partial(tables.read, file, tables.table(file)))


def _candidates(root: Path, bases: Iterable[Path]) -> Iterator[Path]:
    """Files that may hold annotations."""
    tops = dict.fromkeys((root, *(base.parent for base in bases if base.is_relative_to(root))))
    for top in tops:
        for entry in sorted(top.iterdir()):
            if entry.is_dir() and entry.name.casefold() in FOLDERS:
                yield from _files_in(entry)
            elif entry.suffix.lower() in (".csv", ".tsv", ".json") and _may_be_read(entry):
                yield entry
    for base in bases:
        yield from _files_in(base)


def _files_in(folder: Path) -> Iterator[Path]:
    """Files of a fitting suffix in a folder and below it."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith((".", "@")))
        seen.add(real)
        paths = (Path(place, name) for name in sorted(files) if name.lower().endswith(sum(SUFFIXES, ())))
        yield from filter(_may_be_read, paths)


def _may_be_read(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and not names_classes(file)


def names_classes(file: Path) -> bool:
    """Whether a file is called like those that hold the names of classes, beside annotations."""
    return file.name in (*yolo.NAMES, *yolo.DESCRIPTIONS) or tables.DESCRIPTIONS in file.name


def _yolo_lines(file: Path) -> list[tuple[int, list[str]]] | None:
    """A text's annotations, none if it is empty, as those of images without objects are; None if it is no such text."""
    try:
        return yolo.lines_of(file)
    except UserError:
        return None
