"""A finished run, read again: what it found, and the trained networks of its arms."""

from __future__ import annotations

import copy
import json
import math
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from camtrain.config.schema import Config, DatasetConfig, PublishedConfig
from camtrain.config.validate import check_arms, image_shape
from camtrain.device import compute_dtype, memory_format
from camtrain.errors import MALFORMED, Diverged, UserError, first_line
from camtrain.networks.build import build
from camtrain.networks.classifier import Classifier
from camtrain.networks.weight_file import read_state
from camtrain.runs.result import DIVERGED, NAME, SCHEMA, ArmResult, RunResult
from camtrain.streams import Stream, torch_seed
from camtrain.training.checkpoint import WEIGHTS

TRAIN_AGAIN = "the run diverged: train it again with a lower optim.lr"


@dataclass(frozen=True)
class Finished:
    """A completed run."""

    folder: Path
    result: RunResult

    @property
    def config(self) -> Config:
        """Of the run; keys that came later have their defaults."""
        return self.result.config


def begun(folder: Path) -> RunResult:
    """What is known of a run that broke off, or was completed.

    Args:
        folder: holds `result.json`.

    Raises:
        UserError: no run is there, another version of camtrain wrote it, or it measured another one's networks.
        Diverged: its arms were stopped because their numbers were no longer finite.
    """
    result = _parsed(folder / NAME)
    if result.timing.step is None and (result.trained_seed is not None or result.networks):
        task = result.config.task.value
        raise UserError(f"{folder}: networks were only measured here, which cannot go on; repeat task={task}")
    if result.status == DIVERGED:
        raise Diverged(f"{folder / NAME}: {TRAIN_AGAIN}")
    return result


def read(folder: Path) -> Finished:
    """Read a run folder.

    Args:
        folder: holds `result.json`.

    Raises:
        UserError: no run is there, it was not completed, or another version of camtrain wrote it.
        Diverged: the run's last figures are of networks whose numbers are not finite.
    """
    path = folder / NAME
    result = _parsed(path)
    if result.status == DIVERGED:
        raise Diverged(f"{path}: {TRAIN_AGAIN}")
    if result.status != "completed":
        go_on = f"camtrain task=resume run={shlex.quote(str(folder))}"
        raise UserError(f"{path}: the run is {result.status}, not completed; let it finish, or go on with it: {go_on}")
    for name, arm in result.arms.items():
        if _lost(arm):
            raise Diverged(f"{path}: the {name} arm's figures are not finite; {TRAIN_AGAIN}")
    return Finished(folder, result)


def of_this_machine(theirs: DatasetConfig, ours: DatasetConfig) -> DatasetConfig:
    """A run's data set, cached and downloaded where this command says: its folder may come from another machine, and
    nothing is written to places that it names."""
    own = replace(theirs, cache=theirs.cache and ours.cache)
    return replace(own, download=False) if isinstance(own, PublishedConfig) else own


def named(config: Config, chosen: Collection[str]) -> list[str]:
    """Functions that the user named on the command line, of which these keys were set."""
    values = {"model.name": config.model.name, "dataset.source": getattr(config.dataset, "source", "")}
    return [value for key, value in values.items() if key in chosen]


def check_own_code(config: Config, allowed: Collection[str], *keys: str) -> None:
    """Raise :class:`UserError` for a function that a run's folder asks to be called, unless the user named it.

    A folder may come from anywhere, and a function of whatever module may do anything.

    Args:
        config: of the run.
        allowed: `package.module:function` that the user named.
        keys: of `model.name` and `dataset.source`, those that are going to be called.
    """
    for key in keys:
        section, _, name = key.partition(".")
        function = getattr(getattr(config, section), name, None)
        if isinstance(function, str) and ":" in function and function not in allowed:
            raise UserError(
                f"run: {key}={function} is a function that the run asks to be called; if it is yours, say so by"
                f" repeating {shlex.quote(f'{key}={function}')}"
            )


def _parsed(path: Path) -> RunResult:
    """Raise :class:`UserError` for what this version does not write."""
    tree = _json(path)
    schema = tree.get("schema") if isinstance(tree, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path}: its schema is {schema}, this camtrain reads {SCHEMA}; train the run again")
    try:
        result = RunResult.from_json(tree)
        check_arms(result.config.arms, 1 if result.networks else 2)  # whose names are those of folders
        if result.status == "completed":
            for arm in result.arms.values():  # what a comparison needs
                arm.final["cam/dead_rate"]
        result.environment["torch"]
    except (*MALFORMED, OmegaConfBaseException, UserError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path}: not what this camtrain writes ({type(error).__name__}: {reason}); train the run again"
        ) from error
    return result


def _lost(arm: ArmResult) -> bool:
    """Whether the last figures, as versions wrote them that completed such runs, are of numbers that are not finite."""
    entropy, alive = arm.final.get("cam/entropy", 0.0), arm.final["cam/dead_rate"] < 1
    return math.isnan(arm.final.get("confidence/top_probability", 0.0)) or (math.isnan(entropy) and alive)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent}: no finished run is here, there is no {NAME}; give a run's folder") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the folder of a run that can be read") from error
    except ValueError as error:  # neither text nor JSON, or the empty file of a run that has just begun
        raise UserError(f"{path}: this is not the result of a finished run; give the folder of one") from error


def networks(finished: Finished, device: torch.device, only: str | None = None) -> dict[str, Classifier]:
    """Every arm's network as training left it, in evaluation mode, with the routes of its gradients.

    Args:
        finished: their run.
        device: where they are put.
        only: the arm that is wanted; None: all.

    Raises:
        UserError: weights are missing, damaged, or not of this run's network.
        Diverged: they are not finite.
    """
    config, data = finished.config, finished.result.data
    arms = finished.result.arms if only is None else [only]
    paths = {name: finished.folder / name / WEIGHTS for name in arms}
    states = {name: _weights(path) for name, path in paths.items()}
    shape, seed = image_shape(config.dataset), torch_seed(config.seed, Stream.weights)
    precision, several = compute_dtype(config.trainer), data.multilabel
    # The file that pretrained weights came from may be gone by now; the run's own take their place.
    built = build(config.model, len(data.classes), shape, seed, precision, several, load=False).classifier
    found = {}
    for name, state in states.items():
        network = copy.deepcopy(built)
        try:
            network.backbone.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"{paths[name]}: not the weights of the {config.model.name} described in {NAME}; train the run again"
            ) from error
        if not all(bool(weight.isfinite().all()) for weight in network.parameters()):
            raise Diverged(f"{paths[name]}: the weights are not finite; {TRAIN_AGAIN}")
        network.registered = config.evaluate.registered
        if finished.result.model.cells is not None:
            network.place(shape[1:], finished.result.model.cells)
        network.routes = finished.result.model.gradient_path
        network.to(device, memory_format=memory_format(config.trainer)).eval()  # type: ignore[call-overload]
        found[name] = network
    return found


def _weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: the weights are not there; train the run again")
    return read_state(path, str(path), "train the run again")
