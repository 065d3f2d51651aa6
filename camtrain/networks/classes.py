r"""Classes of a data set as groups of a network's outputs.

A network may know finer classes than the images are labelled with: ImageNet has 118 dogs. The logit of a class c that
stands for the outputs :math:`S_c` is

.. math:: y_c = \ln \sum_{j \in S_c} e^{y_j}

The softmax of these is what the network's own softmax says on condition that it is one of the classes at all,
:math:`p_c = \sum_{j \in S_c} p_j / \sum_{c'} \sum_{j \in S_{c'}} p_j`; outputs that belong to no class are not asked.
The gradient is the mean of those of the outputs, :math:`\partial y_c / \partial A = \sum_{j \in S_c} q_j\, \partial y_j
/ \partial A` with :math:`q_j = e^{y_j - y_c}`: the map of the class is that of the outputs which the network takes the
image for, within the class. Where a class is one output alone it is that output's map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Groups = Sequence[Sequence[int]]
"""Of each class, the numbers of its outputs, one at least."""


def grouped(logits: Tensor, groups: Groups) -> Tensor:
    """Logits of the classes, (batch, classes).

    Args:
        logits: (batch, outputs), float32 or wider.
        groups: of each class.
    """
    rows = alone(groups)
    if rows is not None:
        return logits[:, rows]
    return torch.stack([logits[:, list(members)].logsumexp(1) for members in groups], 1)


def alone(groups: Groups) -> list[int] | None:
    """The output of each class, if each has one only; else None."""
    return [members[0] for members in groups] if all(len(members) == 1 for members in groups) else None
