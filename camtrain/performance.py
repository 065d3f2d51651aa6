"""How well a network classifies: accuracy, or mean average precision where a picture has several classes."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.score import is_multilabel

ACCURACY, PRECISION = "accuracy", "average_precision"


def measure(multilabel: bool) -> str:
    """Name of the figure, the first part of its tag."""
    return PRECISION if multilabel else ACCURACY


def of_batch(logits: Tensor, target: Tensor) -> Tensor:
    """Whether each picture is classified rightly, (batch,) float32; one class per picture only."""
    assert not is_multilabel(target), "several classes per picture have an average precision, not an accuracy"
    return (logits.argmax(1) == target).float()


def prediction_entropy(logits: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum_c p_c \ln p_c` of the softmax of each picture in nats, 0..ln(classes), (batch,).

    The lower, the more determined the decision.
    """
    log_probability = logits.log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1)


BINS = 15


def calibration_error(confidence: Tensor, right: Tensor) -> Tensor:
    r"""Expected calibration error of the predicted class, 0..1 (Guo et al., ICML 2017): 0 if 70 % of the pictures
    that are predicted with 70 % are right.

    .. math:: \sum_b \frac{n_b}{n} \left| \mathrm{right}_b - \mathrm{confidence}_b \right|

    over 15 bins of equal width, both being means over the pictures of a bin.

    Args:
        confidence: (pictures,) probability of the predicted class.
        right: (pictures,) of 0 and 1.
    """
    numbers = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64, device=confidence.device)
    return gap.index_add(0, numbers, (right - confidence).double()).abs().sum() / len(confidence)


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    r"""Area under the precision-recall steps, :math:`\sum_n (R_n - R_{n-1}) P_n`, 0..1; nan without a positive.

    Not interpolated: as scikit-learn's `average_precision_score`, and PASCAL VOC's measure since 2010 without its
    monotone envelope. Pictures of equal score enter together.

    Args:
        scores: (pictures,).
        positive: (pictures,) of 0 and 1.
    """
    order = scores.argsort(descending=True)
    ranked, hits = scores[order], positive[order].double()
    found = hits.cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool, device=ranked.device)])
    precision = (found / torch.arange(1, len(hits) + 1, device=hits.device))[last]
    recall = found[last] / found[-1]
    return (recall.diff(prepend=recall.new_zeros(1)) * precision).sum()


def mean_average_precision(logits: Tensor, target: Tensor) -> float:
    """Mean over classes that have a positive picture, 0..1.

    Args:
        logits: (pictures, classes).
        target: (pictures, classes) of 0 and 1.
    """
    values = [average_precision(logits[:, number], target[:, number]) for number in range(target.shape[1])]
    return float(torch.stack(values).nanmean())
