"""The state of training as one file, and the weights of each arm as torchvision's networks load them.

The file is in the safetensors format: tensors by name, everything else as JSON in its header. It is replaced whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from camtrain.files import write_atomically
from camtrain.training.arm import Arm
from camtrain.training.state import TrainingState

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.pt"

_HEADER, _TENSOR = "state", "tensor"


def save_state(state: TrainingState, folder: Path) -> None:
    """Write :data:`CHECKPOINT`."""
    tensors: dict[str, Tensor] = {}
    header = json.dumps(_without_tensors(state.state_dict(), "", tensors))
    content = save(tensors, metadata={_HEADER: header})
    write_atomically(folder / CHECKPOINT, lambda opened: opened.write(content))


def load_state(state: TrainingState, folder: Path) -> None:
    """Read :data:`CHECKPOINT` into the state; errors as for :meth:`TrainingState.load_state_dict`."""
    with safe_open(folder / CHECKPOINT, framework="pt") as opened:
        tree = json.loads(opened.metadata()[_HEADER])
        state.load_state_dict(_with_tensors(tree, opened.get_tensor))


def save_weights(arm: Arm, folder: Path) -> Path:
    """Write :data:`WEIGHTS`: the backbone's state dict, which torchvision's own network of that name loads."""
    path = folder / WEIGHTS
    weights = {key: value.cpu() for key, value in arm.network.backbone.state_dict().items()}
    write_atomically(path, lambda opened: torch.save(weights, opened))
    return path


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with a reference in place of each tensor, which goes to `tensors`.

    A dictionary becomes a list of its items: JSON has no keys but texts, and an optimiser's are numbers.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {"items": [[key, _without_tensors(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(part, f"{name}/{number}", tensors) for number, part in enumerate(value)]
    return value


def _with_tensors(value: Any, get: Any) -> Any:
    """The inverse of :func:`_without_tensors`; tuples have become lists."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return get(value[_TENSOR])
        return {key: _with_tensors(part, get) for key, part in value["items"]}
    return [_with_tensors(part, get) for part in value] if isinstance(value, list) else value
