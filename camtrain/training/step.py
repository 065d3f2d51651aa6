"""One training step of one arm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from camtrain.data.batches import Batch, Share
from camtrain.distributed.as_one_batch import AsOneBatch
from camtrain.distributed.ranks import Ranks
from camtrain.loss.criterion import Observed
from camtrain.networks.capture import Output
from camtrain.training.arm import Arm


class Step(NamedTuple):
    """What one training step measured; nothing here needs a copy from the device until it is read."""

    loss: Tensor  # scalar
    logits: Tensor  # (images, classes), of those that the classification loss counts, of all ranks
    targets: Tensor  # of these images
    observed: Observed
    finite: Tensor  # scalar bool: the loss and the norm of the gradients are; no weight was changed otherwise


def train_step(arm: Arm, batch: Batch, epochs_done: float, observe: bool) -> Step:
    """One step: forward, loss, backward, and, as long as all of it is finite, update. Does not wait for the device.

    Args:
        arm: what is trained, in place; its optimiser is one of torch's, fused.
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
    with as_one_batch(arm.ranks, batch.share):
        output = arm.network(batch.images)
    part = arm.criterion(
        output.logits,
        output.activations,
        batch.targets,
        batch.regions,
        epochs_done,
        batch.views,
        partial(further_pass, arm, batch),
    )
    arm.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(part)
    loss, logits, targets = arm.ranks.sum(part.detach()), *classified(arm.ranks, output.logits.detach(), batch)
    gradients = [part.grad for part in arm.network.parameters() if part.grad is not None]
    arm.ranks.add_up(gradients)
    finite = loss.isfinite() & get_total_norm(gradients).isfinite()
    arm.failed = torch.where(finite, arm.failed.to(loss.device), 1.0)
    arm.optimiser.found_inf = arm.failed  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it
    arm.optimiser.step()
    return Step(loss, logits, targets, arm.criterion.observed(), finite)


def further_pass(arm: Arm, batch: Batch, change: Callable[[Tensor], Tensor]) -> Output:
    """Of images that the classification loss counts, changed; see :data:`camtrain.loss.masked.Again`."""
    with as_one_batch(arm.ranks, batch.counted):
        return arm.network.again(batch.images)(change)


def as_one_batch(ranks: Ranks, share: Share | None) -> contextlib.AbstractContextManager[object]:
    """Within the block networks take a rank's part for what it is in the whole batch."""
    if ranks.alone or share is None:
        return contextlib.nullcontext()
    return AsOneBatch(ranks, share.rows, share.whole)


def classified(ranks: Ranks, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and targets that the classification loss counts, of all ranks, in the order of the whole batch."""
    count, share = batch.classified, batch.counted
    logits, targets = logits[:count], batch.targets[:count]
    if ranks.alone or share is None:
        return logits, targets
    return ranks.whole(logits, share.rows, share.whole), ranks.whole(targets, share.rows, share.whole)


def fault_of(step: Step, network: nn.Module | None) -> str:
    """What of a step is not finite, in words; waits for the device.

    Args:
        step: of which something is not.
        network: as the step left it; None: it has gone on since.
    """
    if not bool(step.loss.isfinite()):
        return f"loss is {float(step.loss)}"
    for name, part in () if network is None else network.named_parameters():
        if part.grad is not None and not bool(part.grad.isfinite().all()):
            return f"gradient of {name.removeprefix('backbone.')} is not finite"
    return "gradient is not finite" if network is None else "norm of the gradients is not finite"
