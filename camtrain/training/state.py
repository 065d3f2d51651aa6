"""The state of training: all that a run needs to go on where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from camtrain.training.arm import Arm

History = dict[str, list[dict[str, float]]]
"""Of each arm, the figures of every epoch by tag."""


@dataclass
class TrainingState:
    """Arms in training, how far they are, and what was measured on the way."""

    arms: Sequence[Arm]
    epoch: int = 0
    """Whole epochs done."""

    step: int = 0
    """Steps done of the epoch after these."""

    seconds: float = 0.0
    """Spent so far, measuring and saving included."""

    history: History = field(default_factory=dict)
    kept_maps: dict[str, list[Tensor]] = field(default_factory=dict)
    """Of each arm, some maps of every epoch, (maps, height, width) float16 on the CPU: what the maps' settling is
    measured by."""

    def __post_init__(self) -> None:
        for arm in self.arms:
            self.history.setdefault(arm.name, [])
            self.kept_maps.setdefault(arm.name, [])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values in nested dictionaries and lists."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "arms": {
                arm.name: {
                    "network": arm.network.backbone.state_dict(),
                    "optimiser": arm.optimiser.state_dict(),
                    "criterion": arm.criterion.state_dict(),
                    "kept_maps": self.kept_maps[arm.name],
                }
                for arm in self.arms
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`, for the same arms; weights keep their device and memory layout.

        Raises:
            KeyError: the state is of other arms.
            RuntimeError: the weights are of another network.
        """
        for arm in self.arms:
            own = state["arms"][arm.name]
            arm.network.backbone.load_state_dict(own["network"])
            arm.optimiser.load_state_dict(own["optimiser"])
            arm.criterion.load_state_dict(own["criterion"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = {arm.name: list(state["history"][arm.name]) for arm in self.arms}
        self.kept_maps = {arm.name: list(state["arms"][arm.name]["kept_maps"]) for arm in self.arms}
