"""Results made ahead in threads."""

from __future__ import annotations

import torch

from camtrain.config.schema import ShapesConfig
from camtrain.data.augment import Augmentation
from camtrain.data.batches import Batching, training_batches
from camtrain.data.build import build
from camtrain.data.prefetch import prefetched


def test_threads_that_make_batches_leave_the_number_of_torchs_threads_alone() -> None:
    train, _ = build(ShapesConfig(train=16, val=8, image_size=32), seed=0)
    before = torch.get_num_threads()
    inside = list(prefetched(lambda _: torch.get_num_threads(), range(4), 2, 3))
    list(training_batches(train, Batching(4, threads=2), 1, 7, Augmentation(), (32, 32)))
    assert [number for _, number in inside] == [1] * 4
    assert torch.get_num_threads() == before
