"""The gradient of each map's score on the activations, in closed form or by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.scores import score, score_gradient
from camtrain.cam.targets import MapTargets
from camtrain.config.options import Score


def head_gradient(logits: Tensor, targets: MapTargets, kind: Score, class_weights: Tensor, cells: int) -> Tensor:
    r"""Gradient of each map's score with respect to its image's activations in closed form, (maps, channels, 1, 1).

    Valid for global average pooling followed by one linear layer, where
    :math:`\partial y_j / \partial A_k = w_{jk} / N` in every cell:

    - ``logit``, or several classes per image: :math:`g_k = w_{ck} / N`
    - ``centred``: :math:`g_k = (w_{ck} - \overline{w_k}) / N`, the bar a mean over classes
    - ``log_prob``: :math:`g_k = (w_{ck} - \sum_{j \ne c} \pi_j w_{jk}) / N`, with :math:`\pi` the softmax over the
      classes other than the target

    No second derivative is needed to train through it. :math:`\pi` is not detached, so the gradient of a loss computed
    from it equals the one that double backward gives.

    Args:
        logits: (batch, classes).
        targets: whose maps.
        kind: which score.
        class_weights: weight of the linear layer, (classes, channels).
        cells: :math:`N`, height times width of the activations.
    """
    if kind is Score.logit or targets.multilabel:
        weights = class_weights[targets.classes]
    elif kind is Score.centred:
        weights = class_weights[targets.classes] - class_weights.mean(0)
    else:
        weights = score_gradient(logits, targets, kind) @ class_weights
    return (weights / cells)[:, :, None, None]


def autograd_gradient(
    logits: Tensor, targets: MapTargets, kind: Score, activations: Tensor, create_graph: bool
) -> Tensor:
    """Gradient of each map's score with respect to its image's activations through whatever head the network has.

    Differentiates from the logits down to the activations only. With `create_graph` the result can be trained
    through; the trunk below is then differentiated once, by the loss's own `backward`. One pass through the head gives
    one map of every image: images with several classes take as many passes as the image with most of them.

    Args:
        logits: (batch, classes).
        targets: whose maps.
        kind: which score.
        activations: (batch, channels, height, width), an intermediate result of the pass that gave the logits.
        create_graph: keep what a second derivative needs.

    Returns:
        (maps, channels, height, width). Right for each image alone only where nothing between the activations and
        the logits mixes images, as batch norm does in training mode.
    """
    scores = score(logits, targets, kind)
    if targets.one_each:
        (gradient,) = torch.autograd.grad(scores.sum(), activations, create_graph=create_graph, retain_graph=True)
        return gradient
    gradient = activations.new_zeros(len(targets.rows), *activations.shape[1:])
    occurrence = targets.occurrence
    for number in range(int(occurrence.max()) + 1 if len(occurrence) else 0):
        chosen = occurrence == number
        (of_pass,) = torch.autograd.grad(
            scores[chosen].sum(), activations, create_graph=create_graph, retain_graph=True
        )
        gradient = gradient.index_put((chosen.nonzero()[:, 0],), of_pass[targets.rows[chosen]])
    return gradient
