"""The score of a class, whose gradient makes its map, and its probability."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.targets import MapTargets
from camtrain.config.options import Score


def score(logits: Tensor, targets: MapTargets, kind: Score) -> Tensor:
    r"""Score of each map's class, (maps,).

    - ``logit``: :math:`y_c`, as published. Softmax does not see a constant added to all logits, so an optimiser can
      lower the entropy of this score's map by pushing every logit below zero, which kills the map.
    - ``centred``: :math:`y_c - \overline{y}`, the bar a mean over classes. Of all logits that give the same softmax
      these are the ones whose sum is zero, so a constant added to all changes neither score nor map.
    - ``log_prob``: the map of :math:`\log \mathrm{softmax}(y)_c`. What is differentiated is the log-odds
      :math:`y_c - \log \sum_{j \ne c} e^{y_j}`. Its gradient is that of the log-probability divided by
      :math:`1 - p_c`: one positive factor per image, which the map's distribution :math:`P` (and everything computed
      from it, gradients included) does not see, Grad-CAM++ excepted. Unlike the log-probability itself it does not
      fade to zero, nor lose its digits, as :math:`p_c` approaches 1.

    With several classes per image the probability is a sigmoid, which sees every constant and whose log-odds are the
    logit: the three coincide.

    Args:
        logits: (batch, classes).
        targets: whose maps.
        kind: which score.
    """
    own = logits[targets.rows, targets.classes] if targets.multilabel else _of_class(logits, targets)
    if kind is Score.logit or targets.multilabel:
        return own
    if kind is Score.centred:
        return own - logits.mean(1)
    return own - logits.scatter(1, targets.classes[:, None], -torch.inf).logsumexp(1)


def score_gradient(logits: Tensor, targets: MapTargets, kind: Score) -> Tensor:
    r"""Gradient of each map's score on its image's logits, :math:`\partial s / \partial y`, (maps, classes).

    With :math:`e_c` the unit vector of the class: ``logit``, or several classes per image, :math:`e_c`; ``centred``,
    :math:`e_c - 1/K` for K classes; ``log_prob``, :math:`e_c - \pi`, with :math:`\pi` the softmax over the others.

    Args:
        logits: of each map's image, (maps, classes).
        targets: whose maps.
        kind: which score.
    """
    own = torch.zeros_like(logits).scatter_(1, targets.classes[:, None], 1.0)
    if kind is Score.logit or targets.multilabel:
        return own
    if kind is Score.centred:
        return own - 1 / logits.shape[1]
    return own - logits.masked_fill(own.bool(), -torch.inf).softmax(1)


def probability(logits: Tensor, targets: MapTargets) -> Tensor:
    """Probability of each map's class, softmax or sigmoid, (maps,) in float32 at least.

    Arguments as for :func:`score`.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if targets.multilabel:
        return wide[targets.rows, targets.classes].sigmoid()
    return _of_class(wide.softmax(1), targets)


def _of_class(values: Tensor, targets: MapTargets) -> Tensor:
    return values.gather(1, targets.classes[:, None])[:, 0]
