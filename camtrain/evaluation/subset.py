"""Which validation images are measured, which are drawn, and which serve for what takes long."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.config.schema import EvaluateConfig
from camtrain.streams import Stream, stream


def evenly_spaced(chosen: Tensor, count: int) -> Tensor:
    """`count` of the chosen ones, (images,) bool, spread evenly: in a set that is sorted by class, of every class."""
    numbers = chosen.nonzero().flatten()
    if len(numbers) <= count:
        return chosen
    found = torch.zeros_like(chosen)
    found[numbers[torch.arange(count) * len(numbers) // max(count, 1)]] = True
    return found


def choose_images(count: int, config: EvaluateConfig, seed: int) -> tuple[Tensor, list[int]]:
    """Whose maps are measured, (count,) bool, and which of those are drawn: fixed random choices of `count` images."""
    order = stream(seed, Stream.subset).permutation(count)[: config.max_images]
    measured = torch.zeros(count, dtype=torch.bool)
    measured[torch.from_numpy(order)] = True
    shown = stream(seed, Stream.images).permutation(order)[: config.images]
    return measured, sorted(shown.tolist())
