"""Which validation images are measured, which are drawn, and which serve for what takes long."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camtrain.config.schema import EvaluateConfig
from camtrain.data.images import rarest_class
from camtrain.streams import Stream, stream


def stratified(chosen: Tensor, count: int, classes: Tensor, seed: int, purpose: Stream = Stream.subset) -> Tensor:
    r"""`count` of the chosen images, of each class in proportion, within a class at random; all, if there are no more.

    The j-th image of a class of m images, j from 0 in random order, has priority :math:`(j + 1/2) / m`, and the first
    image of every class comes before all others. That is proportional allocation by the method of Sainte-Laguë
    (Webster), with one image of each class at least, of the most frequent ones where `count` is below their number.
    A choice contains every smaller one, which largest remainders do not guarantee (the Alabama paradox).

    Args:
        chosen: (images,) bool, from which to choose.
        count: how many.
        classes: (images,) int64, see :func:`camtrain.data.images.rarest_class`.
        seed: of the random order.
        purpose: stream of the random order.

    Returns:
        (images,) bool.
    """
    order = stream(seed, purpose).permutation(len(chosen))
    numbers = order[chosen.numpy()[order]]
    if len(numbers) <= count:
        return chosen
    _, of_class, sizes = np.unique(classes.numpy()[numbers], return_inverse=True, return_counts=True)
    by_class = of_class.argsort(kind="stable")
    place = np.empty_like(by_class)
    place[by_class] = np.arange(len(by_class)) - np.repeat(sizes.cumsum() - sizes, sizes)
    taken = np.lexsort(((place + 0.5) / sizes[of_class], place > 0))[:count]  # stable: at random where they are equal
    return torch.zeros_like(chosen).index_fill_(0, torch.from_numpy(numbers[taken]), True)


def choose_images(targets: Tensor, config: EvaluateConfig, seed: int) -> tuple[Tensor, list[int]]:
    """Whose maps are measured, (images,) bool, and which of those are drawn: fixed random choices, stratified by class.

    Args:
        targets: (images,) class numbers, or (images, classes) of 0 and 1.
        config: how many.
        seed: of the choice.
    """
    classes = rarest_class(targets)
    measured = stratified(torch.ones(len(targets), dtype=torch.bool), config.max_images, classes, seed)
    shown = stratified(measured, config.images, classes, seed, Stream.images)
    return measured, shown.nonzero().flatten().tolist()
