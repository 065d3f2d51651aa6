"""How well a network classifies, and what chance gives: accuracy, plain and balanced, or mean average precision where
an image has several classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.targets import is_multilabel


def is_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Whether each image is classified correctly, (batch,) float32; one class per image only."""
    assert not is_multilabel(target), "several classes per image have an average precision, not an accuracy"
    return (logits.argmax(1) == target).float()


def images_per_class(target: Tensor, classes: int) -> Tensor:
    """How many images have each class, (classes,) int64.

    Args:
        target: (images,) int64 class numbers, or (images, classes) of 0 and 1.
        classes: number of classes.
    """
    return target.long().sum(0) if is_multilabel(target) else target.bincount(minlength=classes)


def balanced(correct: Tensor, target: Tensor) -> Tensor:
    r"""What each image adds to the balanced accuracy, whose mean is that figure: (images,) float64, 0 or above.

    .. math:: \frac1K \sum_k \frac1{n_k} \sum_{i \in k} r_i = \frac1n \sum_i \frac{n}{K n_{k(i)}} r_i

    with :math:`r_i` 1 if image i is correct, and :math:`n_k` of the n images in class k; the K classes without images
    are left out, as in scikit-learn's `balanced_accuracy_score`. It is the accuracy where classes are equally frequent.

    Args:
        correct: (images,) of 0 and 1.
        target: (images,) int64 class numbers.
    """
    counts = target.bincount()
    share = len(target) / ((counts > 0).sum() * counts.double())
    return correct.double() * share[target]


def chance(per_class: Sequence[float], images: int, multilabel: bool) -> float:
    r"""What a network reaches that does not look at the images, 0..1.

    With one class per image the share of the largest class, :math:`\max_k n_k / n`: what always saying it gives. It is
    1 / classes at least, which guessing gives. With several, the mean over classes that have images of :math:`n_k / n`:
    the mean average precision of a random order.

    Args:
        per_class: :math:`n_k`, images of each class.
        images: n.
        multilabel: images may have several classes.
    """
    present = [count for count in per_class if count]
    return (sum(present) / len(present) if multilabel else max(present)) / images


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
