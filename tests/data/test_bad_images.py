"""Odd and bad images in a real training of two steps by the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image

RANDOM = np.random.default_rng(0)

SETTINGS = ("dataset=folder", 'dataset.root="my images ü"', "dataset.image_size=32", "dataset.cache=cache")
QUICK = ("trainer.max_steps=2", "trainer.batch_size=4", "evaluate.images=1", "hydra.run.dir=run")


def noise(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 255, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "my images ü"
    for split in ("train", "val"):
        for name in ("a cat", "犬"):
            for number in range(4):
                path = root / split / name / f"{number} é.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise(30, 40, 3)).save(path)
    return root


def odd(folder: Path) -> int:
    """Images that are unusual and right; how many."""
    Image.fromarray(noise(30, 40, 4), "CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(30, 40).astype(np.uint16) * 257).save(folder / "sixteen bits.png")
    Image.fromarray(noise(30, 40, 3)).quantize(16).save(folder / "palette.png")
    Image.fromarray(noise(30, 40, 3)).quantize(16).save(folder / "transparent palette.png", transparency=b"\0\x80\xff")
    Image.fromarray(noise(30, 40, 4), "RGBA").save(folder / "alpha.png")
    Image.fromarray(noise(30, 40, 2), "LA").save(folder / "grey and alpha.png")
    Image.fromarray(noise(30, 40)).save(folder / "grey.webp")
    Image.fromarray(noise(30, 40) > 100).save(folder / "one bit.tif")
    frames = [Image.fromarray(noise(30, 40)) for _ in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    turned = Image.fromarray(noise(30, 40, 3))
    exif = turned.getexif()
    exif[0x0112] = 8
    turned.save(folder / "on its side.jpg", exif=exif)
    Image.fromarray(noise(1, 90, 3)).save(folder / "a line.png")
    return 11


def bad(folder: Path) -> list[str]:
    """Images that cannot be used; their names."""
    Image.fromarray(noise(90, 90, 3)).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "corrupt.jpg").write_bytes(whole[:300] + bytes(200) + b"\xff\xd8" + whole[900:1000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no image")
    (folder / "vanished.jpg").symlink_to("nowhere.jpg")
    (folder / "gigantic.ppm").write_bytes(b"P6 60000 60000 255\n" + bytes(100))
    return sorted(path.name for path in folder.iterdir() if not path.name[0].isdigit())


def test_odd_images_are_trained_on(command: Command, root: Path, tmp_path: Path) -> None:
    count = odd(root / "train" / "a cat") + odd(root / "val" / "犬")
    done = command(*SETTINGS, *QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    data = json.loads((tmp_path / "run" / "result.json").read_text())["data"]
    assert data["train"] + data["val"] == 16 + count
    assert data["skipped"] == {"train": [], "val": []}


@pytest.mark.parametrize("cache", ["cache", "null"])
def test_bad_images_are_left_out_of_both_arms_and_listed(
    command: Command, root: Path, tmp_path: Path, cache: str
) -> None:
    names = bad(root / "train" / "a cat")
    bad(root / "val" / "犬")
    assert len(names) == 6
    done = command(*SETTINGS, *QUICK, "dataset.on_error=skip", f"dataset.cache={cache}")
    assert done.returncode == 0, done.stderr
    assert "left out  6 training images, listed in result.json; the first: " in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["train"] == result["data"]["val"] == 8
    for split, folder in (("train", "a cat"), ("val", "犬")):
        listed = result["data"]["skipped"][split]
        assert sorted(Path(entry["path"]).name for entry in listed) == names
        assert all(f"/{folder}/" in entry["path"] and entry["path"] in entry["reason"] for entry in listed)


@pytest.mark.parametrize(
    "name", ["truncated.jpg", "corrupt.jpg", "empty.png", "text.png", "vanished.jpg", "gigantic.ppm"]
)
def test_bad_images_stop_a_run_before_it_begins(command: Command, root: Path, tmp_path: Path, name: str) -> None:
    folder = root / "train" / "犬"
    bad(folder)
    for path in list(folder.iterdir()):
        if not path.name[0].isdigit() and path.name != name:
            path.unlink()
    done = command(*SETTINGS, *QUICK)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert "dataset.on_error=skip" in done.stderr
    assert not (tmp_path / "run").exists()
    assert not [path for path in (tmp_path / "cache").glob("*") if path.is_dir()]


def test_data_task_says_what_is_there(command: Command, root: Path, tmp_path: Path) -> None:
    (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\ntrain/a cat/1 é.jpg,5,5,20,20\n")
    twin = (root / "train" / "a cat" / "2 é.jpg").read_bytes()
    (root / "val" / "犬" / "the same.jpg").write_bytes(twin)
    Image.open(root / "train" / "犬" / "3 é.jpg").resize((80, 60)).save(root / "val" / "犬" / "larger.jpg")
    bad(root / "val" / "a cat")
    done = command(*SETTINGS, "task=data", "hydra.run.dir=look")
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.count("cannot be used: ") == 6
    for line in (
        ["a", "cat", "4", "4"],
        ["犬", "4", "6"],
        ["pictures", "8", "10"],
        ["mask", "or", "box", "1", "0"],
        ["left", "out", "0", "6"],
        ["largest", "40x30", "80x60"],
    ):
        assert line in words
    assert "in both splits: 1 identical image, 1 that look alike" in done.stdout
    assert "identical, of different classes: " in done.stdout
    with (tmp_path / "look" / "duplicates.csv").open(newline="") as opened:
        same = [(Path(row["validation"]).name, row["identical"], row["same class"]) for row in csv.DictReader(opened)]
    assert same == [("the same.jpg", "yes", "no"), ("larger.jpg", "no", "yes")]
    with Image.open(tmp_path / "look" / "contact_sheet.png") as sheet:
        assert sheet.width > 700
    assert not (tmp_path / "look" / "result.json").exists()
    assert not (tmp_path / "cache").exists()
