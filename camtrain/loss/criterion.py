r"""The loss of the regularised arm: classification plus the weighted CAM term.

.. math::
    \mathcal L = \frac1B \sum_i \mathrm{CE}_i + \lambda\, \frac1{|\mathcal A|} \sum_{m \in \mathcal A} q_m T_m

:math:`T_m` is the term of map m (:mod:`camtrain.loss.terms`; entropy as published by Schöttl, arXiv 2009.12546);
:math:`\mathcal A` are the maps for which it is defined: those that are alive; :math:`q_m = p_m^\gamma` with
:math:`p_m` the probability of the map's class, detached (:math:`\gamma = 0` is the published loss). There is a map for
the class of every image, or, in a multi-label set, for every positive class of every image. Everything is per map
or image until the last step. :math:`\lambda` is scheduled (:func:`schedule`) or balanced
(:mod:`camtrain.loss.balance`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from camtrain.cam.scores import probability
from camtrain.cam.targets import MapTargets, is_multilabel
from camtrain.config.schema import CamConfig
from camtrain.loss import terms


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


def cam_term(
    maps: Tensor, logits: Tensor, target: Tensor, of: MapTargets, config: CamConfig, regions: Tensor | None = None
) -> CamTerm:
    """The CAM term of each map, in float32 or wider even under autocast.

    Args:
        maps: (maps, height, width), before ReLU.
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        of: whose maps.
        config: term, unit and confidence exponent.
        regions: of each map, (maps, image height, image width) uint8; needed by `energy_outside` alone.
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
