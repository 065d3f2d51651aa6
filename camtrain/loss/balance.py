r"""The weight of the CAM term that holds its share of the gradient.

The *gradient share* is measured where both losses meet, on the activations :math:`A` of the target layer, from the
norms of their gradients over the whole batch,

.. math::
    G_\mathrm{CE} = \left\| \partial \overline{\mathrm{CE}} / \partial A \right\|, \qquad
    G_T = \left\| \partial \overline{q T} / \partial A \right\|, \qquad
    \rho = \frac{\lambda G_T}{G_\mathrm{CE} + \lambda G_T},

:math:`\lambda` the weight, :math:`\rho` the CAM term's share. `cam.weight=auto` sets

.. math::
    \lambda = \frac{\rho}{1 - \rho} \cdot \frac{\overline{G_\mathrm{CE}}}{\overline{G_T}}, \qquad
    \rho = \rho^*\, \overline{q}

the bars exponential means over steps, :math:`\rho^*` the share asked for and :math:`q` the confidence that weights the
maps in the loss. The share grows with what has been learnt: while the network knows little, a term at its full share
keeps it from learning, and pretrained weights lose what they know.

Balancing gradients at a layer is Défossez et al. 2022, arXiv 2210.13438, there among the losses of an audio codec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 0.98
"""Part of an exponential mean that stays at each step: it reaches back some fifty steps."""


def gradient_share(classification: Tensor, weighted_term: Tensor) -> Tensor:
    r"""The CAM term's gradient share :math:`\rho`, 0..1; 0 where neither loss has a gradient.

    Args:
        classification: :math:`G_\mathrm{CE}`, scalar.
        weighted_term: :math:`\lambda G_T`, scalar.
    """
    return weighted_term / (classification + weighted_term).clamp_min(torch.finfo(weighted_term.dtype).tiny)


def limit_of(share: Tensor) -> Tensor:
    r"""The largest :math:`|t| / |c|` at which the share of t does not exceed this: :math:`\rho / (1 - \rho)`.

    Args:
        share: :math:`\rho`, from 0 to below 1.
    """
    return share / (1 - share)


def default_share(pretrained: bool) -> float:
    """The share where `cam.share` is null: one half from scratch, one third for pretrained weights.

    A network that learns from nothing can be pressed hard; pretrained weights lose what they know if they are.
    """
    return 1 / 3 if pretrained else 1 / 2


@dataclass
class Balance:
    r"""Exponential means of both norms and the confidence, and the weight they ask for.

    Plain numbers: the loop waits for the device after every step anyway.

    Args:
        share: gradient share :math:`\rho^*` asked for once the network is confident, above 0 and below 1.
    """

    share: float
    classification: float = 0.0
    term: float = 0.0
    confidence: float = 0.0
    bias_correction: float = 0.0
    """How far the exponential means, which start from 0, have come: they are divided by it."""

    needs_own_backward: bool = True
    """The term's norm has to be found by a backward pass of its own: in the last step it was below rounding error."""

    def update(self, classification: float, term: float, confidence: float) -> None:
        r"""Take in a step.

        A step without a term, because every map was dead, does not count, nor does one that is not finite: the weight
        must not grow because the maps die.

        Args:
            classification: :math:`G_\mathrm{CE}`.
            term: :math:`G_T`.
            confidence: mean of :math:`q`, 0..1.
        """
        if term > 0 and math.isfinite(classification + term):
            self.classification += (1 - MEMORY) * (classification - self.classification)
            self.term += (1 - MEMORY) * (term - self.term)
            self.confidence += (1 - MEMORY) * (confidence - self.confidence)
            self.bias_correction += (1 - MEMORY) * (1 - self.bias_correction)

    def take_in(
        self, classification: float, weighted_term: float, confidence: float, weight: float, floor: float
    ) -> None:
        r"""Take in what a backward pass brought to the layer; if that is below rounding error, ask for one of the term.

        Args:
            classification: :math:`G_\mathrm{CE}`.
            weighted_term: :math:`\lambda G_T`.
            confidence: mean of :math:`q`, 0..1.
            weight: :math:`\lambda`.
            floor: see :meth:`camtrain.loss.layer_gradient.LayerGradient.norms`.
        """
        measured = weight > 0 and weighted_term > floor * classification
        if measured and not self.needs_own_backward:
            self.update(classification, weighted_term / weight, confidence)
        self.needs_own_backward = not measured

    def weight(self) -> float:
        r"""The weight :math:`\lambda`; 0 as long as no step counted."""
        if self.term == 0:
            return 0.0
        share = self.share * self.confidence / self.bias_correction
        return share / (1 - share) * self.classification / self.term
