"""Which outputs of a network each class of a data set stands for: by name, or as a user's file says."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from torchvision.models import ResNet18_Weights

from camtrain.errors import UserError, first_line

NUMBERS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
"""Of one output, or of those from the first to the last."""

ClassMap = Mapping[str, Sequence[str]]
"""Of each class of a data set, names or numbers of the network's classes."""


def imagenet_names() -> list[str]:
    """Of the 1000 classes of ImageNet, as torchvision calls them."""
    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def read_map(path: Path, key: str) -> ClassMap:
    """Read a file of YAML, `class: [network class, ...]`, or of CSV (`.csv`), a line `class,network class` for each.

    A network's class is its name, its number (from 0), or a range of numbers, `151-268`.

    Args:
        path: of the file.
        key: of the configuration, for messages.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    found: dict[str, list[str]] = {}
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8") as opened:
                for line in csv.reader(opened):
                    if line:
                        name, member = map(str.strip, line)
                        found.setdefault(name, []).append(member)
        else:
            tree = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")), resolve=False)
            if not isinstance(tree, dict):
                raise ValueError("it is no mapping")
            found = {
                str(name): [str(member) for member in (given if isinstance(given, list) else [given])]
                for name, given in tree.items()
            }
    except OSError as error:
        raise UserError(f"{key}={path}: {error.strerror or error}; give a file that can be read") from error
    except Exception as error:  # of the parser, which has many kinds
        asked = "lines `class,network class` (CSV) or `class: [network class, ...]` (YAML)"
        raise UserError(f"{key}={path}: not a map of classes ({first_line(error)}); write {asked}") from error
    return found


def by_map(given: ClassMap, classes: Sequence[str], outputs: Sequence[str], where: str) -> list[list[int]]:
    """Outputs of each class, as a file says. Entries of other classes are left out.

    Args:
        given: what the file holds.
        classes: of the data set.
        outputs: names of the network's.
        where: begins messages.

    Raises:
        UserError: a class has no entry, an entry no counterpart, or two classes have one output.
    """
    whose: dict[int, str] = {}
    groups = []
    for name in classes:
        if not given.get(name):
            raise UserError(f"{where}: it has no entry for the class {name} of the data set; add one")
        members = [number for entry in given[name] for number in _numbers(entry, outputs, f"{where}: {name}")]
        for number in members:
            if whose.setdefault(number, name) != name:
                raise UserError(
                    f"{where}: {outputs[number]} ({number}) is in {whose[number]} and in {name}; leave it out of one"
                )
        groups.append(list(dict.fromkeys(members)))
    return groups


def _numbers(entry: str, outputs: Sequence[str], where: str) -> list[int]:
    """Numbers of the outputs that an entry of a file means."""
    if (numbers := NUMBERS.fullmatch(entry)) and entry not in outputs:
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not first <= last < len(outputs):
            raise UserError(f"{where}: {entry}: the network's classes have the numbers 0 to {len(outputs) - 1}")
        return [*range(first, last + 1)]
    return [_named(entry, outputs, where)]


def by_name(classes: Sequence[str], outputs: Sequence[str], where: str) -> list[list[int]]:
    """The output of each class that has its name; case does not count, and `_` and `-` are blanks.

    Args:
        classes: of the data set.
        outputs: names of the network's.
        where: begins messages.

    Raises:
        UserError: a class has no counterpart, or several.
    """
    return [[_named(name, outputs, where)] for name in classes]


def _named(name: str, outputs: Sequence[str], where: str) -> int:
    """The number of the only output of this name."""
    same = [number for number, other in enumerate(outputs) if other == name]
    same = same or [number for number, other in enumerate(outputs) if _plain(other) == _plain(name)]
    if len(same) == 1:
        return same[0]
    if same:
        numbers = " and ".join(map(str, same))
        raise UserError(f"{where}: the network has several classes called {name}; say which by its number: {numbers}")
    near = difflib.get_close_matches(name, outputs, n=1, cutoff=0.75)
    known = ", ".join(outputs[:8]) + (f" and {len(outputs) - 8} more" if len(outputs) > 8 else "")
    raise UserError(
        f"{where}: the network has no class {name}{f' (did you mean {near[0]}?)' if near else ''}; it has {known}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def in_words(groups: Sequence[Sequence[int]], classes: Sequence[str], outputs: Sequence[str]) -> dict[str, list[str]]:
    """Of each class the outputs that it stands for, by name, and by number where a name is not the only one."""
    count = Counter(outputs)
    names = [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(outputs)]
    return {name: [names[number] for number in members] for name, members in zip(classes, groups, strict=True)}
