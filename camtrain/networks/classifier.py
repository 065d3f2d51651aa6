"""A network that normalises images and gives logits and the target layer's activations in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.networks.fx_capture import LOGITS
from camtrain.normalisation import DEVIATION, MEAN


class Output(NamedTuple):
    logits: Tensor  # (batch, classes), float32 or wider
    activations: Tensor  # (batch, channels, height, width)


class Classifier(nn.Module):
    """Normalises images (0..1) and runs the backbone.

    Args:
        backbone: traced network that returns a dict with `logits` and the grid of `layer`.
        layer: name of the target layer.
        linear: name of the last linear layer, if there is one.
        frozen: keep batch norm at its stored statistics in training mode as well.
        precision: what the backbone computes in, by autocast where it is not float32.
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
        super().__init__()
        self.backbone, self.layer, self.linear, self.frozen, self.precision = backbone, layer, linear, frozen, precision
        mean, std = normalisation
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        # What runs the backbone in training (True) and evaluation mode, where that is not itself: compiled code.
        self.runs: dict[bool, Callable[[Tensor], dict[str, Tensor]]] = {}
        self.routes = Routes(GradientRoute.autograd, GradientRoute.autograd)
        """How the gradient of a score reaches the layer; right for any head, and probed before training."""
        # Only the plain attention kernel has a second derivative.
        self.attention = any(isinstance(module, nn.MultiheadAttention) for module in backbone.modules())

    def forward(self, images: Tensor) -> Output:
        """(batch, 3, height, width) in 0..1 to logits and activations."""
        return self.forward_normalised((images - self.mean) / self.std)

    def forward_normalised(self, images: Tensor) -> Output:
        """The same for images that are normalised already."""
        kernel = sdpa_kernel(SDPBackend.MATH) if self.attention else nullcontext()
        lower = self.precision is not torch.float32
        with kernel, torch.autocast(images.device.type, self.precision if lower else torch.bfloat16, enabled=lower):
            out = self.runs.get(self.training, self.backbone)(images)
        logits = out[LOGITS]
        return Output(logits.to(torch.promote_types(logits.dtype, torch.float32)), out[self.layer])

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def class_weights(self) -> Tensor | None:
        """Weight of the last linear layer, (classes, features), or None."""
        if self.linear is None:
            return None
        weight = self.backbone.get_submodule(self.linear).weight
        assert isinstance(weight, Tensor)
        return weight
