"""Hydra's and OmegaConf's errors as one line that names the key and the choices."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from camtrain.config.arguments import is_list, owners, quoted
from camtrain.config.options import Task
from camtrain.config.reference import EACH, accepted_values, one_of
from camtrain.config.schema import DATASETS, RENAMED
from camtrain.errors import first_line


def message(error: Exception) -> str:
    """One line for an error in the command line or in a configuration file."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        if group == "hydra":
            group, choice = f"hydra/{choice.partition('/')[0]}", choice.partition("/")[2]
        return f"{group}={choice}: no such choice{_meant_choice(group, choice, error.options)}"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        return message(cause)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return _about_key(error)
    if "does not support sweep type" in str(error):
        return "an interval is searched by hydra/sweeper=optuna; other sweeps take values, KEY=A,B"
    return first_line(error)


def _unreadable(argument: str) -> str:
    """What to say of an argument that is not in Hydra's grammar."""
    key, equal, value = argument.partition("=")
    name = key.lstrip("+")
    if not equal:
        meant = [f"task={argument}"] if argument in Task.__members__ else []
        meant += [f"dataset=folder {shlex.quote(f'dataset.root={argument}')}"] if Path(argument).is_dir() else []
        meant += [f"{argument}=VALUE"] if any(f"{key}.".startswith(f"{argument}.") for key in owners()) else []
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ", for instance trainer.epochs=3"
        return f"{argument}: settings are written KEY=VALUE, without blanks around the ={hint}"
    if is_list(name):
        listed = shlex.quote(f"{key}=[{value.strip('[]')}]")
        return f"cannot read {argument!r}; a list stands in brackets: {listed}"
    if node := owners().get(name):
        return f"cannot read {argument!r}; {name} must be {accepted_values(node, name.rpartition('.')[2])}"
    advice = shlex.quote(f"{key}={quoted(value)}")
    return f"cannot read {argument!r}; a value with special characters needs quotes within quotes: {advice}"


def _meant_choice(group: str, choice: str, options: Sequence[str]) -> str:
    """What follows where a group has no such choice: the one that was meant, or all of them."""
    lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(choice.lower(), lower, n=1, cutoff=0.75)
    hint = f" (did you mean {lower[near[0]]}?)" if near else ""
    others = ""
    if group == "dataset" and Path(choice).exists():
        others = f"; your own images: dataset=folder {shlex.quote(f'dataset.root={choice}')}"
    elif group == "model" and Path(choice).exists():
        others = f"; a file of weights: model=NETWORK {shlex.quote(f'model.weights={choice}')}"
    elif group == "model":
        others = f"; any other classifier of torchvision: {shlex.quote(f'model.name={choice}')}"
    return f"{hint}; choose {one_of(options)}{others}"


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
            hint = f" (did you mean {meant}?)" if meant and meant != key else _sets_with(leaf)
            return f"{key}: no such key{hint}; {f'{where} has' if where else 'there are'} {', '.join(names)}"
        if key.startswith("arms."):
            return f"{key}: no such arm or setting yet; a + in front adds it: +arms.NAME.cam.KEY=VALUE"
        return f"{key}: no such key"
    if isinstance(error, ValidationError):
        name, item = key.partition("[")[::2]
        leaf = name.rpartition(".")[2]
        if item:  # OmegaConf does not say to which section a list belongs
            node = owners().get(name)
        kind = accepted_values(node, leaf) if isinstance(node, type) and dataclasses.is_dataclass(node) else None
        if item and kind:
            kind = kind.removeprefix(EACH).removesuffix(" or null")
        if kind:
            brackets = f", in brackets: {name}=[...]" if is_list(name) and not item else ""
            return f"{key}: {_said(error)} does not fit; it must be {kind}{brackets}"
    return f"{key}: {first_line(error)}"


def _sets_with(leaf: str) -> str:
    """Which data sets have a key that the chosen one lacks, in words; nothing if none has."""
    names = [name.value for name, node in DATASETS.items() if leaf in typing.get_type_hints(node)]
    return f" of this data set, but of dataset={', '.join(names)}" if names else ""


def _meant(key: str) -> str | None:
    """The key of the schema that somebody who wrote `key` most likely had in mind."""
    same_leaf = [name for name in owners() if name.rpartition(".")[2] == key.rpartition(".")[2].lower()]
    return next(iter(same_leaf or difflib.get_close_matches(key, owners(), n=1, cutoff=0.8)), None)


def _said(error: OmegaConfBaseException) -> str:
    # OmegaConf keeps the offending value only in its sentence, in quotes.
    quoted = first_line(error).split("'")
    return quoted[1] if len(quoted) > 2 and quoted[1] not in (error.key, error.full_key) else "this value"


CONFIG_ERRORS = (HydraException, OmegaConfBaseException)
