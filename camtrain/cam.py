r"""Class activation maps as pure, differentiable functions.

Every map is computed from the activations :math:`A` of the target layer, shape (batch, channels, height, width), and
the gradient :math:`g = \partial s / \partial A` of a score :math:`s` of the target class. A gradient that is the same
in every cell may be given as (batch, channels, 1, 1): the functions broadcast.

The maps returned here are *before* ReLU: :math:`L`, shape (batch, height, width). :mod:`camtrain.indicators` and
:mod:`camtrain.loss` work with :math:`L^+ = \mathrm{relu}(L)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.config import CamVariant, Score


def score(logits: Tensor, target: Tensor, kind: Score) -> Tensor:
    r"""Score of the target class, whose gradient makes the map; (batch,).

    - ``logit``: :math:`y_c`, as published. Softmax does not see a constant added to all logits, so an optimiser can
      lower the entropy of this score's map by pushing every logit below zero, which kills the map.
    - ``log_prob``: the map of :math:`\log \mathrm{softmax}(y)_c`. What is differentiated is the log-odds
      :math:`y_c - \log \sum_{j \ne c} e^{y_j}`. Its gradient is that of the log-probability divided by
      :math:`1 - p_c`: one positive factor per picture, which the map's distribution :math:`P` (and everything computed
      from it, gradients included) does not see. Unlike the log-probability itself it does not fade to zero, nor lose
      its digits, as :math:`p_c` approaches 1.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers.
        kind: which score.
    """
    of_target = logits.gather(1, target[:, None])[:, 0]
    if kind is Score.logit:
        return of_target
    return of_target - logits.scatter(1, target[:, None], -torch.inf).logsumexp(1)


def head_gradient(logits: Tensor, target: Tensor, kind: Score, class_weights: Tensor, cells: int) -> Tensor:
    r"""Gradient of the score with respect to the activations in closed form, (batch, channels, 1, 1).

    Valid for global average pooling followed by one linear layer, where
    :math:`\partial y_j / \partial A_k = w_{jk} / N` in every cell:

    - ``logit``: :math:`g_k = w_{ck} / N`
    - ``log_prob``: :math:`g_k = (w_{ck} - \sum_{j \ne c} \pi_j w_{jk}) / N`, with :math:`\pi` the softmax over the
      classes other than the target

    No second derivative is needed to train through it. :math:`\pi` is not detached, so the gradient of a loss computed
    from it equals the one that double backward gives.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers.
        kind: which score.
        class_weights: weight of the linear layer, (classes, channels).
        cells: :math:`N`, height times width of the activations.
    """
    if kind is Score.logit:
        weights = class_weights[target]
    else:
        own = torch.zeros_like(logits).scatter_(1, target[:, None], 1.0)
        others = logits.masked_fill(own.bool(), -torch.inf).softmax(1)
        weights = (own - others) @ class_weights
    return (weights / cells)[:, :, None, None]


def autograd_gradient(scores: Tensor, activations: Tensor, create_graph: bool) -> Tensor:
    """Gradient of the scores with respect to the activations through whatever head the network has.

    Differentiates from the logits down to the activations only. With ``create_graph`` the result can be trained
    through; the trunk below is then differentiated once, by the loss's own ``backward``.

    Args:
        scores: (batch,).
        activations: (batch, channels, height, width), an intermediate result of the pass that gave the scores.
        create_graph: keep what a second derivative needs.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), activations, create_graph=create_graph, retain_graph=True)
    return gradient


def cam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Class activation map :math:`L = \sum_k w_{ck} A_k` (Zhou et al., CVPR 2016), (batch, height, width).

    The class weight is recovered from the closed-form gradient, :math:`w_{ck} = N g_k`; defined for global average
    pooling followed by one linear layer only, which the caller has to make sure of.
    """
    cells = activations.shape[-2] * activations.shape[-1]
    return cells * gradcam(activations, gradients)


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM :math:`L = \sum_k \overline{g_k} A_k`, the bar a mean over cells (Selvaraju et al., ICCV 2017).

    Args:
        activations: (batch, channels, height, width).
        gradients: the same shape, or (batch, channels, 1, 1).

    Returns:
        (batch, height, width), before ReLU.
    """
    weights = gradients.mean((-2, -1))[:, :, None]
    cells = activations.flatten(2)
    # The product is written so that its backward hands the network a gradient in the activations' own memory layout.
    channels_last = activations.is_contiguous(memory_format=torch.channels_last)
    maps = cells.mT @ weights if channels_last else weights.mT @ cells
    return maps.reshape(activations.shape[0], *activations.shape[2:])


def class_activation_map(variant: CamVariant, activations: Tensor, gradients: Tensor) -> Tensor:
    """The map of the chosen variant, (batch, height, width), before ReLU."""
    return {CamVariant.cam: cam, CamVariant.gradcam: gradcam}[variant](activations, gradients)
