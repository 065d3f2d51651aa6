r"""The loss of the regularised arm: classification plus the weighted CAM term.

.. math::
    \mathcal L = \frac1B \sum_i \mathrm{CE}_i + \lambda\, \frac1{|\mathcal A|} \sum_{m \in \mathcal A} q_m T_m

:math:`T_m` is the term of map m (:mod:`camtrain.terms`; entropy as published by Schöttl, arXiv 2009.12546);
:math:`\mathcal A` are the maps for which it is defined: those that are alive; :math:`q_m = p_m^\gamma` with
:math:`p_m` the probability of the map's class, detached (:math:`\gamma = 0` is the published loss). There is a map for
the class of every picture, or, in a multi-label set, for every positive class of every picture. Everything is per map
or picture until the last step. :math:`\lambda` is scheduled (:func:`schedule`) or balanced
(:mod:`camtrain.balance`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from camtrain import terms
from camtrain.config import CamConfig
from camtrain.score import Pairs, is_multilabel, probability


class CamTerm(NamedTuple):
    """The CAM term of each map."""

    value: Tensor  # (maps,), 0 where it does not count
    confidence: Tensor  # (maps,) q, detached
    counts: Tensor  # (maps,) bool: alive, and whatever else the term needs

    def mean(self) -> Tensor:
        """Mean of q T over the maps that count; 0 if there are none. Scalar."""
        return (self.confidence * self.value).sum() / self.counts.sum().clamp_min(1)

    def mean_confidence(self) -> Tensor:
        """Mean of q over the maps that count; 0 if there are none. Scalar."""
        return (self.confidence * self.counts).sum() / self.counts.sum().clamp_min(1)


def classification_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each picture, or, for several classes per picture, the mean over classes of the binary one.

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
    pictures have several classes.

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


def cam_term(
    maps: Tensor, logits: Tensor, target: Tensor, of: Pairs, config: CamConfig, regions: Tensor | None = None
) -> CamTerm:
    """The CAM term of each map, in float32 or wider even under autocast.

    Args:
        maps: (maps, height, width), before ReLU.
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        of: whose maps.
        config: term, unit and confidence exponent.
        regions: of each map, (maps, picture height, picture width) uint8; needed by `energy_outside` alone.
    """
    value, counts = terms.value(config.term, maps, regions, config.unit)
    return CamTerm(value, probability(logits.detach(), target, of) ** config.confidence_exponent, counts)


def schedule(config: CamConfig, epochs_done: float) -> float:
    """Share of the full weight after `epochs_done` epochs: 0 before `start`, then rising over `ramp` to 1."""
    if epochs_done < config.start:
        return 0.0
    return 1.0 if config.ramp == 0 else min(1.0, (epochs_done - config.start) / config.ramp)


def total_loss(classification: Tensor, term: CamTerm | None, weight: float | Tensor) -> Tensor:
    """Mean classification loss plus the weighted CAM term. Scalar.

    Without a term nothing at all is added, not even zeros to the gradient: the arm then equals the baseline bit for
    bit.

    Args:
        classification: (batch,).
        term: CAM term, or None where it does not enter.
        weight: of the term.
    """
    loss = classification.mean()
    return loss if term is None else loss + weight * term.mean()
