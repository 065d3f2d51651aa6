"""Batches: order and augmentation depend on seed, epoch and step alone, and not on threads, cache, device or start."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from image_folders import box_mask, write_folder

from camtrain.config.schema import ShapesConfig
from camtrain.data.augment import Augmentation
from camtrain.data.batches import Batch, Batching, epoch_plans, steps_per_epoch, training_batches
from camtrain.data.build import build
from camtrain.data.images import ImageSet, StoredImages

VARIED = Augmentation((0.4, 1.0), flip=True, brightness=0.3, hue=0.1, erase=0.5)


def batches(
    image_set: ImageSet, size: int, augmentation: Augmentation, side: int, epochs: int = 1, threads: int = 1
) -> list[Batch]:
    return list(training_batches(image_set, Batching(size, threads=threads), epochs, 7, augmentation, (side, side)))


def test_arrays_can_be_cropped_too() -> None:
    train, _ = build(ShapesConfig(train=16, val=8, image_size=32), seed=0)
    whole = batches(train, 8, Augmentation(), 32)[0]
    part = batches(train, 8, Augmentation((0.2, 0.4)), 32)[0]
    assert torch.equal(whole.targets, part.targets)
    assert part.images.shape == whole.images.shape
    assert not torch.equal(whole.images, part.images)


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    plans = epoch_plans(50, 8, seed=1, epoch=2)
    assert len(plans) == steps_per_epoch(50, 8) == 6
    seen = [index for plan in plans for index in plan.indices]
    assert len(set(seen)) == 48
    assert plans == epoch_plans(50, 8, seed=1, epoch=2)
    assert plans != epoch_plans(50, 8, seed=1, epoch=3)
    assert plans != epoch_plans(50, 8, seed=2, epoch=2)
    assert len(epoch_plans(5, 8, 0, 0)) == 1


def test_batches_depend_neither_on_threads_nor_on_the_cache(tmp_path: Path) -> None:
    config = write_folder(tmp_path, box_mask)
    augmentation = Augmentation((0.5, 1.0), flip=True, hue=0.1, erase=0.5)
    made = []
    for workers, cache in ((1, None), (3, None), (2, str(tmp_path / "cache")), (2, str(tmp_path / "cache"))):
        config.cache = cache
        train, _ = build(config, 0, workers, guided=True)
        made.append(batches(train, 2, augmentation, 24, epochs=2, threads=workers))
    assert len(made[0]) == 6
    for other in made[1:]:
        for one, again in zip(made[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:4], again[:4], strict=True))
    assert not torch.equal(made[0][0].images, made[0][3].images)


@pytest.mark.parametrize("start", [(0, 1), (0, 4), (1, 0), (1, 3), (2, 3), (2, 4), (3, 0)])
def test_batches_that_begin_later_are_those_of_a_run_from_the_beginning(start: tuple[int, int]) -> None:
    train, _ = build(ShapesConfig(train=18, val=8, image_size=32), seed=0)
    whole = batches(train, 4, VARIED, 24, epochs=3)
    assert len(whole) == 12
    rest = list(training_batches(train, Batching(4, threads=2), 3, 7, VARIED, (24, 24), start))
    assert len(rest) == 12 - 4 * start[0] - start[1]
    for one, again in zip(whole[len(whole) - len(rest) :], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], again[:4], strict=True))


def test_few_batches_wait_however_many_threads_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = build(ShapesConfig(train=64, val=8, image_size=32), seed=0)
    taken: list[int] = []
    item = type(train).item

    def counted(self: StoredImages, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        taken.append(number)
        return item(self, number)

    monkeypatch.setattr(type(train), "item", counted)
    monkeypatch.setattr("camtrain.data.batches.WAITING", 3 * 4 * 3 * 32**2 * 4)
    made = training_batches(train, Batching(4, threads=8), 1, 7, Augmentation(), (32, 32))
    next(made)
    time.sleep(0.2)
    assert len(taken) == 4 * 4  # three that wait, and the one that was taken
    made.close()


def test_another_device_gets_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = build(ShapesConfig(train=16, val=8, image_size=32), seed=0)
    here = batches(train, 4, VARIED, 24)

    class Elsewhere:  # as torch.device("cuda") would be asked
        type = "elsewhere"

    monkeypatch.setattr("camtrain.data.batches._to", lambda _, *parts: parts)
    there = list(training_batches(train, Batching(4, cast(torch.device, Elsewhere())), 1, 7, VARIED, (24, 24)))
    for one, other in zip(here, there, strict=True):
        assert (one.images - other.images).abs().max() < 0.02  # bytes round in between
        assert torch.equal(one.regions, other.regions)
        assert torch.equal(one.targets, other.targets)
