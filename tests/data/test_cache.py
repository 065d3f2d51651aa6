"""The cache of decoded images: made once, whole or not at all, remade when a file changes."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from image_folders import caches, write_noise
from PIL import Image

from camtrain.config.options import Fit
from camtrain.config.schema import FolderConfig
from camtrain.data import cache
from camtrain.data.build import build
from camtrain.data.listing import Rule
from camtrain.data.sources.folder import list_folder
from camtrain.errors import MachineError, UserError

COUNT = 4  # of each class in each split

MAKE_SLOWLY = """
import pickle, sys, time
from pathlib import Path
from camtrain.data import cache
decode = cache.image_and_region
cache.image_and_region = lambda *arguments: (print("decoding", flush=True), time.sleep(0.1), decode(*arguments))[2]
arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
cache.make(*arguments, 1, "training", skip=False)
print(int(cache.load(*arguments[:2]).images.long().sum()))
"""
"""A program that makes a cache and says when it has begun; without what it does not need, so that it starts sooner."""


@pytest.fixture
def config(tmp_path: Path) -> FolderConfig:
    return write_noise(tmp_path / "my images ü")


def one_of(config: FolderConfig, split: str = "train") -> Path:
    return Path(config.root) / split / "cat" / "1 ä.jpg"


@contextmanager
def made_elsewhere(config: FolderConfig) -> Iterator[subprocess.Popen[str]]:
    """Another process that is making the training images' cache."""
    listing, rule = list_folder(config, "train").without_regions(), Rule(16, 16, Fit.crop)
    arguments = Path(config.root).parent / "arguments"
    arguments.write_bytes(pickle.dumps((Path(str(config.cache)) / cache.key(listing, rule), listing, rule)))
    command = [sys.executable, "-c", MAKE_SLOWLY, str(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "decoding\n"
        yield running


def test_later_runs_read_what_the_first_one_made(config: FolderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = build(config, 0)
    assert len(caches(config)) == 2
    monkeypatch.setattr("camtrain.data.cache.image_and_region", None)  # nothing may be decoded
    again, _ = build(config, 0)
    assert torch.equal(first.gather([0, 5])[0], again.gather([0, 5])[0])
    assert torch.equal(first.targets, again.targets)


def test_it_holds_what_decoding_gives(config: FolderConfig) -> None:
    stored = build(config, 0)
    config.cache = None
    for part, decoded in zip(stored, build(config, 0), strict=True):
        assert torch.equal(part.gather(range(2 * COUNT))[0], decoded.gather(range(2 * COUNT))[0])
        assert torch.equal(part.sizes, decoded.sizes)
        assert torch.equal(part.has_region, decoded.has_region)
        assert list(part.classes) == list(decoded.classes)


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
        assert int(train.has_region.sum()) == 1
        assert train.gather([1])[1].any()


def test_an_image_that_vanishes_while_it_is_made_leaves_nothing(
    config: FolderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = cache.image_and_region

    def vanishing(listing, number, rule, size):  # type: ignore[no-untyped-def]
        listing.paths[5].unlink(missing_ok=True)
        return decode(listing, number, rule, size)

    monkeypatch.setattr("camtrain.data.cache.image_and_region", vanishing)
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
    with made_elsewhere(config) as other:
        train, _ = build(config, 0)
        assert other.poll() is None, "the other process has ended before this one did"
        said, _ = other.communicate()
    assert other.returncode == 0
    assert int(said.split()[-1]) == int(train.gather(range(2 * COUNT))[0].long().sum())
    assert len(caches(config)) == 2


def test_what_a_killed_run_left_is_deleted_and_a_living_ones_is_not(config: FolderConfig) -> None:
    place = Path(str(config.cache))
    dead, unlocked, alive = (f"{letter * 32}.123-{letter * 8}.partial" for letter in "abc")
    for name in (dead, unlocked, alive, ".voc.partial"):
        (place / name).mkdir(parents=True)
    for name in (dead, alive, ".voc.partial"):
        (place / name / "lock").touch()
    with FileLock(place / alive / "lock"):
        build(config, 0)
    assert [folder.name for folder in caches(config) if "partial" in folder.name] == [".voc.partial", alive]


def test_a_killed_run_leaves_nothing_that_looks_complete(config: FolderConfig) -> None:
    with made_elsewhere(config) as other:
        other.kill()
    assert [folder.suffix for folder in caches(config)] == [".partial"]
    build(config, 0)
    assert len(caches(config)) == 2
    assert all(folder.suffix == "" for folder in caches(config))


def test_an_error_of_the_disk_while_others_decode_is_not_lost(
    config: FolderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fsync(_: int) -> None:  # the system reports it once
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("camtrain.data.cache.SYNCED", 1)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="cannot be written"):
        build(config, 0)
    assert not [path for path in Path(str(config.cache)).iterdir() if path.is_dir()]


def test_no_room(config: FolderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(MachineError, match=r"no room .* 6\.14 kB needed, 1 MB free .*dataset\.cache=null"):
        build(config, 0)
    assert caches(config) == []


def test_a_full_disk_meanwhile_leaves_nothing(config: FolderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("camtrain.data.cache.os.fsync", full)
    with pytest.raises(MachineError, match=r"cannot be written to .*No space left"):
        build(config, 0)
    assert caches(config) == []


def test_a_folder_that_cannot_be_made(config: FolderConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config.cache = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match="cannot be written to"):
        build(config, 0)


def test_key_depends_on_the_rule(config: FolderConfig) -> None:
    listing = list_folder(config, "train")
    rules = Rule(16, 16, Fit.crop), Rule(16, 16, Fit.stretch), Rule(17, 16, Fit.crop), Rule(16, 17, Fit.crop)
    others = Rule(16, 16, Fit.crop, 1), Rule(16, 16, Fit.crop, span=(0.0, 4095.0))
    assert len({cache.key(listing, rule) for rule in (*rules, *others)}) == 6
