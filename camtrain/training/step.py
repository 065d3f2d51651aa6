"""One training step of one arm."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from camtrain.data.batches import Batch
from camtrain.loss.criterion import Observed
from camtrain.training.arm import Arm


class Step(NamedTuple):
    """What one training step measured; nothing here needs a copy from the device until it is read."""

    loss: Tensor  # scalar
    logits: Tensor  # (images, classes), of those that the classification loss counts
    observed: Observed
    fault: str | None = None  # what is not finite, in words; no weight was changed then


def train_step(arm: Arm, batch: Batch, epochs_done: float, observe: bool) -> Step:
    """One step: forward, loss, backward, and, as long as all of it is finite, update.

    Args:
        arm: what is trained, in place.
        batch: images, targets and regions.
        epochs_done: on which the schedule of the CAM term runs.
        observe: measure the CAM term and its gradient share, also where it does not enter the loss.
    """
    if not arm.views:
        batch = batch.without_views()
    arm.criterion.observing = observe
    if arm.anchor is not None:
        with torch.no_grad():
            arm.criterion.anchor = arm.anchor(batch.images).logits
    output = arm.network(batch.images)
    loss = arm.criterion(
        output.logits,
        output.activations,
        batch.targets,
        batch.regions,
        epochs_done,
        batch.views,
        arm.network.again(batch.images),
    )
    arm.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    fault = not_finite(loss.detach(), arm.network)
    if fault is None:
        arm.optimiser.step()
    return Step(loss.detach(), output.logits[: batch.classified].detach(), arm.criterion.observed(), fault)


def not_finite(loss: Tensor, network: nn.Module) -> str | None:
    """Which of the numbers of a step is not finite, in words."""
    if not math.isfinite(float(loss)):
        return f"loss is {float(loss)}"
    gradients = {name: part.grad for name, part in network.named_parameters() if part.grad is not None}
    # The norm of all of them is one number to wait for; it may also be infinite because squares are.
    if not math.isfinite(float(get_total_norm(gradients.values()))):
        for name, gradient in gradients.items():
            if not bool(gradient.isfinite().all()):
                return f"gradient of {name.removeprefix('backbone.')} is not finite"
    return None
