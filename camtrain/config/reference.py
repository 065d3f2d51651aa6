"""The reference of all settings: what each key may hold, its default, range and meaning.

`python -m camtrain.config.reference` prints docs/settings.md.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from camtrain.config.options import AUTO
from camtrain.config.schema import DATASETS, MISSING, Config, DatasetConfig

EACH = "a list, each item "
KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", dict: "a mapping"}

HEAD = """\
# Settings

Every key of the configuration, written by `python -m camtrain.config.reference` from the schema. On the command line a
setting is `KEY=VALUE`, for instance `camtrain trainer.epochs=3`; `camtrain -m cam.share=0.3,0.5` runs a sweep.

`dataset`, `model`, `cam`, `optim`, `trainer` and `experiment` are groups: `GROUP=CHOICE` sets several keys at once, and
may replace the defaults below. `camtrain --help` lists the choices, and `camtrain GROUP=CHOICE --cfg job` shows every
key with the value that a run would use.
"""


def accepted_values(node: type, name: str) -> str | None:
    """What a field of the schema may hold, in words; None if there are none for it."""
    hint = typing.get_type_hints(node).get(name)
    metadata = {entry.name: dict(entry.metadata) for entry in dataclasses.fields(node)}.get(name, {})
    if metadata.get("accepts"):
        return str(metadata["accepts"])
    choices = metadata.get("choices")
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if hint is Any:
        return "text, a list of texts, or null"
    words = []
    if {int, str} <= set(options):
        words = [KINDS[float if float in options else int], AUTO]
    for option in options if not words else set(options) & {types.NoneType}:
        plain = typing.get_origin(option) or option
        if isinstance(plain, type) and issubclass(plain, enum.Enum):
            words.append(one_of([entry.name for entry in choices or plain]))
        elif plain is list:
            (item,) = typing.get_args(option)
            words.append(
                EACH + (one_of([entry.name for entry in item]) if issubclass(item, enum.Enum) else KINDS[item])
            )
        elif plain is types.NoneType:
            words.append("null")
        elif plain in KINDS:
            words.append(KINDS[plain])
    return " or ".join(words) or None


def one_of(choices: Sequence[str]) -> str:
    """The choices as the end of a sentence."""
    return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]


def reference() -> str:
    """All of docs/settings.md."""
    top = [entry for entry in dataclasses.fields(Config) if entry.metadata]
    lines = [HEAD, *section("Top level", "", Config, top)]
    kinds = typing.get_type_hints(Config)
    for entry in dataclasses.fields(Config):
        if not entry.metadata:
            node = kinds[entry.name]
            lines += section(f"`{entry.name}`", f"{entry.name}.", node, dataclasses.fields(node))
        if entry.name == "dataset":
            for node in dict.fromkeys(DATASETS.values()):
                names = ", ".join(name.value for name, other in DATASETS.items() if other is node)
                lines += section(f"`dataset`: {names}", "dataset.", node, own_fields(node))
    return "\n".join(lines)


def own_fields(node: type[DatasetConfig]) -> list[dataclasses.Field[Any]]:
    """Fields that not every data set has."""
    shared = {entry.name for entry in dataclasses.fields(DatasetConfig)}
    return [entry for entry in dataclasses.fields(node) if entry.name not in shared]


def section(title: str, prefix: str, node: type, entries: Iterable[dataclasses.Field[Any]]) -> Iterator[str]:
    """Lines of a heading, the section's own documentation, and a table with a row for each key."""
    yield f"## {title}\n"
    if prefix:
        yield f"{inspect.getdoc(node)}\n"
    yield "| Key | Value | Default | Range | Meaning |"
    yield "|---|---|---|---|---|"
    for entry in entries:
        accepted = accepted_values(node, entry.name) or ""
        bounds = entry.metadata["range"] or ""
        cells = f"`{prefix}{entry.name}`", accepted, default(entry), str(bounds), entry.metadata["doc"]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def default(entry: dataclasses.Field[Any]) -> str:
    """A field's default as it is written in YAML."""
    value = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    if value == MISSING:
        return "must be set"
    if isinstance(value, list):
        return f"`[{', '.join(written(item) for item in value)}]`"
    return f"`{written(value)}`"


def written(value: Any) -> str:
    """A plain value as it is written in YAML."""
    if isinstance(value, enum.Enum):
        return value.name
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


if __name__ == "__main__":
    print(reference(), end="")
