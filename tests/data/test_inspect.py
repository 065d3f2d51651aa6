"""What the data task says of a data set."""

from __future__ import annotations

import csv
from pathlib import Path

from conftest import Command
from image_folders import BAD, spoil, write_noise
from PIL import Image


def test_data_task_says_what_is_there(run_command: Command, tmp_path: Path) -> None:
    root = tmp_path / "my images ü"
    write_noise(root, ("a cat", "犬"))
    (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\ntrain/a cat/1 ä.jpg,5,5,20,20\n")
    twin = (root / "train" / "a cat" / "2 ä.jpg").read_bytes()
    (root / "val" / "犬" / "the same.jpg").write_bytes(twin)
    Image.open(root / "train" / "犬" / "3 ä.jpg").resize((80, 60)).save(root / "val" / "犬" / "larger.jpg")
    for how in BAD:
        path = root / "val" / "a cat" / f"{how}.jpg"
        path.write_bytes(twin)
        spoil(path, how)
    settings = ("dataset=folder", 'dataset.root="my images ü"', "dataset.image_size=32", "dataset.cache=cache")
    done = run_command(*settings, "task=data", "hydra.run.dir=look")
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.count("cannot be used: ") == len(BAD)
    for line in (
        ["a", "cat", "4", "4"],
        ["犬", "4", "6"],
        ["images", "8", "10"],
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
