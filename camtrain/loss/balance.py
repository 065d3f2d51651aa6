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

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(eq=False)
class Balance:
    r"""Exponential means of both norms and the confidence, and the weight they ask for.

    They live where the losses do, so that no step waits for the device.

    Args:
        share: gradient share :math:`\rho^*` asked for once the network is confident, above 0 and below 1.
        means: (4,) float64, exponential means of :math:`G_\mathrm{CE}`, :math:`G_T`, :math:`q` and 1. They start from
            0; the last one tells how far they have come, and the others are divided by it.
        needs_own_backward: the term's norm has to be found by a backward pass of its own: when that was looked at last,
            it was below rounding error.
    """

    share: float
    means: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    needs_own_backward: bool = True
    _seen: Tensor | None = None  # scalar bool: the last backward pass showed the term's norm

    @torch.no_grad()
    def update(self, classification: Tensor, term: Tensor, confidence: Tensor, shown: Tensor | None = None) -> None:
        r"""Take in a step, of scalars.

        A step without a term, because every map was dead, does not count, nor does one that is not finite: the weight
        must not grow because the maps die.

        Args:
            classification: :math:`G_\mathrm{CE}`.
            term: :math:`G_T`.
            confidence: mean of :math:`q`, 0..1.
            shown: bool, whether the norms can be told from rounding error; None: they can.
        """
        found = torch.stack([part.double() for part in (classification, term, confidence, torch.ones_like(term))])
        counts = (found[1] > 0) & found.isfinite().all()
        if shown is not None:
            counts = counts & shown
        before = self.means.to(found.device)
        self.means = torch.where(counts, before + (1 - MEMORY) * (found - before), before)

    def take_in(
        self, classification: Tensor, weighted_term: Tensor, confidence: Tensor, weight: Tensor, floor: float
    ) -> None:
        r"""Take in what a backward pass brought to the layer, of scalars, if it is above rounding error.

        Args:
            classification: :math:`G_\mathrm{CE}`.
            weighted_term: :math:`\lambda G_T`.
            confidence: mean of :math:`q`, 0..1.
            weight: :math:`\lambda`.
            floor: see :meth:`camtrain.loss.layer_gradient.LayerGradient.norms`.
        """
        self._seen = (weight > 0) & (weighted_term > floor * classification)
        if not self.needs_own_backward:
            self.update(classification, weighted_term / weight, confidence, self._seen)

    def look(self) -> None:
        """Let the last step decide whether the next ones need a backward pass of the term; waits for the device."""
        if self._seen is not None:
            self.needs_own_backward, self._seen = not bool(self._seen), None

    def numbers(self) -> list[float]:
        """All that it is; waits for the device."""
        seen = -1.0 if self._seen is None else float(self._seen)
        return [self.share, *self.means.tolist(), float(self.needs_own_backward), seen]

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Balance:
        """The inverse of :meth:`numbers`; former versions have one less.

        Raises:
            ValueError: they are too many or too few.
        """
        share, *means, own_backward, seen = [*numbers, -1.0] if len(numbers) == 6 else numbers
        if len(means) != 4:
            raise ValueError("a balance has seven numbers")
        found = cls(share, torch.tensor(means, dtype=torch.float64), bool(own_backward))
        found._seen = None if seen < 0 else torch.tensor(bool(seen))
        return found

    def weight(self) -> Tensor:
        r"""The weight :math:`\lambda`, float64 scalar; 0 as long as no step counted."""
        classification, term, confidence, counted = self.means.unbind()
        share = self.share * confidence / counted
        return torch.where(term > 0, limit_of(share) * classification / term, 0.0)
