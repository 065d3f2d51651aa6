"""One training step of one arm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.data.batches import Batch
from camtrain.loss.criterion import Observed
from camtrain.training.arm import Arm


class Step(NamedTuple):
    """What one training step measured; nothing here needs a copy from the device until it is read."""

    loss: Tensor  # scalar
    logits: Tensor  # (batch, classes)
    observed: Observed


def train_step(arm: Arm, batch: Batch, epochs_done: float, observe: bool) -> Step:
    """One step: forward, loss, backward, update.

    Args:
        arm: what is trained, in place.
        batch: images, targets and regions.
        epochs_done: on which the schedule of the CAM term runs.
        observe: measure the CAM term and its gradient share, also where it does not enter the loss.
    """
    output = arm.network(batch.images)
    loss = arm.criterion(
        output.logits,
        output.activations,
        batch.targets,
        batch.regions,
        epochs_done,
        observe,
        lambda change: arm.network(change(batch.images)),
    )
    arm.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    arm.optimiser.step()
    return Step(loss.detach(), output.logits.detach(), arm.criterion.observed())
