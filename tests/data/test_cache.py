"""The cache of decoded images: made once, whole or not at all, remade when a file changes; bad images."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.config.options import OnError
from camtrain.config.schema import FolderConfig
from camtrain.data import cache
from camtrain.data.build import build
from camtrain.data.decode import DOZEN, each
from camtrain.data.listing import Rule
from camtrain.data.sources.folder import list_folder
from camtrain.errors import UserError
from camtrain.files import lock

COUNT = 4  # of each class in each split


@pytest.fixture
def config(tmp_path: Path) -> FolderConfig:
    root = tmp_path / "my images ü"
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(COUNT):
                path = root / split / name / f"{number} ä.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
    return FolderConfig(root=str(root), image_size=16, cache=str(tmp_path / "cache"))


def caches(config: FolderConfig) -> list[Path]:
    return sorted(path for path in Path(str(config.cache)).glob("*") if path.is_dir())


def one_of(config: FolderConfig, split: str = "train") -> Path:
    return Path(config.root) / split / "cat" / "1 ä.jpg"


def test_later_runs_read_what_the_first_one_made(config: FolderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = build(config, 0)
    assert len(caches(config)) == 2
    monkeypatch.setattr("camtrain.data.cache.square", None)  # nothing may be decoded
    again, _ = build(config, 0)
    assert torch.equal(first.gather([0, 5])[0], again.gather([0, 5])[0])
    assert torch.equal(first.targets, again.targets)


def test_it_holds_what_decoding_gives(config: FolderConfig) -> None:
    stored = build(config, 0)
    config.cache = None
    for part, decoded in zip(stored, build(config, 0), strict=True):
        assert torch.equal(part.gather(range(2 * COUNT))[0], decoded.gather(range(2 * COUNT))[0])
        assert torch.equal(part.sizes, decoded.sizes)
        assert (part.with_region, list(part.classes)) == (decoded.with_region, list(decoded.classes))


@pytest.mark.parametrize("change", ["content", "time", "name", "mask", "size", "crop", "boxes"])
def test_whatever_defines_it_makes_another(config: FolderConfig, change: str) -> None:
    build(config, 0, guided=True)
    path = one_of(config)
    if change == "content":
        Image.new("RGB", (40, 30)).save(path)
    elif change == "time":
        os.utime(path, ns=(0, 1))
    elif change == "name":
        path.rename(path.with_name("other.jpg"))
    elif change == "mask":
        mask = Path(config.root) / "masks" / "train" / "cat" / "1 ä.png"
        mask.parent.mkdir(parents=True)
        Image.new("L", (40, 30), 1).save(mask)
    elif change == "size":
        config.image_size = 17
    elif change == "crop":
        config.crop_scale = [0.5, 1.0]
    else:
        (Path(config.root) / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\ntrain/cat/1 ä.jpg,1,2,30,20\n")
    before = set(caches(config))
    train, _ = build(config, 0, guided=True)
    made = set(caches(config)) - before
    assert len(made) == (2 if change == "size" else 1)
    if change in ("mask", "boxes"):
        assert train.with_region == 1
        assert train.gather([1])[1].any()


def test_a_image_that_goes_while_it_is_made_leaves_nothing(
    config: FolderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = cache.square

    def vanishing(listing, number, rule, size):  # type: ignore[no-untyped-def]
        listing.paths[5].unlink(missing_ok=True)
        return decode(listing, number, rule, size)

    monkeypatch.setattr("camtrain.data.cache.square", vanishing)
    with pytest.raises(UserError, match="it is not there any more"):
        build(config, 0, threads=1)
    assert caches(config) == []


def test_damaged_caches_are_made_again(config: FolderConfig) -> None:
    whole, _ = build(config, 0)
    expected = whole.gather([3])[0]
    for folder in caches(config):
        with (folder / "images.bin").open("r+b") as opened:
            opened.truncate(10)
    again, _ = build(config, 0)
    assert torch.equal(again.gather([3])[0], expected)
    for folder in caches(config):
        (folder / "meta.json").write_text("{")
    assert torch.equal(build(config, 0)[0].gather([3])[0], expected)
    assert len(caches(config)) == 2


def test_two_processes_make_it_at_once(config: FolderConfig) -> None:
    code = (
        "import sys; from camtrain.config.schema import FolderConfig; from camtrain.data.build import build;"
        "train, val = build(FolderConfig(root=sys.argv[1], image_size=16, cache=sys.argv[2]), 0);"
        "print(int(train.gather(range(8))[0].long().sum()))"
    )
    command = [sys.executable, "-c", code, config.root, str(config.cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(said) == 1
    assert len(caches(config)) == 2


def test_what_a_killed_run_left_is_deleted_and_a_living_ones_is_not(config: FolderConfig) -> None:
    place = Path(str(config.cache))
    dead, unlocked, alive = (f"{letter * 32}.123-{letter * 8}.partial" for letter in "abc")
    for name in (dead, unlocked, alive, ".voc.partial"):
        (place / name).mkdir(parents=True)
    for name in (dead, alive, ".voc.partial"):
        (place / name / "lock").touch()
    with (place / alive / "lock").open("w") as held:
        assert lock(held.fileno())
        build(config, 0)
    assert [folder.name for folder in caches(config) if "partial" in folder.name] == [".voc.partial", alive]


def test_a_killed_run_leaves_nothing_that_looks_complete(config: FolderConfig) -> None:
    code = (
        "import sys, time; from camtrain.config.schema import FolderConfig; from camtrain.data import cache, build;"
        "decode = cache.square;"
        "cache.square = lambda *of: (print('decoding', flush=True), time.sleep(0.5), decode(*of))[2];"
        "build.build(FolderConfig(root=sys.argv[1], image_size=16, cache=sys.argv[2]), 0, 1)"
    )
    command = [sys.executable, "-c", code, config.root, str(config.cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "decoding\n"
        running.kill()
    assert [folder.suffix for folder in caches(config)] == [".partial"]
    build(config, 0)
    assert len(caches(config)) == 2
    assert all(folder.suffix == "" for folder in caches(config))


def test_an_error_of_the_disk_while_others_decode_is_not_lost(
    config: FolderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fsync(_: int) -> None:  # the system tells of it once
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("camtrain.data.cache.SYNCED", 1)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="cannot be written"):
        build(config, 0)
    assert not [path for path in Path(str(config.cache)).iterdir() if path.is_dir()]


def test_no_more_images_wait_than_are_soon_needed(config: FolderConfig) -> None:
    listing = list_folder(config, "train")
    begun: list[int] = []
    made = each(lambda number: begun.append(number), listing, [0] * 1000, threads=2)
    next(made)
    time.sleep(0.2)
    assert len(begun) <= 5 * DOZEN
    assert len(list(made)) == 999


def test_no_room(config: FolderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(UserError, match=r"no room .* 6\.14 kB needed, 1 MB free .*dataset\.cache=null"):
        build(config, 0)
    assert caches(config) == []


def test_a_full_disk_meanwhile_leaves_nothing(config: FolderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("camtrain.data.cache.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot be written to .*No space left"):
        build(config, 0)
    assert caches(config) == []


def test_a_folder_that_cannot_be_made(config: FolderConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config.cache = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match="cannot be written to"):
        build(config, 0)


def test_large_photographs_are_decoded_at_a_fraction_and_look_the_same(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 9, 1200), np.linspace(0, 7, 900))
    values = np.stack([127 + 120 * np.sin(x), 127 + 120 * np.cos(y), 127 + 120 * np.sin(x + y)], 2).astype(np.uint8)
    for kind in ("a", "b"):
        for split in ("train", "val"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / split / kind / "large.jpg", quality=95)
    config = FolderConfig(root=str(tmp_path), image_size=64, cache=None)
    got = build(config, 0)[0].gather([0])[0][0].permute(1, 2, 0).numpy()
    expected = Image.fromarray(values).resize((64, 64), Image.Resampling.BOX, box=(150, 0, 1050, 900))
    assert np.abs(got.astype(int) - np.asarray(expected).astype(int)).mean() < 3


def broken(path: Path, how: str) -> None:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not an image")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:900])
    elif how == "vanished":
        path.unlink()
        path.symlink_to("nowhere")
    elif how == "gigantic":
        header = b"P6 60000 60000 255\n"  # 10.8 GB, if one believed it
        path.write_bytes(header + bytes(100))
    elif how == "float":
        Image.new("F", (40, 30)).save(path, format="TIFF")


@pytest.mark.parametrize("how", ["empty", "text", "truncated", "vanished", "gigantic", "float"])
@pytest.mark.parametrize("cached", [True, False])
def test_bad_images_stop_the_run_or_are_left_out(config: FolderConfig, how: str, cached: bool) -> None:
    path = one_of(config)
    broken(path, how)
    if not cached:
        config.cache = None
    if cached or how != "truncated":
        with pytest.raises(UserError) as caught:
            build(config, 0)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    config.on_error = OnError.skip
    for _ in range(2):  # also where the cache is there
        train, val = build(config, 0)
        assert [entry.path for entry in train.skipped] == [str(path)]
        assert str(path) in train.skipped[0].reason
        assert len(train.targets) == len(train.sizes) == 2 * COUNT - 1
        assert len(train.gather(range(2 * COUNT - 1))[0]) == 2 * COUNT - 1
        assert len(val.targets) == 2 * COUNT
    config.on_error = OnError.fail
    if cached:  # a cache that was made without it does not hide it
        with pytest.raises(UserError, match=r"1 ä\.jpg"):
            build(config, 0)


@pytest.mark.parametrize("on_error", list(OnError))
def test_what_was_left_out_comes_back_when_it_can_be_read(config: FolderConfig, on_error: OnError) -> None:
    path = one_of(config)
    whole = path.read_bytes()
    broken(path, "truncated")
    times = path.stat().st_mtime_ns
    config.on_error = OnError.skip
    build(config, 0)
    key = cache.key(list_folder(config, "train"), Rule(16, False))
    for made in caches(config):  # as if it had been another reason than what is in the file
        if made.name == key:
            path.write_bytes(whole)
            os.utime(path, ns=(times, times))
            made.rename(made.with_name(cache.key(list_folder(config, "train"), Rule(16, False))))
    config.on_error = on_error
    train, _ = build(config, 0)
    assert train.skipped == []
    assert len(train.targets) == 2 * COUNT


def test_all_images_of_a_split_are_bad(config: FolderConfig) -> None:
    for path in (Path(config.root) / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    config.on_error = OnError.skip
    for cached in (config.cache, None):
        config.cache = cached
        with pytest.raises(UserError, match=r"none of the 4 training images of cat can be used; the first: .*cat/0"):
            build(config, 0)


def test_the_first_bad_image_of_that_class_is_named(config: FolderConfig) -> None:
    config.on_error = OnError.skip
    broken(one_of(config), "empty")
    for path in (Path(config.root) / "train" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"images of dog can be used; the first: .*dog/0"):
        build(config, 0)


def test_a_truncated_image_without_a_cache_is_named_when_it_is_read(config: FolderConfig) -> None:
    broken(one_of(config), "truncated")
    config.cache = None
    train, _ = build(config, 0)
    with pytest.raises(UserError, match=r"1 ä\.jpg: the image cannot be decoded") as caught:
        train.gather([0, 1, 2])
    assert "\n" not in str(caught.value)


def test_a_class_of_which_nothing_is_left(config: FolderConfig) -> None:
    config.on_error = OnError.skip
    for path in (Path(config.root) / "val" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 4 validation images of dog can be used; the first: .*empty"):
        build(config, 0)


@pytest.mark.parametrize("name", ["key", "rule"])
def test_key_is_of_this_rule(config: FolderConfig, name: str) -> None:
    listing = list_folder(config, "train")
    rules = [Rule(16, False), Rule(16, True)] if name == "rule" else [Rule(16, False), Rule(17, False)]
    assert len({cache.key(listing, rule) for rule in rules}) == 2
