"""The classification loss, what may hold predictions to those of another network, and the gradient of both at the
target layer in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from camtrain.cam.targets import is_multilabel


def classification_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image, or, for several classes per image, the mean over classes of the binary one.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.

    Returns:
        (batch,), nats.
    """
    if is_multilabel(target):
        return binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none").mean(1)
    return cross_entropy(logits, target, reduction="none")


class Anchor(NamedTuple):
    """Predictions of another network that an arm's are held to."""

    logits: Tensor  # (batch, classes), detached
    weight: float


def anchor_loss(logits: Tensor, anchor: Anchor, multilabel: bool) -> Tensor:
    r"""Divergence :math:`\mathrm{KL}(p_0 \,\|\, p)` of each image's prediction from the anchor's :math:`p_0`.

    Of the softmax; where images have several classes, the mean over classes of that of the sigmoids. At least 0, and 0
    where both predictions are the same.

    Args:
        logits: (batch, classes).
        anchor: of the same images; its weight is not looked at.
        multilabel: whether images may have several classes.

    Returns:
        (batch,), nats.
    """
    theirs = anchor.logits.to(logits.dtype)
    if multilabel:
        both = ((logsigmoid(sign * theirs), logsigmoid(sign * logits)) for sign in (1, -1))
        return sum((first.exp() * (first - ours) for first, ours in both), torch.zeros_like(logits)).mean(1)
    first, ours = theirs.log_softmax(1), logits.log_softmax(1)
    return (first.exp() * (first - ours)).sum(1)


def classification_gradient(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor,
    cells: int,
    anchor: Anchor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    r"""Gradient of the mean classification loss on the activations, by closed form, (batch, channels, 1, 1), detached.

    Behind global average pooling and one linear layer it is the same in every cell, :math:`(p - t)\, W / (B N)`;
    :math:`p` the softmax or sigmoid, :math:`t` the target as 0 and 1, and a further factor of 1 / classes where
    images have several classes. With an anchor of weight :math:`\mu` and prediction :math:`p_0`, which belongs to the
    classification, it is :math:`(p - t + \mu (p - p_0))\, W / (B N)`.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        class_weights: weight of the linear layer, (classes, channels).
        cells: :math:`N`, height times width of the activations.
        anchor: of the same images; None: there is none.
        count: B, where these images are but a part of the batch; None: they are all.
    """
    with torch.no_grad():
        several = is_multilabel(target)
        predicted = logits.sigmoid() if several else logits.softmax(1)
        # Not torch's one_hot, which waits for the device to tell the largest number.
        truth = target if several else torch.zeros_like(predicted).scatter_(1, target[:, None], 1.0)
        of_logits = predicted - truth
        if anchor is not None:
            theirs = anchor.logits.to(logits.dtype)
            of_logits = of_logits + anchor.weight * (predicted - (theirs.sigmoid() if several else theirs.softmax(1)))
        of_logits = of_logits / ((len(logits) if count is None else count) * (logits.shape[1] if several else 1))
        return (of_logits @ class_weights / cells)[:, :, None, None]
