r"""The weight of the CAM term that holds its part of the learning effort.

The *learning effort* is measured where both losses meet, on the activations :math:`A` of the target layer, as the norms
of their gradients over the whole batch,

.. math::
    G_\mathrm{CE} = \left\| \partial \overline{\mathrm{CE}} / \partial A \right\|, \qquad
    G_T = \left\| \partial \overline{q T} / \partial A \right\|, \qquad
    \rho = \frac{\lambda G_T}{G_\mathrm{CE} + \lambda G_T},

:math:`\lambda` the weight, :math:`\rho` the CAM term's share. `cam.weight=auto` sets

.. math::
    \lambda = \frac{\rho}{1 - \rho} \cdot \frac{\overline{G_\mathrm{CE}}}{\overline{G_T}}, \qquad
    \rho = \rho^*\, \overline{q}

the bars exponential means over steps, :math:`\rho^*` the wanted share and :math:`q` the confidence that weights the
maps in the loss. The share grows with what has been learnt: while the network knows little, a term that takes its part
in full keeps it from learning, and pretrained weights lose what they know.

Balancing gradients at a layer is Défossez et al. 2022, arXiv 2210.13438, there among the losses of an audio codec.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 0.98
"""Part of an exponential mean that stays at each step: it reaches back some fifty steps."""


def share_of_effort(classification: Tensor, weighted_term: Tensor) -> Tensor:
    r"""The CAM term's share :math:`\rho` of the learning effort, 0..1; 0 where neither loss has a gradient.

    Args:
        classification: :math:`G_\mathrm{CE}`, scalar.
        weighted_term: :math:`\lambda G_T`, scalar.
    """
    return weighted_term / (classification + weighted_term).clamp_min(torch.finfo(weighted_term.dtype).tiny)


class AtLayer:
    r"""A hook on the activations: measures the gradient that the backward pass brings there, and may change it.

    The gradient that comes is :math:`g_i = c_i + t_i` for picture i, the classification loss's and the weighted CAM
    term's. With `project`, what of the latter opposes the former is taken away:

    .. math:: g_i - \frac{\min(0, \langle t_i, c_i \rangle)}{\|c_i\|^2}\, c_i

    To first order in the activations the term then no longer raises the classification loss of its picture. The head's
    weights, and paths round the layer, get the gradient as it is. (Gradient surgery, Yu et al.,
    NeurIPS 2020, arXiv 2001.06782, there between the tasks of a network and for all weights at once.)

    Args:
        classification: :math:`c`, (batch, channels, height, width), or (batch, channels, 1, 1) if the same in every
            cell.
        cells: height times width.
        project: whether to take away what opposes.
    """

    def __init__(self, classification: Tensor, cells: int, project: bool) -> None:
        self.classification, self.project = classification.float(), project
        same = cells if classification.shape[-2:] == (1, 1) else 1
        self.square = same * self.classification.square().sum((1, 2, 3))
        self.term_square: Tensor | None = None
        self.floor = 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        wide, c = gradient.float(), self.classification
        self.floor = 2e-3 if gradient.dtype is torch.float32 else 2e-2
        # The full gradients are touched as seldom as possible: t itself is never made.
        along = (wide.sum((2, 3)) * c[:, :, 0, 0]).sum(1) if c.shape[-2:] == (1, 1) else (wide * c).sum((1, 2, 3))
        self.term_square = (wide.square().sum() - 2 * along.sum() + self.square.sum()).clamp_min(0)
        if not self.project:
            return gradient
        share_of_c = (along - self.square).clamp_max(0) / self.square.clamp_min(torch.finfo(wide.dtype).tiny)
        return (wide - share_of_c[:, None, None, None] * c).to(gradient.dtype)

    def norms(self) -> tuple[Tensor, Tensor, Tensor]:
        r""":math:`G_\mathrm{CE}` and :math:`\lambda G_T`, before anything was taken away; scalars.

        Third, whether the latter, which is found as a difference, is more than rounding.
        """
        assert self.term_square is not None, "no backward pass reached the activations"
        classification, term = self.square.sum().sqrt(), self.term_square.sqrt()
        return classification, term, term > self.floor * classification


def default_share(pretrained: bool) -> float:
    """The share where `cam.share` is null: one half from scratch, one third for pretrained weights.

    A network that learns from nothing can be pressed hard; what pretrained weights know is lost to it.
    """
    return 1 / 3 if pretrained else 1 / 2


@dataclass
class Balance:
    r"""Exponential means of both norms, and the weight they ask for.

    Everything stays on the device: nothing is waited for.

    Args:
        share: wanted part :math:`\rho^*` of the learning effort of a network that is sure, above 0 and below 1.
    """

    share: float
    means: Tensor | None = None
    """(4,): :math:`G_\\mathrm{CE}`, :math:`G_T`, :math:`q` and 1, whose mean says how far the others have risen."""

    def update(self, classification: Tensor, term: Tensor, confidence: Tensor, sound: Tensor) -> None:
        r"""Take in a step.

        A step that is not sound, because every map was dead or the term too small to be measured, does not count, nor
        does one that is not finite: the weight must not grow because the maps die.

        Args:
            classification: :math:`G_\mathrm{CE}`, scalar.
            term: :math:`G_T`, scalar.
            confidence: mean of :math:`q`, 0..1, scalar.
            sound: whether :math:`G_T` can be trusted, scalar bool.
        """
        new = torch.stack([classification, term, confidence, torch.ones_like(term)])
        sound = sound & torch.isfinite(new).all() & (term > 0)
        if self.means is None:
            if bool(sound):  # waits for the device, at the first steps only
                self.means = (1 - MEMORY) * new
            return
        self.means = torch.where(sound, self.means + (1 - MEMORY) * (new - self.means), self.means)

    def weight(self) -> Tensor | float:
        r"""The weight :math:`\lambda`, scalar; 0 as long as no step counted."""
        if self.means is None:
            return 0.0
        classification, term, confidence, risen = self.means.unbind()
        share = self.share * confidence / risen
        return share / (1 - share) * classification / term.clamp_min(torch.finfo(term.dtype).tiny)
