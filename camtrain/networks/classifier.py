"""A captured network that normalises images, computes in the chosen precision, and may keep batch norm's statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camtrain.networks.capture import Captured, Output
from camtrain.normalisation import DEVIATION, MEAN


class Classifier(Captured):
    """Normalises images (0..1) and runs the backbone.

    Args:
        backbone: the network.
        layer: name of the target layer.
        linear: name of the last linear layer, if there is one.
        frozen: keep batch norm at its stored statistics in training mode as well.
        precision: what the backbone computes in, by autocast where that is less than its weights' float32; float64: so
            are these.
        normalisation: mean and deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        layer: str,
        linear: str | None,
        frozen: bool = False,
        precision: torch.dtype = torch.float32,
        normalisation: tuple[Sequence[float], Sequence[float]] = (MEAN, DEVIATION),
    ) -> None:
        super().__init__(backbone, [layer])
        self.linear, self.frozen, self.precision = linear, frozen, precision
        mean, std = normalisation
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        if precision is torch.float64:
            self.double()
        # What runs the backbone in training (True) and evaluation mode, where that is not itself: compiled code.
        self.runs: dict[bool, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}

    def forward(self, images: Tensor) -> Output:
        """(batch, channels, height, width) in 0..1 to logits and activations."""
        self.prepare(images)
        return self.forward_normalised(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Images as the backbone takes them."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def forward_normalised(self, images: Tensor) -> Output:
        """The same for images that are normalised already."""
        lower = self.precision is torch.bfloat16
        with torch.autocast(images.device.type, self.precision if lower else torch.bfloat16, enabled=lower):
            if self.training in self.runs:
                with self.differentiable_twice():
                    logits, activations = self.runs[self.training](images)
            else:
                logits, grids = self.grids(images)
                activations = grids[self.layer]
        return self.handed_on(logits, activations, images)

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: compiled code belongs to the original."""
        return {**self.__dict__, "runs": {}}

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
