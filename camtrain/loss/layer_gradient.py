"""What the losses' gradients do at the target layer: measured there, and freed of conflict."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.loss.balance import gradient_share


class LayerGradient:
    r"""A hook on the activations: measures the gradient that the backward pass brings there, and may change it.

    The gradient that comes is :math:`g_i = c_i + t_i` for image i, the classification loss's and the weighted CAM
    term's. With `project`, what of the latter opposes the former is taken away:

    .. math:: g_i - \frac{\min(0, \langle t_i, c_i \rangle)}{\|c_i\|^2}\, c_i

    To first order in the activations the term then no longer raises the classification loss of its image. The head's
    weights, and paths round the layer, get the gradient as it is. (Gradient surgery, Yu et al.,
    NeurIPS 2020, arXiv 2001.06782, there between the tasks of a network and for all weights at once.)

    With `limits` :math:`r_i`, the term's gradient is made smaller beforehand, where it is too large beside that of the
    image's classification, and everything else is done with what is left:

    .. math:: t_i \min\left(1, \frac{r_i \|c_i\|}{\|t_i\|}\right)

    The loss may reach the backward pass scaled, by a gradient scaler or because gradients are accumulated. What comes
    is then :math:`\sigma (c_i + t_i)`; :meth:`take_scale`, a hook on the loss, finds :math:`\sigma`. Where other losses
    may reach the layer as well, :math:`t` cannot be found as a difference: then it has to be given.

    Args:
        classification: :math:`c`, (batch, channels, height, width), or (batch, channels, 1, 1) if the same in every
            cell.
        cells: height times width.
        project: whether to take away what opposes.
        measure: whether the norms will be asked for.
        alone: the gradient of the term without its weight, like the activations; None: the difference is the term's.
        limits: (batch,) :math:`r_i`, see :func:`camtrain.loss.balance.limit_of`; None: there are none.
        ranks: over whose images norms are taken.
    """

    weight: Tensor | float = 1.0
    """Of the term, where its gradient is given."""

    def __init__(
        self,
        classification: Tensor,
        cells: int,
        project: bool,
        measure: bool = True,
        alone: Tensor | None = None,
        limits: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.alone, self.limits, self.ranks = alone, limits, ranks
        self.classification, self.project, self.measure = classification, project, measure
        same = cells if classification.shape[-2:] == (1, 1) else 1
        self.square = same * self.classification.square().sum((1, 2, 3))
        self.term: Tensor | None = None
        self.limited: Tensor | None = None
        self.scale = classification.new_ones(())
        self.floor = 0.0

    def set_weight(self, weight: Tensor) -> None:
        """Of the term; where its gradient is given, its norm is known at once."""
        self.weight = weight
        if self.alone is not None and self.measure:
            self.term = weight * torch.linalg.vector_norm(self.alone)
            if self.limits is not None:
                kept = self._kept(weight * self.alone, self.scale)
                self.limited = torch.linalg.vector_norm(kept[:, None, None, None] * weight * self.alone)

    def take_scale(self, gradient: Tensor) -> None:
        """Take in the gradient on the loss itself, which is what the loss was multiplied by since."""
        self.scale = gradient.detach()

    def __call__(self, gradient: Tensor) -> Tensor:
        wide, c = gradient.to(self.classification.dtype), self.classification
        self.floor = 1e-4 if gradient.dtype in (torch.float32, torch.float64) else 1e-2
        if self.alone is None:
            term = torch.addcmul(wide, c, self.scale, value=-1)
        else:
            term = self.weight * self.scale * self.alone
        if self.measure and self.alone is None:
            self.term = torch.linalg.vector_norm(term) / self.scale.abs()
        if self.limits is not None:
            whole, term = term, self._kept(term, self.scale)[:, None, None, None] * term
            wide = wide + (term - whole)
            if self.measure and self.alone is None:
                self.limited = torch.linalg.vector_norm(term) / self.scale.abs()
            gradient = wide.to(gradient.dtype)
        if not self.project:
            return gradient
        along = (term.sum((2, 3)) * c[:, :, 0, 0]).sum(1) if c.shape[-2:] == (1, 1) else (term * c).sum((1, 2, 3))
        share_of_c = along.clamp_max(0) / self.square.clamp_min(torch.finfo(wide.dtype).tiny)
        return (wide - share_of_c[:, None, None, None] * c).to(gradient.dtype)

    def _kept(self, term: Tensor, scale: Tensor) -> Tensor:
        """What the limits leave of each image's part of the term's gradient, which is multiplied by `scale`; (batch,)
        from 0 to 1."""
        assert self.limits is not None
        norm = torch.linalg.vector_norm(term, dim=(1, 2, 3))
        allowed = self.limits.to(norm.dtype) * self.square.sqrt() * scale.abs()
        # Without a limit this is infinity times 0 where classification has no gradient.
        allowed = allowed.nan_to_num(nan=math.inf)
        return torch.clamp_max(allowed / norm.clamp_min(torch.finfo(norm.dtype).tiny), 1.0)

    def norms(self) -> tuple[Tensor, Tensor]:
        r""":math:`G_\mathrm{CE}` and :math:`\lambda G_T`, before anything was taken away; scalars.

        The latter is found as a difference: what is not above `floor` times the former is rounding.
        """
        assert self.term is not None, "no backward pass reached the activations, or none was to be measured"
        classification, term = self.ranks.norm(torch.stack([self.square.sum().sqrt(), self.term]))
        return classification, term

    def share(self) -> Tensor:
        """The term's share of the gradient, within the limits and before anything was projected out; scalar."""
        classification, term = self.norms()
        return gradient_share(classification, term if self.limited is None else self.ranks.norm(self.limited))


def gradient_at(activations: Tensor, loss: Tensor) -> Tensor:
    """Gradient of a scalar loss on activations of its own graph, which is kept; in float32 or wider."""
    # Smaller than float16 can hold, as the gradient of a mean over images and cells is, where nothing scales it.
    factor = 2.0**12 if activations.dtype is torch.float16 else 1.0
    (gradient,) = torch.autograd.grad(loss * factor, activations, retain_graph=True)
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / factor
