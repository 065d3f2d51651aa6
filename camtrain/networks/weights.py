"""Weights from files and from torchvision, and the normalisation they expect."""

from __future__ import annotations

import urllib.error
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError, first_line
from camtrain.networks.head_layer import final_layer
from camtrain.normalisation import DEVIATION, MEAN


def normalisation(config: ModelConfig, network: nn.Module, channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of each channel that images are normalised with.

    Those of `model.mean` and `model.std`; else of the pretrained weights, as torchvision or timm describes them; else
    ImageNet's, or 0.5 and 0.25 where images have not three channels.

    Raises:
        UserError: there is not one number, or one for each channel.
    """
    mean, std = (MEAN, DEVIATION) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    described = getattr(network, "pretrained_cfg", None) or {}
    if is_pretrained(config) and channels == 3:
        if "mean" in described and "std" in described:
            mean, std = tuple(described["mean"]), tuple(described["std"])
        elif config.name in models.list_models(module=models):
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


def load_weights(network: nn.Module, weights: str, name: str, classes: int, image_size: int) -> None:
    """Load a state dict. The final layer keeps its fresh weights where the file was made for other classes."""
    state = _state(weights, name)
    own = network.state_dict()
    place = "encoder.pos_embedding"
    if place in state and place in own and state[place].shape != own[place].shape:
        patch = cast(Any, network).patch_size
        state = interpolate_embeddings(image_size, patch, OrderedDict(state))
    head = final_layer(network, classes)
    unknown = sorted(set(state) - set(own))
    missing = sorted(key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    shapes = sorted(key for key in set(own) & set(state) if own[key].shape != state[key].shape)
    unknown = [key for key in unknown if not key.lower().startswith("aux")]
    other = [key for key in shapes if head is None or not key.startswith(f"{head}.")]
    if unknown or missing or other:
        key = (missing or unknown or other)[0]
        problem = "it lacks" if missing else "it has the unknown" if unknown else "another shape of"
        raise UserError(f"model.weights={weights}: these are weights of another network than {name}: {problem} {key}")
    for key in own:
        if key in state and key not in shapes:
            own[key] = state[key]
    network.load_state_dict(own)  # with the version numbers of its parts, which torchvision's MNASNet asks for


def read_state(path: FilePath, name: str) -> dict[str, Tensor]:
    """A state dict from a file.

    Raises:
        UserError: it is none; `name` says which file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no state dict
        raise UserError(f"{name}: not a file of weights ({type(error).__name__})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{name}: not a state dict (a dict of tensors)")
    return state


def _state(weights: str, name: str) -> dict[str, Tensor]:
    path = FilePath(weights).expanduser()
    if path.is_file():
        return read_state(path, f"model.weights={weights}")
    names = (
        []
        if name not in models.list_models(module=models)
        else [entry.name for entry in models.get_model_weights(name)]
    )
    if weights not in (*names, "DEFAULT") or not names:
        choices = f", or one of {', '.join(names)}" if names else ""
        raise UserError(f"model.weights={weights}: no such file; give a file of weights{choices}")
    try:
        return dict(models.get_model_weights(name)[weights].get_state_dict(progress=True, check_hash=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"model.weights={weights}: cannot be downloaded ({reason}); give a file instead") from error
