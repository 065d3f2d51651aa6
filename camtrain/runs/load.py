"""A finished run, read again: its configuration, what it found, and both arms with their trained weights."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam import routes
from camtrain.config.options import DatasetName
from camtrain.config.schema import DATASETS, Config
from camtrain.device import compute_dtype, memory_format
from camtrain.errors import UserError
from camtrain.networks.build import build
from camtrain.networks.classifier import Classifier
from camtrain.networks.weights import is_pretrained, read_state
from camtrain.runs.result import NAME, SCHEMA
from camtrain.streams import Stream, torch_seed
from camtrain.training.checkpoint import WEIGHTS


class Finished(NamedTuple):
    """A run that came to its end."""

    folder: Path
    config: Config  # of the run; keys that came later have their defaults
    result: dict[str, Any]  # what `result.json` holds


def read(folder: Path) -> Finished:
    """Read a run folder.

    Args:
        folder: holds `result.json`.

    Raises:
        UserError: no run is there, it did not come to its end, or another version of camtrain wrote it.
    """
    path = folder / NAME
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no finished run is here, there is no {NAME}; give the folder of a run") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give the folder of a run that can be read") from error
    except ValueError as error:  # neither text nor JSON, or the empty file of a run that has just begun
        raise UserError(f"{path}: this is not the result of a finished run; give the folder of one") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path}: its schema is {schema}, this camtrain reads {SCHEMA}; train the run again")
    if result.get("status") != "completed":
        raise UserError(f"{path}: the run is {result.get('status')}, not completed; let it finish, or train it again")
    try:
        finished = Finished(folder, _configuration(result["config"]), result)
        _facts(finished)
        for arm in (BASELINE, REGULARISED):  # what a comparison needs
            result["arms"][arm]["epochs"][-1]["cam/dead_rate"]
        result["timing"]["seconds"], result["environment"]["torch"], result["data"]["name"]
    except (OmegaConfBaseException, LookupError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path}: not what this camtrain writes ({type(error).__name__}: {reason}); train the run again"
        ) from error
    return finished


def networks(finished: Finished, device: torch.device) -> dict[str, Classifier]:
    """Every arm's network as training left it, in evaluation mode.

    Args:
        finished: their run.
        device: where they are put.

    Raises:
        UserError: weights are missing, damaged, or not of this run's network.
    """
    config = finished.config
    states = {name: _weights(finished.folder / name / WEIGHTS) for name in finished.result["arms"]}
    classes, multilabel, routes = _facts(finished)
    # The file that pretrained weights came from may be gone by now, but that there was one says how images are
    # normalised: the run's own weights stand in for it.
    weights = str(finished.folder / next(iter(states)) / WEIGHTS) if is_pretrained(config.model) else None
    own = replace(config.model, weights=weights)
    size, seed = config.dataset.image_size, torch_seed(config.seed, Stream.weights)
    built = build(own, len(classes), size, seed, compute_dtype(config.trainer), multilabel).classifier
    found = {}
    for name, state in states.items():
        network = copy.deepcopy(built)
        try:
            network.backbone.load_state_dict(state)
        except RuntimeError as error:
            path = finished.folder / name / WEIGHTS
            raise UserError(
                f"{path}: not the weights of the {config.model.name} that {NAME} tells of; train the run again"
            ) from error
        network.routes = routes
        network.to(device, memory_format=memory_format(config.trainer)).eval()  # type: ignore[call-overload]
        found[name] = network
    return found


class _Facts(NamedTuple):
    classes: list[str]
    multilabel: bool
    paths: routes.Routes


def _facts(finished: Finished) -> _Facts:
    """What the run found out and the arms need."""
    data, path = finished.result["data"], finished.result["model"]["gradient_path"]
    return _Facts(
        [str(name) for name in data["classes"]],
        bool(data["multilabel"]),
        routes.Routes(routes.GradientRoute(path["training"]), routes.GradientRoute(path["evaluation"])),
    )


def _configuration(tree: Any) -> Config:
    """The configuration as dataclasses. Ranges are not checked: its data set may be gone by now, and need not be."""
    schema = OmegaConf.structured(Config(dataset=DATASETS[DatasetName[tree["dataset"]["name"]]]()))
    config = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(tree)))
    assert isinstance(config, Config)
    return config


def _weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: the weights are not there; train the run again")
    return read_state(path, f"{path}: train the run again")
