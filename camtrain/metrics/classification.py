"""How well a network classifies: accuracy, or mean average precision where an image has several classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.targets import is_multilabel

ACCURACY, PRECISION = "accuracy", "average_precision"


def metric_name(multilabel: bool) -> str:
    """Name of the figure, the first part of its tag."""
    return PRECISION if multilabel else ACCURACY


def is_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Whether each image is classified correctly, (batch,) float32; one class per image only."""
    assert not is_multilabel(target), "several classes per image have an average precision, not an accuracy"
    return (logits.argmax(1) == target).float()


def prediction_entropy(logits: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum_c p_c \ln p_c` of the softmax of each image in nats, 0..ln(classes), (batch,).

    The lower, the more determined the decision.
    """
    log_probability = logits.log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1)


BINS = 15


def calibration_error(confidence: Tensor, right: Tensor) -> Tensor:
    r"""Expected calibration error of the predicted class, 0..1 (Guo et al., ICML 2017): 0 if 70 % of the images
    that are predicted with 70 % are right.

    .. math:: \sum_b \frac{n_b}{n} \left| \mathrm{right}_b - \mathrm{confidence}_b \right|

    over 15 bins of equal width, both being means over the images of a bin.

    Args:
        confidence: (images,) probability of the predicted class.
        right: (images,) of 0 and 1.
    """
    numbers = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64, device=confidence.device)
    return gap.index_add(0, numbers, (right - confidence).double()).abs().sum() / len(confidence)


class _Ranked(NamedTuple):
    """Images in descending order of their score; those of equal score are one group."""

    group: Tensor  # (images,) number of each image's group
    seen: Tensor  # (groups,) images in this group and all before it
    own: Tensor  # (groups,) positives in it
    found: Tensor  # (groups,) positives in it and all before it


def _ranked(scores: Tensor, positive: Tensor) -> _Ranked:
    distinct, ascending = torch.unique(scores, return_inverse=True)
    group = len(distinct) - 1 - ascending
    zeros = torch.zeros(len(distinct), dtype=torch.float64, device=scores.device)
    size = zeros.index_add(0, group, torch.ones_like(scores, dtype=torch.float64))
    own = zeros.index_add(0, group, positive.double())
    return _Ranked(group, size.cumsum(0), own, own.cumsum(0))


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    r"""Area under the precision-recall steps, :math:`\sum_n (R_n - R_{n-1}) P_n`, 0..1; nan without a positive.

    Not interpolated: as scikit-learn's `average_precision_score`, and PASCAL VOC's measure since 2010 without its
    monotone envelope. Images of equal score enter together.

    Args:
        scores: (images,).
        positive: (images,) of 0 and 1.
    """
    ranked = _ranked(scores, positive)
    return (ranked.own * ranked.found / ranked.seen).sum() / ranked.found[-1]


def leave_one_out(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision of all images but one, for each of them: (images,), nan where no positive is left.

    In one pass over the order instead of one for each image. Arguments as for :func:`average_precision`.
    """
    group, seen, own, found = _ranked(scores, positive)
    zero = seen.new_zeros(1)
    area = own * found / seen
    before = torch.cat([zero, area.cumsum(0)[:-1]])

    def from_here(values: Tensor) -> Tensor:
        return values.flip(0).cumsum(0).flip(0)

    fewer = (seen - 1).clamp_min(1)  # it is 0 where a single image leads, which is taken by its own sign below
    without_negative = (before + from_here(own * found / fewer)) / found[-1]
    after = torch.cat([from_here(own * (found - 1) / fewer)[1:], zero])
    without_positive = (before + (own - 1) * (found - 1) / fewer + after) / (found[-1] - 1)
    return torch.where(positive.bool(), without_positive[group], without_negative[group])


def mean_average_precision(logits: Tensor, target: Tensor) -> float:
    """Mean over classes that have a positive image, 0..1.

    Args:
        logits: (images, classes).
        target: (images, classes) of 0 and 1.
    """
    return float(_per_class(average_precision, logits, target).nanmean())


def average_precision_per_image(logits: Tensor, target: Tensor) -> Tensor:
    r"""What each image adds to the mean average precision, whose mean is that figure: (images,) float64.

    .. math:: \theta + (n - 1) \Bigl( \tfrac{1}{n} \sum_j \theta_{-j} - \theta_{-i} \Bigr)

    with :math:`\theta_{-i}` the figure without image i: the jackknife's pseudo-values (Tukey 1958), shifted to the
    mean :math:`\theta`. Their spread gives the figure's interval as that of a mean. They may lie outside 0..1. The only
    positive of a class counts as if that class did not depend on it. Arguments as for :func:`mean_average_precision`.
    """
    whole = _per_class(average_precision, logits, target)
    without = _per_class(leave_one_out, logits, target)
    without = torch.where(without.isnan(), whole[:, None], without).nanmean(0)
    return whole.nanmean() + (len(without) - 1) * (without.mean() - without)


def _per_class(figure: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    return torch.stack([figure(logits[:, number], target[:, number]) for number in range(target.shape[1])])
