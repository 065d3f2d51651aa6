"""Folds: every image of both splits validates once, and is trained on in the other folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from image_folders import BAD, caches, spoil, write_noise
from PIL import Image

from camtrain.config.options import DatasetName, OnError
from camtrain.config.schema import DatasetConfig, FakeConfig, PythonConfig, ShapesConfig
from camtrain.config.validate import fold_of
from camtrain.data.build import build, validation
from camtrain.data.folds import fold_of_each
from camtrain.data.images import ImageSet, image_name, per_class
from camtrain.errors import UserError


def names(images: ImageSet) -> list[str]:
    return [image_name(images, number) for number in range(len(images.targets))]


def pixels(images: ImageSet) -> dict[str, np.ndarray]:
    return {name: images.item(number)[0] for number, name in enumerate(names(images))}


def folds_of(config: DatasetConfig, count: int, **more: Any) -> list[tuple[ImageSet, ImageSet]]:
    """Both parts of every fold, of which it is checked that they divide the same images."""
    parts = [build(replace(config, fold=f"{number}/{count}"), 0, **more) for number in range(count)]
    validated = [name for _, val in parts for name in names(val)]
    assert len(validated) == len(set(validated))
    for train, val in parts:
        assert sorted(names(train) + names(val)) == sorted(validated)
    return parts


def test_the_partition_is_stratified_and_fixed() -> None:
    targets = torch.tensor([0] * 13 + [1] * 7 + [2] * 5 + [3])
    folds = fold_of_each(targets, 5)
    counts = torch.stack([targets[folds == number].bincount(minlength=4) for number in range(5)])
    assert int((counts.amax(0) - counts.amin(0)).max()) == 1
    assert sorted(counts.sum(1).tolist()) == [5, 5, 5, 5, 6]
    assert torch.equal(fold_of_each(targets, 5), folds)
    assert not torch.equal(fold_of_each(targets, 3) % 3, folds % 3)
    several = torch.nn.functional.one_hot(targets, 4)
    several[:, 0] = 1  # the frequent class decides nothing where there is another
    assert torch.equal(fold_of_each(several, 5), folds)
    assert folds.tolist() != sorted(folds.tolist())


@pytest.mark.parametrize("crops", [[1.0, 1.0], [0.5, 1.0]])
def test_generated_images(crops: list[float]) -> None:
    config = ShapesConfig(name=DatasetName.shapes, image_size=16, train=24, val=16, crop_scale=crops)
    splits = build(config, 0)
    whole = {
        f"picture {at}": image for at, image in enumerate([*pixels(splits[0]).values(), *pixels(splits[1]).values()])
    }
    for number, (train, val) in enumerate(folds_of(config, 5)):
        assert per_class(val.targets, 8) == [1] * 8
        for part in (train, val):
            for name, image in pixels(part).items():
                assert np.array_equal(image, whole[name])
        assert bool(val.has_region.all())
        again = validation(replace(config, fold=f"{number}/5"), 0)
        assert torch.equal(again.gather(range(8))[0], val.gather(range(8))[0])
        other = build(replace(config, fold=f"{number}/5"), 1)[1]
        assert names(other) == names(val)


def test_files_are_decoded_once_and_crops_are_taken_from_training_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_noise(tmp_path / "set", count=5)
    plain = build(config, 0)
    made = caches(config)
    folds_of(config, 4)
    assert caches(config) == made  # without masks the splits' own are all that is needed
    monkeypatch.setattr("camtrain.data.cache.image_and_region", None)
    for train, val in folds_of(config, 3):
        for part in (train, val):
            for name, image in pixels(part).items():
                assert np.array_equal(image, {**pixels(plain[0]), **pixels(plain[1])}[name])
    monkeypatch.undo()
    config.crop_scale = [0.5, 1.0]
    for train, val in folds_of(config, 4):
        assert (train.shape, val.shape) == ((3, 20, 20), (3, 16, 16))
    assert len(caches(config)) == 4


def test_masks_are_read_where_they_are_needed(tmp_path: Path) -> None:
    config = write_noise(tmp_path / "set", count=3)
    masks = Path(config.root) / "masks" / "train" / "dog"
    masks.mkdir(parents=True)
    for number in range(3):
        Image.new("L", (40, 30), 1).save(masks / f"{number} ä.png")
    config.crop_scale = [0.5, 1.0]
    for guided in (False, True):
        parts = folds_of(config, 3, guided=guided)
        for train, val in parts:
            shown = [name for name, has in zip(names(val), val.has_region.tolist(), strict=True) if has]
            assert shown == [name for name in names(val) if "train/dog" in name]
            assert bool(train.has_region.any()) == guided
            regions = val.gather(range(len(val.targets)))[1]
            assert (regions is not None and bool(regions.any())) == bool(shown)
    assert sum(int(val.has_region.sum()) for _, val in parts) == 3


def test_an_image_in_both_splits_is_not_doubled(tmp_path: Path) -> None:
    config = write_noise(tmp_path / "set", count=4)
    config.val_split = "train"
    assert sum(len(val.targets) for _, val in folds_of(config, 2)) == 8


@pytest.mark.parametrize("cached", [True, False])
def test_what_cannot_be_read_is_in_no_fold(tmp_path: Path, cached: bool) -> None:
    config = write_noise(tmp_path / "set", count=6)
    for split, how in (("train", BAD[0]), ("val", BAD[2])):
        spoil(Path(config.root) / split / "cat" / "1 ä.jpg", how)
    config = replace(config, on_error=OnError.skip, cache=config.cache if cached else None, crop_scale=[0.5, 1.0])
    for train, val in folds_of(config, 3):
        assert len(train.targets) + len(val.targets) == 22
        assert [len(part.skipped) for part in (train, val)] == [1, 1]


MODULE = """
import random
import numpy as np

class Items(list):
    classes = ["a", "b", "c"]

def make(seed=0):
    numbers = list(range(24))
    random.shuffle(numbers)
    items = [(np.full((20 + n, 20, 3), 10 * n, np.uint8), n % 3, np.full((20 + n, 20), n % 2)) for n in numbers]
    return Items(items[:15]), Items(items[15:])
"""


def test_data_sets_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_fold_sets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = PythonConfig(name=DatasetName.python, source="my_fold_sets:make", image_size=16, crop_scale=[0.5, 1.0])
    seen = []
    for train, val in folds_of(config, 4):
        assert (train.shape, val.shape) == ((3, 20, 20), (3, 16, 16))
        assert per_class(val.targets, 3) == [2, 2, 2]
        for number, image in enumerate(pixels(val).values()):
            assert int(image[8, 8, 0]) // 10 % 3 == int(val.targets[number])
            assert bool(val.has_region[number]) == bool(int(image[8, 8, 0]) // 10 % 2)
            seen.append(int(image[8, 8, 0]) // 10)
    assert sorted(seen) == list(range(24))
    first, second = (build(replace(config, fold="0/4"), seed)[1] for seed in (0, 1))
    assert torch.equal(first.gather(range(6))[0], second.gather(range(6))[0]), "all seeds have the same folds"


@pytest.mark.parametrize("fold", ["5/5", "-1/5", "0/1", "1", "a/b", "0/5/5", ""])
def test_a_fold_that_there_is_not(fold: str) -> None:
    with pytest.raises(UserError, match=r"^dataset\.fold=.*: give k/n with 0 <= k < n.*, such as 0/5$"):
        fold_of(FakeConfig(fold=fold))
    assert fold_of(FakeConfig(fold="4/5")) == (4, 5)
    assert fold_of(FakeConfig()) is None


def test_too_few_images(caplog: pytest.LogCaptureFixture) -> None:
    config = FakeConfig(name=DatasetName.fake, image_size=16, train=5, val=2)
    with pytest.raises(UserError, match=r"dataset\.fold=0/8: 7 images cannot fill 8 folds; use 7 at most"):
        build(replace(config, fold="0/8"), 0)
    caplog.clear()
    build(replace(config, fold="0/3"), 0)
    (line,) = caplog.messages
    assert line == "dataset.fold=0/3: too few images of class_2 (1) for every fold to validate some; use fewer folds"


def test_the_data_task_says_what_is_in_a_fold(run_command: Command) -> None:
    settings = ("task=data", "dataset=fake", "dataset.train=9", "dataset.val=6", "dataset.image_size=16")
    done = run_command(*settings, "dataset.fold=1/4", "hydra.run.dir=look")
    assert done.returncode == 0, done.stderr
    assert "4 of 15 images are in fold 1/4" in done.stdout
    done = run_command(*settings, "dataset.fold=4/4")
    assert done.returncode == 2
    assert done.stderr == (
        "camtrain: error: dataset.fold=4/4: give k/n with 0 <= k < n and n of 2 or more, such as 0/5\n"
    )
