"""The arguments of the command line, before Hydra composes the configuration from them.

Hydra reads a value as a number, a list, a sweep and so on, by its looks. Where the schema asks for text, it is what the
user typed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shlex
import sys
import types
import typing
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, ValueType
from hydra.errors import OverrideParseException

from camtrain.config.options import DatasetName, Task
from camtrain.config.schema import DATASETS, MISSING, RENAMED, Config
from camtrain.errors import UserError
from camtrain.files import expanded

SWEEP_FLAGS = {"-m", "--multirun"}

OF_A_RUN = (Task.evaluate, Task.compare, Task.export, Task.resume)
"""Tasks that take settings of a finished run's data set, and a run that broke off."""

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Keys of Hydra that hold text."""

SHORT = {"class": "class_name", "reference": "reference.network", "treatment": "treatment.network"}
"""Keys that the command line also takes under a shorter name."""

SWEEP_FUNCTION = re.compile(r"(choice|glob|range|interval|shuffle|sort|tag)\s*\(.*\)", re.DOTALL)

IN_QUOTES = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""

ITEM = re.compile(rf"\s*{IN_QUOTES}\s*(?=,|\Z)|(?:\\.|[^,])+", re.DOTALL)
"""A text between commas: within quotes, and behind a backslash, a comma is part of it."""

LIST = re.compile(rf"\[(?>(?<=[\[,])\s*{IN_QUOTES}|\\.|\[[^\[\]]*\]|[^\[\]\\])*\]", re.DOTALL)
"""A list of texts in brackets, which may be patterns such as `[0-9].jpg`; that begins and ends as a list does, and is
none, because its first bracket ends before."""

LIST_OR_ITEM = re.compile(rf"\s*{LIST.pattern}\s*(?=,|\Z)|{ITEM.pattern}", re.DOTALL)


def prepared(arguments: list[str]) -> list[str]:
    """The arguments as Hydra is to read them: options first, keys under their present names, text as it was typed."""
    sweep = not SWEEP_FLAGS.isdisjoint(arguments)
    # argparse accepts overrides on one side of an option only.
    ordered = sorted(map(current_name, arguments), key=lambda argument: argument not in SWEEP_FLAGS)
    return [raw_text(argument, sweep) for argument in ordered]


def current_name(argument: str) -> str:
    """An override under the key's present name: of former names, and of those that are short: `class=NAME` for
    `class_name`, as no field of a Python class can be called `class`, and networks that are compared."""
    written = re.fullmatch(r"([+~]*)([^=]*)(=.*)?", argument, re.DOTALL)
    assert written is not None
    prefix, key, value = written[1], written[2], written[3] or ""
    if key in SHORT and value:
        return f"{prefix}{SHORT[key]}{value}"
    if key not in RENAMED:
        return argument
    print(f"camtrain: {key} is now called {RENAMED[key]}", file=sys.stderr)
    return f"{prefix}{RENAMED[key]}{value}"


def raw_text(argument: str, sweep: bool) -> str:
    """An override of a key that holds text, in quotes where Hydra would read anything else than what was typed.

    What is in quotes already, an interpolation `${...}`, the null of a key in a section, and the commas and functions
    of a sweep keep their meaning.
    """
    key, equal, value = argument.partition("=")
    name = key.lstrip("+")
    listed = holds_texts(name)
    text = name in FOLDERS or is_text(name) or (listed and hint_of(name) is Any)
    if not equal or not value or "${" in value or not (text or listed):
        return argument
    if value == "null" and "." in name and hint_of(name) in (str | None, Any):
        return argument
    if sweep and SWEEP_FUNCTION.fullmatch(value):
        return argument
    parts = _parts(value, LIST_OR_ITEM if listed else ITEM) if sweep else [value]
    return f"{key}={','.join(_list_or_text(part, text, listed) for part in parts)}"


def _list_or_text(value: str, text: bool, listed: bool) -> str:
    """A value that Hydra reads as this text, or this list of texts, where the key may hold one."""
    if listed and LIST.fullmatch(value):
        return f"[{','.join(_text(part) for part in _parts(value[1:-1], ITEM))}]"
    return _text(value) if text else value


def _parts(value: str, kind: re.Pattern[str]) -> list[str]:
    """What stands between commas."""
    parts = [part.strip() for part in kind.findall(value)]
    return [part if kind is LIST_OR_ITEM and LIST.fullmatch(part) else part.replace("\\,", ",") for part in parts]


def _text(value: str) -> str:
    """A value that Hydra reads as this text."""
    try:
        found = parsed(f"key={value}")
    except OverrideParseException:
        return quoted(value)
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" and isinstance(found.value(), str)
    return value if in_quotes or (not found.is_sweep_override() and found.value() == value) else quoted(value)


def quoted(value: str) -> str:
    """A text in the quotes of Hydra's grammar."""
    return QuotedString(value, Quote.double).with_quotes()


def repeated(override: str) -> str:
    """An override as Hydra wrote it, such that :func:`prepared` and Hydra read the same again: texts with special
    characters stand in quotes, not behind backslashes."""
    found = parsed(override)
    found._value = _in_quotes(found._value)
    return f"{found.get_key_element()}={found.get_value_element_as_str()}"


def _in_quotes(value: Any) -> Any:
    """A parsed value in which texts with special characters, but for the keys of mappings, are in quotes."""
    if isinstance(value, list):
        return [_in_quotes(part) for part in value]
    if isinstance(value, dict):
        return {key: _in_quotes(part) for key, part in value.items()}
    special = isinstance(value, str) and not re.fullmatch(r"[\w./-]*", value)
    return QuotedString(value, Quote.double) if special else value


def parsed(argument: str) -> Override:
    """An override as Hydra reads it."""
    (override,) = OverridesParser.create().parse_overrides([argument])
    return override


@functools.cache
def owners() -> dict[str, type]:
    """By key, the class of the schema that has it; of whichever data set."""
    found: dict[str, type] = {}

    def add(node: Any, prefix: str) -> None:
        for name, hint in typing.get_type_hints(node).items():
            if dataclasses.is_dataclass(hint):
                add(hint, f"{prefix}{name}.")
            else:
                found[f"{prefix}{name}"] = node

    add(Config, "")
    for node in DATASETS.values():
        add(node, "dataset.")
    return found


def hint_of(key: str) -> Any:
    """The type of a key of the schema; None if there is no such key."""
    node = owners().get(key)
    return node and typing.get_type_hints(node)[key.rpartition(".")[2]]


def is_text(key: str) -> bool:
    """Whether a key holds text, or null."""
    return hint_of(key) in (str, str | None)


@functools.cache
def holds_texts(key: str) -> bool:
    """Whether a key of the configuration, with whichever data set, may hold a list of texts."""
    section, _, name = key.rpartition(".")
    nodes = {owners()[key]} | (set(DATASETS.values()) if section == "dataset" else set()) if key in owners() else set()
    for node in nodes:
        for entry in dataclasses.fields(node):
            hint = typing.get_type_hints(node)[entry.name]
            anything = hint is Any and entry.metadata["accepts"] is None
            if entry.name == name and (anything or hint in (list[str], list[str] | None)):
                return True
    return False


def is_list(key: str) -> bool:
    """Whether a key holds a list, or null."""
    hint = hint_of(key)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(typing.get_origin(option) is list for option in options)


def dataset_of_run(arguments: list[str]) -> list[str]:
    """The choice of data set that settings of it imply where a task goes by a run: the run's own.

    Nothing where the arguments choose one, set none of its keys, or name no run that can be read.
    """
    if not {f"task={task.value}" for task in OF_A_RUN} & {*arguments}:
        return []
    jobs = jobs_to_check([part for part in arguments if "=" in part and not part.startswith("-")], sweep=True)
    given = {override.key_or_group: override.value() for override in map(parsed, jobs[0] if jobs else [])}
    if "dataset" in given or not any(key.startswith("dataset.") for key in given):
        return []
    places = [expanded(str(given.get("run")))]
    places += [expanded(str(given.get(f"{key}.network"))).parent for key in ("reference", "treatment")]
    try:
        place = next(folder for folder in places if (folder / "result.json").is_file()) / "result.json"
        dataset = json.loads(place.read_text(encoding="utf-8"))["config"]["dataset"]
        needed = [
            f"dataset.{entry.name}={quoted(dataset[entry.name])}"
            for entry in dataclasses.fields(DATASETS[DatasetName[dataset["name"]]])
            if entry.default == MISSING and entry.name != "name" and f"dataset.{entry.name}" not in given
        ]
        return [f"dataset={dataset['name']}", *needed]
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return []


def jobs_to_check(arguments: list[str], sweep: bool) -> list[list[str]]:
    """Overrides of the jobs of a command; in a sweep each value is tried with the first value of the others.

    Returns:
        Nothing for a sweep over a glob, whose values only Hydra knows.

    Raises:
        UserError: several values for a key, although it is no sweep.
    """
    choices = []
    for override in OverridesParser.create().parse_overrides(arguments):
        if override.is_sweep_override() and not sweep:
            raise several_values(str(override.input_line))
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            return []
        if override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        elif isinstance(interval := override.value(), IntervalSweep):
            choices.append([f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)])
        else:
            choices.append([str(override.input_line)])
    first = [options[0] for options in choices]
    others = [
        [*first[:position], value, *first[position + 1 :]]
        for position, options in enumerate(choices)
        for value in options[1:]
    ]
    return [first, *others]


def several_values(argument: str) -> UserError:
    """What to say of `KEY=a,b` where it is no sweep: a list without brackets, a decimal comma, or a forgotten -m."""
    key, _, value = argument.partition("=")
    name, listed = key.lstrip("+"), shlex.quote(f"{key}=[{value}]")
    hint = hint_of(name)
    if is_list(name):
        return UserError(f"{argument}: a list stands in brackets: {listed}")
    other = ""
    if hint is Any:
        other = f", and a list stands in brackets: {listed}"
    elif hint not in (int, int | None) and re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", value):
        other = f", and a decimal point makes one number, {key}={value.replace(',', '.')}"
    sweep = f"several values for one key are a sweep; write camtrain -m {shlex.quote(argument)}"
    return UserError(f"{argument}: {sweep}{other}")
