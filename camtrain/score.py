r"""The score of a class, whose gradient makes its map, and that gradient with respect to the activations.

A *map* belongs to a picture and one of its classes. With one class per picture there are as many maps as pictures;
with several, every positive class of every picture has a map: :class:`Pairs` says whose each one is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.config import Score
from camtrain.indicators import VOID


class Pairs(NamedTuple):
    """The picture and the class of each map."""

    rows: Tensor  # (maps,) int64, numbers of pictures in the batch, ascending
    classes: Tensor  # (maps,) int64

    @property
    def occurrence(self) -> Tensor:
        """Of each map, how many maps of the same picture come before it; (maps,) int64."""
        first = torch.searchsorted(self.rows, self.rows)
        return torch.arange(len(self.rows), device=self.rows.device) - first


def is_multilabel(target: Tensor) -> bool:
    """Whether targets are (batch, classes) of 0 and 1 rather than (batch,) class numbers."""
    return target.dim() == 2


def pairs(target: Tensor) -> Pairs:
    """A map for the class of every picture, or for every positive class of every picture."""
    if is_multilabel(target):
        rows, classes = target.nonzero(as_tuple=True)
        return Pairs(rows, classes)
    return Pairs(torch.arange(len(target), device=target.device), target)


def of_pictures(values: Tensor, target: Tensor, of: Pairs) -> Tensor:
    """A tensor of the batch's pictures as one of its maps' pictures: a row for each map."""
    return values[of.rows] if is_multilabel(target) else values


def regions_of(regions: Tensor, target: Tensor, of: Pairs) -> Tensor:
    """The region of each map's class, (maps, height, width) uint8: 0 background, 255 void, other values the object.

    In a multi-label set an object's pixels hold its class number plus 1; what belongs to other classes is background.

    Args:
        regions: (batch, height, width) uint8.
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        of: whose maps.
    """
    if not is_multilabel(target):
        return regions
    of_picture = regions[of.rows]
    own = of_picture == (of.classes + 1)[:, None, None].to(of_picture.dtype)
    return torch.where((of_picture == VOID) | own, of_picture, torch.zeros_like(of_picture))


def score(logits: Tensor, target: Tensor, kind: Score, of: Pairs) -> Tensor:
    r"""Score of each map's class, (maps,).

    - ``logit``: :math:`y_c`, as published. Softmax does not see a constant added to all logits, so an optimiser can
      lower the entropy of this score's map by pushing every logit below zero, which kills the map.
    - ``centred``: :math:`y_c - \overline{y}`, the bar a mean over classes. Of all logits that give the same softmax
      these are the ones whose sum is zero, so a constant added to all changes neither score nor map.
    - ``log_prob``: the map of :math:`\log \mathrm{softmax}(y)_c`. What is differentiated is the log-odds
      :math:`y_c - \log \sum_{j \ne c} e^{y_j}`. Its gradient is that of the log-probability divided by
      :math:`1 - p_c`: one positive factor per picture, which the map's distribution :math:`P` (and everything computed
      from it, gradients included) does not see, Grad-CAM++ excepted. Unlike the log-probability itself it does not
      fade to zero, nor lose its digits, as :math:`p_c` approaches 1.

    With several classes per picture the probability is a sigmoid, which sees every constant and whose log-odds are the
    logit: the three coincide.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        kind: which score.
        of: whose maps.
    """
    of_target = logits[of.rows, of.classes] if is_multilabel(target) else logits.gather(1, target[:, None])[:, 0]
    if kind is Score.logit or is_multilabel(target):
        return of_target
    if kind is Score.centred:
        return of_target - logits.mean(1)
    return of_target - logits.scatter(1, target[:, None], -torch.inf).logsumexp(1)


def probability(logits: Tensor, target: Tensor, of: Pairs) -> Tensor:
    """Probability of each map's class, softmax or sigmoid, (maps,) in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_multilabel(target):
        return wide[of.rows, of.classes].sigmoid()
    return wide.softmax(1).gather(1, target[:, None])[:, 0]


def head_gradient(logits: Tensor, target: Tensor, kind: Score, of: Pairs, class_weights: Tensor, cells: int) -> Tensor:
    r"""Gradient of each map's score with respect to its picture's activations in closed form, (maps, channels, 1, 1).

    Valid for global average pooling followed by one linear layer, where
    :math:`\partial y_j / \partial A_k = w_{jk} / N` in every cell:

    - ``logit``, or several classes per picture: :math:`g_k = w_{ck} / N`
    - ``centred``: :math:`g_k = (w_{ck} - \overline{w_k}) / N`, the bar a mean over classes
    - ``log_prob``: :math:`g_k = (w_{ck} - \sum_{j \ne c} \pi_j w_{jk}) / N`, with :math:`\pi` the softmax over the
      classes other than the target

    No second derivative is needed to train through it. :math:`\pi` is not detached, so the gradient of a loss computed
    from it equals the one that double backward gives.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        kind: which score.
        of: whose maps.
        class_weights: weight of the linear layer, (classes, channels).
        cells: :math:`N`, height times width of the activations.
    """
    if kind is Score.logit or is_multilabel(target):
        weights = class_weights[of.classes]
    elif kind is Score.centred:
        weights = class_weights[of.classes] - class_weights.mean(0)
    else:
        own = torch.zeros_like(logits).scatter_(1, target[:, None], 1.0)
        others = logits.masked_fill(own.bool(), -torch.inf).softmax(1)
        weights = (own - others) @ class_weights
    return (weights / cells)[:, :, None, None]


def autograd_gradient(
    logits: Tensor, target: Tensor, kind: Score, of: Pairs, activations: Tensor, create_graph: bool
) -> Tensor:
    """Gradient of each map's score with respect to its picture's activations through whatever head the network has.

    Differentiates from the logits down to the activations only. With `create_graph` the result can be trained
    through; the trunk below is then differentiated once, by the loss's own `backward`. One pass through the head gives
    one map of every picture: pictures with several classes take as many passes as the picture with most of them.

    Args:
        logits: (batch, classes).
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        kind: which score.
        of: whose maps.
        activations: (batch, channels, height, width), an intermediate result of the pass that gave the logits.
        create_graph: keep what a second derivative needs.

    Returns:
        (maps, channels, height, width). Right for each picture alone only where nothing between the activations and
        the logits mixes pictures, as batch norm does in training mode.
    """
    scores = score(logits, target, kind, of)
    if not is_multilabel(target):
        (gradient,) = torch.autograd.grad(scores.sum(), activations, create_graph=create_graph, retain_graph=True)
        return gradient
    gradient = activations.new_zeros(len(of.rows), *activations.shape[1:])
    occurrence = of.occurrence
    for number in range(int(occurrence.max()) + 1 if len(occurrence) else 0):
        chosen = occurrence == number
        (of_pass,) = torch.autograd.grad(
            scores[chosen].sum(), activations, create_graph=create_graph, retain_graph=True
        )
        gradient = gradient.index_put((chosen.nonzero()[:, 0],), of_pass[of.rows[chosen]])
    return gradient
