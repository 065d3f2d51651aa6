"""Which image an annotation is of, and whether its class is the image's.

Tools write names in many ways: bare, relative to some folder, as a path of another machine, with backslashes, without a
suffix, in another Unicode form. An image is found if its name is the written one and the folders that are written do
not say otherwise: they are those that the image lies in, from its own upwards, or they are of another machine and name
no other split or class. Where several images fit, those of the split that the annotations' file is named after, or lies
in, and then those of the annotation's class are preferred.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

VALIDATION = {"val": "val", "valid": "val", "validation": "val", "training": "train"}
"""Names of splits that mean the same."""

NO_IMAGE = "there is no such image"
SEVERAL = "several images have this name; its folders must be written as well"

Fold = Callable[[str], str]


class Known(NamedTuple):
    """An image of the data set."""

    path: Path
    class_name: str
    split: str  # name of its split's folder
    inner: tuple[str, ...]  # split, folders and file


class Match(NamedTuple):
    """What was found for an annotation."""

    image: Known | None
    why_not: str = ""
    instead: str = ""  # names of some images that are there
    other_case: bool = False  # the names differ in capitals


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which names that look alike are equal."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The same, without the difference between capitals and small letters."""
    return composed(composed(text).casefold())


def split_name(text: str) -> str:
    """A split's name, one for those that mean the same."""
    return VALIDATION.get(folded(text), folded(text))


class Names:
    """Images by what they may be called."""

    def __init__(self, images: Iterable[Known], root: Path) -> None:
        self.root = root
        self.above = _parts(str(root))
        self.images = list({image.path: image for image in images}.values())  # both splits may be one folder
        self.classes = {image.class_name for image in self.images}
        self.composed_classes = set(map(composed, self.classes))
        self.folded_classes = set(map(folded, self.classes))
        self.splits = {split_name(image.split) for image in self.images}
        self.split_by_file: dict[Path, str | None] = {}
        self.by_name: dict[Fold, dict[str, list[Known]]] = {}
        for fold in (composed, folded):
            names: dict[str, list[Known]] = defaultdict(list)
            for image in self.images:
                names[fold(image.path.name)].append(image)
                names[f"{fold(image.path.stem)}/"].append(image)  # a name of its own kind, which no file can have
            self.by_name[fold] = names

    def find(self, written: str, file: Path, label: str | None) -> Match:
        """The image of an annotation.

        Args:
            written: name or path of the image.
            file: that it is written in.
            label: class of the annotation.
        """
        parts = _parts(written) or [""]
        if Path(written).is_absolute():  # the folders above the data set tell nothing, whatever they are called
            pairs = zip(parts[:-1], self.above, strict=False)
            parts = parts[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]
        if file not in self.split_by_file:
            self.split_by_file[file] = self._split_of(file)
        split = self.split_by_file[file]
        for fold in (composed, folded):
            given = [fold(part) for part in parts]
            for name in (given[-1], f"{given[-1]}/"):
                fitting = self._fitting(self.by_name[fold].get(name, ()), given, fold, split)
                if len(fitting) > 1 and label is not None:
                    fitting = [image for image in fitting if folded(image.class_name) == folded(label)] or fitting
                if len(fitting) > 1:
                    return Match(None, SEVERAL, " and ".join("/".join(image.inner) for image in fitting[:2]))
                if fitting:
                    return Match(fitting[0], other_case=fold is folded)
        return Match(None, NO_IMAGE, next(("/".join(image.inner) for image in self.images), "none"))

    def _fitting(self, images: Sequence[Known], given: Sequence[str], fold: Fold, split: str | None) -> list[Known]:
        """Of images with the written name, those whose folders fit best."""
        found: dict[int, list[Known]] = defaultdict(list)
        for image in images:
            folders = [fold(part) for part in image.path.parts[:-1]]
            shared = 0
            while shared < min(len(folders), len(given) - 1) and folders[-1 - shared] == given[-2 - shared]:
                shared += 1
            whole = shared >= len(image.inner) - 1  # with its split
            may_be = shared == len(given) - 1 or self._may_be(image, given)
            if whole or (may_be and split in (None, split_name(image.split))):
                found[shared].append(image)
        return found[max(found)] if found else []

    def _may_be(self, image: Known, given: Sequence[str]) -> bool:
        """Whether the written folders name no other split and no other class than the image's."""
        folders = [folded(part) for part in given[-2::-1]]
        split = next((split_name(part) for part in folders if split_name(part) in self.splits), None)
        own = next((part for part in folders if part in self.folded_classes), None)
        return split in (None, split_name(image.split)) and own in (None, folded(image.class_name))

    def _split_of(self, file: Path) -> str | None:
        """The split that a file's name, or a folder that it lies in, tells of; None if none or several do."""
        inner = file.relative_to(self.root) if file.is_relative_to(self.root) else Path(file.name)
        words = {split_name(word) for word in re.split(r"[\W_]+", str(inner.with_suffix("")))}
        named = words & self.splits
        return named.pop() if len(named) == 1 else None

    def same_class(self, label: str, image: Known) -> Match:
        """Whether an annotation's class is its image's; capitals may differ where no other class is called so."""
        if composed(label) == composed(image.class_name):
            return Match(image)
        if folded(label) == folded(image.class_name) and composed(label) not in self.composed_classes:
            return Match(image, other_case=True)
        return Match(None)


def _parts(written: str) -> list[str]:
    """Folders and name of a path as it is written on any system; a suffix stays."""
    parts = [part.strip() for part in re.split(r"[/\\]", composed(written.strip()))]
    return [part for part in parts if part not in ("", ".", "..")]
