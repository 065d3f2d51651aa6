"""Weights from files and from torchvision, and the normalisation they expect."""

from __future__ import annotations

import logging
import os
import urllib.error
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError, first_line
from camtrain.networks.fit_in_words import guess, misfit, summary
from camtrain.networks.fit_weights import fit, modern
from camtrain.networks.head_layer import final_layer
from camtrain.networks.weight_file import read_state
from camtrain.networks.zoo import TIMM, make_network
from camtrain.normalisation import DEVIATION, MEAN

POSITIONS = "encoder.pos_embedding"
"""Position embeddings of torchvision's ViT, which are stretched to other sizes."""

log = logging.getLogger("camtrain")


def normalisation(config: ModelConfig, network: nn.Module, channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of each channel that images are normalised with.

    Those of `model.mean` and `model.std`; else as timm describes the network, or torchvision its weights; else those of
    ImageNet, or 0.5 and 0.25 where images have not three channels.

    Raises:
        UserError: there is not one number, or one for each channel.
    """
    mean, std = (MEAN, DEVIATION) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    described = getattr(network, "pretrained_cfg", None) or {}
    if channels == 3:
        if "mean" in described and "std" in described:
            mean, std = tuple(described["mean"]), tuple(described["std"])
        elif is_pretrained(config) and config.name in models.list_models(module=models):
            transforms: Any = models.get_model_weights(config.name)["DEFAULT"].transforms()
            mean, std = tuple(transforms.mean), tuple(transforms.std)
    return _each("mean", config.mean, channels) or mean, _each("std", config.std, channels) or std


def _each(key: str, values: Sequence[float] | None, channels: int) -> Sequence[float] | None:
    if values is not None and len(values) not in (1, channels):
        raise UserError(f"model.{key}={list(values)}: images have {channels} channels; give as many numbers, or one")
    return values and list(values) * (channels if len(values) == 1 else 1)


def is_pretrained(config: ModelConfig) -> bool:
    """Whether weights are loaded; `model.weights` may be null or the word none."""
    return config.weights not in (None, "none")


def load_weights(network: nn.Module, weights: str, name: str, classes: int, image_size: int) -> str | None:
    """Load a file of weights, or torchvision's by name, and say in the log how they fit.

    The last layer keeps its fresh weights where the file has none for these classes; see
    :func:`camtrain.networks.fit_weights.fit` for what else may differ. Numbers are converted to the network's
    precision.

    Args:
        network: with fresh weights.
        weights: the file, or the name of weights.
        name: of the network.
        classes: its outputs.
        image_size: height and width of its images.

    Returns:
        Name of the part of the network that keeps its fresh weights; None if there is none.

    Raises:
        UserError: no such file or name, a file of another kind or of another network, or NaN or infinity in it.
    """
    own = network.state_dict()
    state = modern(_state(weights, name), own)
    found = fit(own, state, final_layer(network, classes))
    if POSITIONS in found.reshaped and isinstance(network, models.VisionTransformer):
        key = found.reshaped[POSITIONS]
        state[key] = _stretched(state[key], image_size, network.patch_size)
        found = fit(own, state, final_layer(network, classes))
    if not found.complete:
        difference = f"{misfit(found, own, state)}{guess(state, name)}"
        raise UserError(f"model.weights={weights}: these are weights of another network than {name}: {difference}")
    for key in found.matched.values():
        if state[key].is_floating_point() and not bool(torch.isfinite(state[key]).all()):
            problem = f"{key} holds NaN or infinity: the network had diverged when it was saved"
            raise UserError(f"model.weights={weights}: {problem}; give other weights")
    own.update({place: state[key] for place, key in found.matched.items()})
    network.load_state_dict(own)  # with the version numbers of its parts, which torchvision's MNASNet asks for
    log.info("%-9s %s: %s", "weights", weights, summary(found, own, state))
    return found.fresh


UNLIKELY = 1009
"""Outputs that no other layer of a network has."""


def outputs_in_file(config: ModelConfig, shape: tuple[int, int, int]) -> int | None:
    """How many classes the file `model.weights` of a network is for; None where it has no last layer for it.

    Args:
        config: of the network.
        shape: channels, height and width of its images.

    Raises:
        UserError: there is no such network, or no file of weights.
    """
    network = make_network(config, UNLIKELY, shape)
    own, head = network.state_dict(), final_layer(network, UNLIKELY)
    state = modern(_state(str(config.weights), config.name), own)
    found = fit(own, state, head)
    key = {**found.matched, **found.reshaped}.get(f"{head}.weight")
    return None if key is None else len(state[key])


def _state(weights: str, name: str) -> dict[str, Tensor]:
    label = f"model.weights={weights}"
    try:
        path = FilePath(weights).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # no permission, no home
        raise UserError(f"{label}: cannot be read ({first_line(error)}); give a file that can") from error
    if is_folder:
        below = [f"{depth}.{kind}" for depth in ("*", "*/*") for kind in ("pt", "pth", "safetensors")]
        files = sorted(str(file) for pattern in below for file in path.glob(pattern))
        such = f", such as {files[-1]}" if files else ""
        raise UserError(f"{label}: a folder; give a file of weights{such}")
    if is_there:
        return read_state(path, label)
    if name.startswith(TIMM) and weights == "DEFAULT":
        return _of_timm(name.removeprefix(TIMM), label)
    known = name in models.list_models(module=models)
    names = [entry.name for entry in models.get_model_weights(name)] if known else []
    if weights not in (*names, "DEFAULT") or not names:
        choices = f", or one of {', '.join(names)}" if names else ""
        raise UserError(f"{label}: no such file; give a file of weights{choices}")
    if torch.hub.get_dir().startswith("~"):  # torch would make a folder of that name here
        raise UserError(f"{label}: this account has no home folder; set TORCH_HOME=FOLDER, or give a file of weights")
    entry: Any = models.get_model_weights(name)[weights]
    file = FilePath(torch.hub.get_dir(), "checkpoints", FilePath(entry.url).name)
    if os.access(file, os.F_OK):
        return read_state(file, f"{label}: {file} in torch's cache", "delete it, and it is downloaded again")
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(f"{label}: cannot be downloaded ({first_line(error)}); give a file instead") from error


def _stretched(positions: Tensor, image_size: int, patch_size: int) -> Tensor:
    """Position embeddings (1, cells + 1, channels) of a square grid, for images of another size."""
    state = OrderedDict({POSITIONS: positions.float()})
    try:
        return interpolate_embeddings(image_size, patch_size, state)[POSITIONS]
    except ValueError:  # of another kind; its shape is told
        return positions


def _of_timm(name: str, label: str) -> dict[str, Tensor]:
    """The weights that timm downloads for a network."""
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # its hub raises many kinds
        raise UserError(f"{label}: cannot be downloaded ({first_line(error)}); give a file instead") from error
