"""Which files hold annotations: those that are named, or those that lie where label tools put them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
    """The annotations that are used."""

    format: str
    files: list[Path]
    annotations: Iterable[tuple[Path, Annotation]]  # each with its file, in turn, since there may be many
    asked_for: bool  # named by the user
    unread: list[str]  # what else is there, in words


def read_named(root: Path, names: Sequence[str]) -> Found:
    """The annotations in files and folders that are named.

    Args:
        root: of the data set.
        names: of files and folders, relative to root.

    Raises:
        UserError: one of them is not there, or none of its files holds annotations.
    """
    sources: list[Source] = []
    for name in names:
        place = root / Path(name).expanduser()
        if place.is_file():
            sources.append(recognised(place, root))
        elif place.is_dir():
            inside, others = _recognise(_files_in(place), root)
            if not inside:
                why = next((f"; {text}" for text in others.values()), "")
                raise UserError(f"dataset.annotations={name}: no file in {place} holds annotations{why}")
            sources += _of_first_format(inside)
        else:
            raise UserError(f"dataset.annotations={name}: there is no file {place}; names are relative to dataset.root")
    formats = " and ".join(dict.fromkeys(source.format for source in sources))
    return Found(formats, [source.file for source in sources], _read(sources), True, [])


def look(root: Path, bases: Iterable[Path]) -> Found | None:
    """The annotations that are found by looking; None where there are none.

    `boxes.csv` comes first. Else tables and JSON files are looked for in the root, tables and files of every kind in
    the splits' folders and in those of :data:`FOLDERS`. Of several formats one is used, in the order of
    :data:`FORMATS`.

    Args:
        root: of the data set.
        bases: folders of the splits.

    Raises:
        UserError: `boxes.csv` cannot be read.
    """
    candidates = sorted(set(_candidates(root, bases)))
    if (root / DEFAULT).is_file():
        return read_named(root, [DEFAULT])._replace(unread=_in_words(set(candidates) - {root / DEFAULT}))
    wrong: dict[Path, str] = {}
    empty: list[Path] = []
    for suffixes in SUFFIXES:
        sources, others = _recognise([file for file in candidates if file.suffix.lower() in suffixes], root)
        wrong |= others if ".txt" not in suffixes else {}  # most texts are just that
        for name in dict.fromkeys(source.format for source in sources):
            chosen = [source for source in sources if source.format == name]
            files = [source.file for source in chosen]
            if next(_read(chosen), None) is not None:
                unread = [*wrong.values(), *_in_words({*candidates} - {*files, *wrong})]
                return Found(name, files, _read(chosen), False, unread)
            empty += files
    unread = [*wrong.values(), *_in_words(empty)]
    return Found("", [], [], False, unread) if unread else None


def recognised(file: Path, root: Path, names: dict[Path, dict[int, str]] | None = None) -> Source:
    """A file as annotations of the format that it has.

    Args:
        file: to look into.
        root: of the data set.
        names: class names of YOLO by folder, as far as they are known; is added to.

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
    if suffix == ".txt":
        lines = yolo.lines_of(file)
        known = {} if names is None else names
        top = root if file.is_relative_to(root) else file.parent.parent
        return Source(file, "YOLO", partial(yolo.read, file, lines, yolo.names_for(file.parent, top, known)))
    return Source(file, "table", partial(tables.read, file, tables.table(file)))


def _recognise(files: Iterable[Path], root: Path) -> tuple[list[Source], dict[Path, str]]:
    """The files that hold annotations, by format, and what is wrong with the others."""
    sources, others = [], {}
    names: dict[Path, dict[int, str]] = {}
    for file in files:
        try:
            sources.append(recognised(file, root, names))
        except UserError as error:
            others[file] = str(error)
    return sorted(sources, key=lambda source: FORMATS.index(source.format)), others


def _of_first_format(sources: Sequence[Source]) -> list[Source]:
    return [source for source in sources if source.format == sources[0].format]


def _read(sources: Iterable[Source]) -> Iterator[tuple[Path, Annotation]]:
    return ((source.file, annotation) for source in sources for annotation in source.read())


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
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "@")))
        paths = (Path(place, name) for name in sorted(files) if name.lower().endswith(sum(SUFFIXES, ())))
        yield from filter(_may_be_read, paths)


def _may_be_read(file: Path) -> bool:
    names_classes = file.name in yolo.NAMES or tables.DESCRIPTIONS in file.name
    return file.is_file() and not file.name.startswith(".") and not names_classes


def _in_words(files: Iterable[Path]) -> list[str]:
    """How many files of each suffix; of texts those that hold annotations."""
    counted = Counter(file.suffix.lower() for file in files if file.suffix.lower() != ".txt" or _is_yolo(file))
    return [f"{count} {suffix} file{'s' * (count > 1)}" for suffix, count in sorted(counted.items())]


def _is_yolo(file: Path) -> bool:
    try:
        return bool(yolo.lines_of(file))
    except UserError:
        return False
