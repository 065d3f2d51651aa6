r"""The loss of the regularised arm: classification plus weighted map entropy.

.. math::
    \mathcal L = \frac1B \sum_i \mathrm{CE}_i + \lambda(t)\, \frac1{|\mathcal A|} \sum_{i \in \mathcal A} q_i H_i

:math:`H_i` is the entropy of picture i's map (Schöttl, arXiv 2009.12546), in nats or divided by :math:`\ln N`;
:math:`\mathcal A` are the pictures whose map is alive; :math:`q_i = p_i^\gamma` with :math:`p_i` the softmax
probability of the target class, detached (:math:`\gamma = 0` is the published loss); :math:`\lambda(t)` the scheduled
weight. Everything is per picture until the last step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from camtrain.config import CamConfig, EntropyUnit
from camtrain.indicators import distribution, shannon


class MapEntropy(NamedTuple):
    """The CAM term of each picture."""

    entropy: Tensor  # (batch,) in the configured unit, 0 where dead
    confidence: Tensor  # (batch,) q, detached
    dead: Tensor  # (batch,) bool

    def mean(self) -> Tensor:
        """Mean of q H over the pictures whose map is alive; 0 if there are none. Scalar."""
        alive = (~self.dead).sum().clamp_min(1)
        return (self.confidence * self.entropy).sum() / alive


def map_entropy(maps: Tensor, logits: Tensor, target: Tensor, config: CamConfig) -> MapEntropy:
    """The CAM term of each picture, in float32 or wider even under autocast.

    Args:
        maps: (batch, height, width), before ReLU.
        logits: (batch, classes).
        target: (batch,) int64.
        config: unit and confidence exponent.
    """
    shares, dead = distribution(maps)
    entropy = shannon(shares)
    if config.unit is EntropyUnit.normalised:
        # A map of one cell has ln N = 0, and its entropy is 0 in any unit.
        entropy = entropy / max(math.log(shares.shape[1] * shares.shape[2]), 1e-12)
    probability = logits.detach().to(entropy.dtype).softmax(1).gather(1, target[:, None])[:, 0]
    return MapEntropy(entropy, probability**config.confidence_exponent, dead)


def scheduled_weight(config: CamConfig, epochs_done: float) -> float:
    """Weight of the CAM term after `epochs_done` epochs: 0 before `start`, then rising over `ramp` to `weight`."""
    if epochs_done < config.start:
        return 0.0
    if config.ramp == 0:
        return config.weight
    return config.weight * min(1.0, (epochs_done - config.start) / config.ramp)


def total_loss(classification: Tensor, term: MapEntropy | None, weight: float) -> Tensor:
    """Mean classification loss plus the weighted CAM term. Scalar.

    A weight of 0 adds nothing at all, not even zeros to the gradient: the arm then equals the baseline bit for bit.

    Args:
        classification: (batch,) cross-entropy.
        term: CAM term, or None where it is not computed.
        weight: scheduled weight.
    """
    loss = classification.mean()
    return loss if term is None or weight == 0 else loss + weight * term.mean()
