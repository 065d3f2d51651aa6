"""Odd images are used; bad ones stop a run before it begins, or are left out and come back when they are mended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Command
from image_folders import BAD, TRAINED_ALONE, caches, spoil, write_noise, write_odd
from PIL import Image

from camtrain.config.options import Fit, OnError
from camtrain.config.schema import FolderConfig
from camtrain.data import cache
from camtrain.data.build import build
from camtrain.data.listing import Rule
from camtrain.data.sources.folder import list_folder
from camtrain.errors import UserError

SETTINGS = ("dataset=folder", 'dataset.root="my images ü"', "dataset.image_size=32", "dataset.cache=cache")
QUICK = ("trainer.max_steps=2", "trainer.batch_size=4", *TRAINED_ALONE, "hydra.run.dir=run")


@pytest.fixture
def config(tmp_path: Path) -> FolderConfig:
    return write_noise(tmp_path / "my images ü", ("a cat", "犬"))


def first_image(config: FolderConfig) -> Path:
    return Path(config.root) / "train" / "a cat" / "1 ä.jpg"


def test_a_run_trains_on_odd_images_and_leaves_bad_ones_out_of_both_arms(
    run_command: Command, config: FolderConfig, tmp_path: Path
) -> None:
    root, odd = Path(config.root), 0
    for split, name in (("train", "a cat"), ("val", "犬")):
        odd += write_odd(root / split / name)
        for how in BAD:
            path = root / split / name / f"{how}.jpg"
            path.write_bytes(first_image(config).read_bytes())
            spoil(path, how)
    done = run_command(*SETTINGS, *QUICK, "dataset.on_error=skip")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "left out  6 training images, listed in result.json; the first: " in done.stdout
    data = json.loads((tmp_path / "run" / "result.json").read_text())["data"]
    assert data["train"] + data["val"] == 16 + odd
    for split, folder in (("train", "a cat"), ("val", "犬")):
        listed = data["skipped"][split]
        assert sorted(Path(entry["path"]).stem for entry in listed) == sorted(BAD)
        assert all(f"/{folder}/" in entry["path"] and entry["path"] in entry["reason"] for entry in listed)


def test_a_bad_image_stops_a_run_before_it_begins(run_command: Command, config: FolderConfig, tmp_path: Path) -> None:
    spoil(first_image(config), "truncated")
    done = run_command(*SETTINGS, *QUICK)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert first_image(config).name in done.stderr
    assert "dataset.on_error=skip" in done.stderr
    assert not (tmp_path / "run").exists()
    assert caches(config) == []


@pytest.mark.parametrize("cached", [True, False])
def test_odd_images_are_read(config: FolderConfig, cached: bool) -> None:
    count = write_odd(Path(config.root) / "train" / "犬")
    config.cache = config.cache if cached else None
    train, _ = build(config, 0)
    images, _ = train.gather(range(8 + count))
    assert train.skipped == []
    assert (images.flatten(1).float().std(1) > 5).all()


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("cached", [True, False])
def test_bad_images_stop_the_run_or_are_left_out(config: FolderConfig, how: str, cached: bool) -> None:
    path = first_image(config)
    spoil(path, how)
    if not cached:
        config.cache = None
    if cached or how not in ("truncated", "corrupt"):  # which shows only when they are decoded
        with pytest.raises(UserError) as caught:
            build(config, 0)
        assert str(path) in str(caught.value)
        assert "dataset.on_error=skip" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not cached or caches(config) == []
    config.on_error = OnError.skip
    for _ in range(2):  # also where the cache is there
        train, val = build(config, 0)
        assert [entry.path for entry in train.skipped] == [str(path)]
        assert str(path) in train.skipped[0].reason
        assert len(train.targets) == len(train.sizes) == 7
        assert len(train.gather(range(7))[0]) == 7
        assert len(val.targets) == 8
    config.on_error = OnError.fail
    if cached:  # a cache that was made without it does not hide it
        with pytest.raises(UserError, match=r"1 ä\.jpg"):
            build(config, 0)


@pytest.mark.parametrize("on_error", list(OnError))
def test_what_was_left_out_comes_back_when_it_can_be_read(config: FolderConfig, on_error: OnError) -> None:
    path = first_image(config)
    whole = path.read_bytes()
    spoil(path, "truncated")
    times = path.stat().st_mtime_ns
    config.on_error = OnError.skip
    build(config, 0)
    key = cache.key(list_folder(config, "train"), Rule(16, 16, Fit.crop))
    for made in caches(config):  # as if it had been another reason than what is in the file
        if made.name == key:
            path.write_bytes(whole)
            os.utime(path, ns=(times, times))
            made.rename(made.with_name(cache.key(list_folder(config, "train"), Rule(16, 16, Fit.crop))))
    config.on_error = on_error
    train, _ = build(config, 0)
    assert train.skipped == []
    assert len(train.targets) == 8


def test_all_images_of_a_split_are_bad(config: FolderConfig) -> None:
    for path in (Path(config.root) / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    config.on_error = OnError.skip
    for cached in (config.cache, None):
        config.cache = cached
        with pytest.raises(
            UserError, match=r"none of the 4 training images of a cat can be used; the first: .*a cat/0"
        ):
            build(config, 0)


def test_the_first_bad_image_of_that_class_is_named(config: FolderConfig) -> None:
    config.on_error = OnError.skip
    spoil(first_image(config), "empty")
    for path in (Path(config.root) / "train" / "犬").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"images of 犬 can be used; the first: .*犬/0"):
        build(config, 0)


def test_a_truncated_image_without_a_cache_is_named_when_it_is_read(config: FolderConfig) -> None:
    spoil(first_image(config), "truncated")
    config.cache = None
    train, _ = build(config, 0)
    with pytest.raises(UserError, match=r"1 ä\.jpg: the image cannot be decoded") as caught:
        train.gather([0, 1, 2])
    assert "\n" not in str(caught.value)


def test_a_class_of_which_nothing_is_left(config: FolderConfig) -> None:
    config.on_error = OnError.skip
    for path in (Path(config.root) / "val" / "犬").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 4 validation images of 犬 can be used; the first: .*empty"):
        build(config, 0)


def test_an_image_is_not_at_fault_where_memory_is_exhausted(
    config: FolderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be left out, and the run go on with other images than those that were asked for."""

    def load(_image: Image.Image) -> NoReturn:
        raise MemoryError

    config.on_error = OnError.skip
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        build(config, 0)
