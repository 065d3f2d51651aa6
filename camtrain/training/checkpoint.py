"""The state of training as one file, and the weights of each arm as torchvision's networks load them.

The newest two files are kept: until a new one is whole, the last good one stays, and where the newest is damaged, the
one before it serves.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from camtrain.errors import MALFORMED, UserError, out_of_memory
from camtrain.files import write_atomically
from camtrain.packed import Damaged, read_packed, write_packed
from camtrain.training.arm import Arm
from camtrain.training.state import TrainingState

CHECKPOINT, FORMER = "checkpoint.safetensors", "checkpoint.former.safetensors"
WEIGHTS = "weights.pt"

log = logging.getLogger("camtrain")


def save_state(state: TrainingState, folder: Path) -> None:
    """Write :data:`CHECKPOINT`; the one before becomes :data:`FORMER`.

    Raises:
        OSError: it cannot be written; those that are there stay as they are.
    """
    write_packed(folder / CHECKPOINT, state.state_dict(), keep=folder / FORMER)


def load_state(state: TrainingState, folder: Path) -> bool:
    """Read the newest checkpoint that is whole into the state.

    Returns:
        Whether there was one; else the state is as it was.

    Raises:
        UserError: a file cannot be read, all are damaged, or it is of other arms or another network.
    """
    damaged = []
    for path in (folder / CHECKPOINT, folder / FORMER):
        try:
            found = read_packed(path)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged.append(path)
            log.warning("%s is damaged: %s", path, error)
            continue
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; make it readable") from error
        try:
            state.load_state_dict(found)
        except (*MALFORMED, RuntimeError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"{path}: not a checkpoint of this run's arms and network; train anew") from error
        if damaged:  # else it would take the place of the whole one, and a crash just then leave none
            path.replace(damaged[0])
        return True
    if damaged:
        raise UserError(f"{damaged[0]}: damaged, as is every other checkpoint of the run; train anew")
    return False


def save_weights(arm: Arm, folder: Path) -> Path:
    """Write :data:`WEIGHTS`: the backbone's state dict, which torchvision's own network of that name loads."""
    path = folder / WEIGHTS
    weights = {key: value.cpu() for key, value in arm.network.backbone.state_dict().items()}
    write_atomically(path, lambda opened: torch.save(weights, opened))
    return path
