"""Optimisers and learning rates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from camtrain.config.options import LrSchedule, Optimiser
from camtrain.config.schema import OptimConfig

FRESH_HEAD_FACTOR = 10.0
"""Learning rate of a fresh last layer over that of pretrained weights below it, for `optim.head_lr_factor=null`."""

FACTOR = "lr_factor"
"""Key of a parameter group: its learning rate over the scheduled one."""


def make_optimiser(
    model: nn.Module, config: OptimConfig, rate: float, head: str | None = None
) -> torch.optim.Optimizer:
    """The optimiser; weight decay on matrices and kernels only, not on biases and normalisation.

    The fused kernel of torch: one pass over the weights, which leaves them as they are where it is told to.

    Args:
        model: what is trained.
        config: its settings.
        rate: learning rate at the top of its schedule.
        head: name of the part that learns `optim.head_lr_factor` times as fast; None: all learn alike.
    """
    kinds: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, config.weight_decay): [], (1.0, 0.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fast = head is not None and name.startswith(f"{head}.")
            factor = (config.head_lr_factor or FRESH_HEAD_FACTOR) if fast else 1.0
            kinds.setdefault((factor, config.weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    groups = [
        {"params": params, "weight_decay": decay, "lr": factor * rate, FACTOR: factor}
        for (factor, decay), params in kinds.items()
    ]
    match config.name:
        case Optimiser.adamw:
            return torch.optim.AdamW(groups, lr=rate, fused=True)
        case Optimiser.adam:
            return torch.optim.Adam(groups, lr=rate, fused=True)
        case Optimiser.sgd:
            nesterov = config.momentum > 0
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=nesterov, fused=True)


OF_EACH_PARAMETER = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""What an optimiser keeps of a parameter that it has moved."""


@torch.no_grad()
def load_optimiser(optimiser: torch.optim.Optimizer, found: dict[str, Any]) -> None:
    """Take over what an optimiser has kept of each parameter, and its learning rates; its other settings stay those of
    the configuration.

    Tensors of a parameter's shape get its device and memory layout.

    Args:
        optimiser: as :func:`make_optimiser` makes it.
        found: its `state_dict`, of the same parameters.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is of other parameters, or another kind of optimiser.
    """
    own = optimiser.state_dict()["param_groups"]
    if [group["params"] for group in found["param_groups"]] != [group["params"] for group in own]:
        raise ValueError("an optimiser of other parameters")
    numbers = {number for group in own for number in group["params"]}
    if not found["state"].keys() <= numbers:
        raise ValueError("an optimiser of other parameters")
    for group, former in zip(own, found["param_groups"], strict=True):
        group["lr"] = float(former["lr"])
    optimiser.load_state_dict({"state": found["state"], "param_groups": own})
    for parameter, values in optimiser.state.items():
        if values.keys() != OF_EACH_PARAMETER[type(optimiser)]:
            raise ValueError("another kind of optimiser")
        for name, value in values.items():
            if not value.is_floating_point() or value.shape != (() if name == "step" else parameter.shape):
                raise ValueError("an optimiser of other parameters")
            if name != "step":
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def default_learning_rate(optimiser: Optimiser, pretrained: bool, model: nn.Module) -> float:
    """The rate where `optim.lr` is null: 2e-3 for Adam and AdamW, 0.05 for SGD.

    A tenth of that for transformers and for networks without normalisation layers (VGG, SqueezeNet, AlexNet), which
    diverge or die at the full rate. A twentieth for pretrained weights: not far above it what they know is lost
    (SqueezeNet on five animals, ten epochs of AdamW at 5e-5, 1e-4, 2e-4, 5e-4: accuracy 0.74, 0.76, 0.75, 0.48).
    """
    rate = 0.05 if optimiser is Optimiser.sgd else 2e-3
    kinds = {type(module).__name__ for module in model.modules()}
    normalised, attends = (any(word in kind for kind in kinds) for word in ("Norm", "Attention"))
    if pretrained:
        return rate / 20
    return rate if normalised and not attends else rate / 10


def learning_rate(config: OptimConfig, peak: float, epochs_done: float, epochs: float) -> float:
    """Learning rate after `epochs_done` of `epochs`: linear warm-up, then constant or half a cosine to zero."""
    rate = peak
    if config.schedule is LrSchedule.cosine:
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, epochs_done / epochs)))
    if epochs_done < config.warmup:
        rate *= max(epochs_done, 1e-3 * config.warmup) / config.warmup
    return rate
