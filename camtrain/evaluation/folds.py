"""Two halves of the validation images: what is fitted on one is judged on the other."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.streams import Stream, stream


def two_folds(count: int, seed: int) -> Tensor:
    """A fixed random half of the images, (count,) int64, 0 or 1, by the images' numbers.

    The halves are those of the images, not of their maps, and the same for every arm.
    """
    return torch.from_numpy(stream(seed, Stream.folds).permutation(count) % 2)
