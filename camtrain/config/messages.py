"""Hydra's and OmegaConf's errors as one line that names the key and the choices."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from camtrain.config.reference import EACH, accepted_values, one_of
from camtrain.config.schema import RENAMED, Config, keys


def message(error: Exception) -> str:
    """One line for an error in the command line or in a configuration file."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = f'{key}="{value.strip(chr(34))}"'
        return f"cannot read {error.override!r}; a value with special characters needs quotes within quotes: '{quoted}'"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        others = f"; any other classifier of torchvision: model.name={choice}" if group == "model" else ""
        return f"{group}={choice}: no such choice; choose {one_of(error.options)}{others}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        return message(cause)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return _about_key(error)
    return _first_line(error)


def _about_key(error: OmegaConfBaseException) -> str:
    key, node = str(error.full_key), error.object_type
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        if key in RENAMED:
            return f"{key} is now called {RENAMED[key]}"
        if isinstance(node, type) and dataclasses.is_dataclass(node):
            names = [entry.name for entry in dataclasses.fields(node)]
            where, _, leaf = key.rpartition(".")
            near = difflib.get_close_matches(leaf, names, n=1, cutoff=0.75)
            meant = f"{where}.{near[0]}".lstrip(".") if near else _meant(key)
            hint = f" (did you mean {meant}?)" if meant else ""
            return f"{key}: no such key{hint}; {f'{where} has' if where else 'there are'} {', '.join(names)}"
        if key.startswith("arms."):
            return f"{key}: no such arm or setting yet; a + in front adds it: +arms.NAME.cam.KEY=VALUE"
        return f"{key}: no such key"
    if isinstance(error, ValidationError):
        if "[" in key:  # OmegaConf does not say to which section a list belongs
            node = functools.reduce(_field_type, key.split(".")[:-1], Config)
        leaf = key.rpartition(".")[2].partition("[")[0]
        kind = accepted_values(node, leaf) if isinstance(node, type) and dataclasses.is_dataclass(node) else None
        if "[" in key and kind:
            kind = kind.removeprefix(EACH).removesuffix(" or null")
        if kind:
            return f"{key}: {_said(error)} does not fit; it must be {kind}"
    return f"{key}: {_first_line(error)}"


def _field_type(node: Any, name: str) -> Any:
    return typing.get_type_hints(node).get(name) if dataclasses.is_dataclass(node) else None


def _meant(key: str) -> str | None:
    """The key of the schema that somebody who wrote `key` most likely had in mind."""
    known = [name for name, _, _ in keys(Config())]
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    return next(iter(same_leaf or difflib.get_close_matches(key, known, n=1, cutoff=0.8)), None)


def _said(error: OmegaConfBaseException) -> str:
    # OmegaConf keeps the offending value only in its sentence, in quotes.
    quoted = _first_line(error).split("'")
    return quoted[1] if len(quoted) > 2 and quoted[1] not in (error.key, error.full_key) else "this value"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


CONFIG_ERRORS = (HydraException, OmegaConfBaseException)
