"""The classification loss, and its gradient at the target layer in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

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


def classification_gradient(logits: Tensor, target: Tensor, class_weights: Tensor, cells: int) -> Tensor:
    r"""Gradient of the mean classification loss on the activations, by closed form, (batch, channels, 1, 1), detached.

    Behind global average pooling and one linear layer it is the same in every cell, :math:`(p - t)\, W / (B N)`;
    :math:`p` the softmax or sigmoid, :math:`t` the target as 0 and 1, and a further factor of 1 / classes where
    images have several classes.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        class_weights: weight of the linear layer, (classes, channels).
        cells: :math:`N`, height times width of the activations.
    """
    with torch.no_grad():
        if is_multilabel(target):
            of_logits = (logits.sigmoid() - target) / logits.numel()
        else:
            of_logits = (logits.softmax(1) - one_hot(target, logits.shape[1])) / len(logits)
        return (of_logits @ class_weights / cells)[:, :, None, None]
