"""Measurements that are kept as soon as they are made, so that a run that breaks off does not make them again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from camtrain.config.options import CamVariant
from camtrain.errors import MALFORMED
from camtrain.evaluation.accumulate import Measured
from camtrain.evaluation.localisation import Localisation, SizeGroup
from camtrain.evaluation.other_maps import OtherMaps
from camtrain.evaluation.randomisation import Randomisation
from camtrain.packed import Damaged, read_packed, write_packed

Part = TypeVar("Part", Measured, Localisation, OtherMaps, Randomisation)

Keep = Callable[[str, Callable[[], Part]], Part]
"""From the name of a measurement and how to make it to the measurement, made or kept."""

_KINDS = {kind.__name__: kind for kind in (Measured, Localisation, SizeGroup, OtherMaps, Randomisation, CamVariant)}

log = logging.getLogger("camtrain")


def make_all(_name: str, make: Callable[[], Part]) -> Part:
    """Keep nothing."""
    return make()


def kept_in(folder: Path, epoch: int) -> Keep:
    """Keep measurements in a folder, and take from there those of the same epoch that are whole.

    Args:
        folder: is made.
        epoch: whose networks are measured.
    """

    def keep(name: str, make: Callable[[], Part]) -> Part:
        path = folder / f"{name}.safetensors"
        try:
            of, tree = read_packed(path)
            if of == epoch:
                found: Part = _read(tree)
                return found
        except FileNotFoundError:
            pass
        except (OSError, Damaged, *MALFORMED) as error:
            log.warning("%s cannot be used (%s): measured again", path, error)
        made = make()
        write_packed(path, [epoch, _written(made)])
        return made

    return keep


def _written(value: Any) -> Any:
    """As :mod:`camtrain.packed` takes it: our own kinds by name, with their fields."""
    if type(value).__name__ in _KINDS:
        if isinstance(value, CamVariant):
            fields: list[Any] = [value.value]
        else:
            fields = (
                [*value] if isinstance(value, tuple) else [getattr(value, at.name) for at in dataclasses.fields(value)]
            )
        return {"kind": type(value).__name__, "fields": [_written(field) for field in fields]}
    if isinstance(value, Mapping):
        return {"items": [[_written(key), _written(part)] for key, part in value.items()]}
    return [_written(part) for part in value] if isinstance(value, list) else value


def _read(tree: Any) -> Any:
    """The inverse of :func:`_written`."""
    if isinstance(tree, dict):
        if "kind" in tree:
            return _KINDS[tree["kind"]](*map(_read, tree["fields"]))
        return {_read(key): _read(part) for key, part in tree["items"]}
    return [_read(part) for part in tree] if isinstance(tree, list) else tree
