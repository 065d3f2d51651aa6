"""The score of a class, whose gradient makes its map, and its probability."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.targets import MapTargets, is_multilabel
from camtrain.config.options import Score


def score(logits: Tensor, target: Tensor, kind: Score, of: MapTargets) -> Tensor:
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


def probability(logits: Tensor, target: Tensor, of: MapTargets) -> Tensor:
    """Probability of each map's class, softmax or sigmoid, (maps,) in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_multilabel(target):
        return wide[of.rows, of.classes].sigmoid()
    return wide.softmax(1).gather(1, target[:, None])[:, 0]
