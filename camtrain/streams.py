"""Random streams as functions of (seed, epoch, step): nothing random depends on what ran before.

That makes a run repeatable and resumable, independent of the number of threads, and gives every arm the same draws.
"""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What a stream is for. The number is part of the stream's identity."""

    weights = 0
    order = 1
    augmentation = 2
    dropout = 3
    subset = 4
    images = 5
    sanity = 6
    road = 7
    folds = 8
    blocks = 9
    views = 10


def stream(seed: int, purpose: Stream, epoch: int = 0, step: int = 0) -> np.random.Generator:
    """An independent generator for this purpose, epoch and step."""
    return np.random.default_rng([seed, purpose, epoch, step])


def torch_seed(seed: int, purpose: Stream, epoch: int = 0, step: int = 0) -> int:
    """A seed for torch's generators, for what only they can draw (dropout, initial weights)."""
    return int(stream(seed, purpose, epoch, step).integers(2**63))
