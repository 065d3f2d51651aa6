"""Save and restore an arm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from camtrain.files import write_atomically
from camtrain.loss.balance import Balance
from camtrain.training.arm import Arm

WEIGHTS = "weights.pt"


def save(arm: Arm, folder: Path, epochs_done: int) -> None:
    """Write `checkpoint.pt`: all that training needs to go on after `epochs_done` epochs."""
    state = {
        "epochs_done": epochs_done,
        "model": arm.model.backbone.state_dict(),
        "optimiser": arm.optimiser.state_dict(),
        "balance": None if arm.balance is None else dataclasses.asdict(arm.balance),
    }
    write_atomically(folder / "checkpoint.pt", lambda opened: torch.save(state, opened))


def restore(arm: Arm, folder: Path) -> int:
    """Read `checkpoint.pt` into the arm. Returns the number of epochs done."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    arm.model.backbone.load_state_dict(state["model"])
    arm.optimiser.load_state_dict(state["optimiser"])
    if arm.balance is not None:
        arm.balance = Balance(**state["balance"])
    return int(state["epochs_done"])


def save_weights(arm: Arm, folder: Path) -> Path:
    """Write `weights.pt`: the backbone's state dict, which torchvision's own model of that name loads."""
    path = folder / WEIGHTS
    state = {key: value.cpu() for key, value in arm.model.backbone.state_dict().items()}
    write_atomically(path, lambda opened: torch.save(state, opened))
    return path
