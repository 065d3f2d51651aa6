"""Generated settings and damaged files: one line, a documented exit code, and an end."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, TINY, made_once
from faults.conftest import ONE_THREAD, Ended, Runs
from image_folders import box_mask, write_folder
from safetensors.torch import save_file

from camtrain.config.arguments import owners
from camtrain.networks.small_resnet import SmallResNet
from camtrain.packed import read_packed, write_packed

ONE_STEP = (*TINY, *QUICK, ONE_THREAD, "trainer.max_steps=1", "dataset.cache=null")

VALUES = (
    *("-1", "0", "1", "3", "0.5", "-0.5", "100", "1e-9", "1e999", "nan", "-inf", "0x10", "1_0", "007"),
    *("null", "true", "auto", "none", "''", "[]", "[1,2]", "[-1,nan]", "[a,b]", "{a:1}", "{}", "[[1]]", "a,b", "1,2"),
    *(
        "x",
        "ü",
        "../..",
        "/dev/null",
        "~",
        "~nobody/x",
        "a b",
        "'",
        '"',
        "\\",
        "[",
        "{",
        "}",
        "=",
        "a=b",
        "a:b",
        "os:getcwd",
    ),
    *("${oc.env:HOME}", "${nothing}", "${", "$(id)", "%s", "*", "?", "\t", "x" * 5000, "1/2", "2/2", "5min", "-5min"),
)


def is_in_words(ended: Ended, what: object = "") -> None:
    """An end that is documented, with a line for the user where something was wrong."""
    assert ended.status in (0, 2, 3, 4), (what, ended.status, ended.out[-2000:])
    assert "Traceback" not in ended.out, (what, ended.out[-3000:])
    if ended.status:
        assert "camtrain: error: " in ended.out, (what, ended.out[-2000:])


def settings(seed: int, count: int) -> list[list[str]]:
    """Generated overrides of one to three keys."""
    drawn = random.Random(seed)
    keys = [key for key in owners() if key not in ("task", "dataset.train", "dataset.val", "dataset.mirror")]
    made = []
    for _ in range(count):
        chosen = drawn.sample(keys, drawn.choice((1, 1, 2, 3)))
        made.append([f"{drawn.choice(('', '', '', '+', '++'))}{key}={drawn.choice(VALUES)}" for key in chosen])
    return made


def check_settings(runs: Runs, folder: Path, seed: int, count: int) -> int:
    """How many of them were refused."""
    refused = 0
    for number, overrides in enumerate(settings(seed, count)):
        place = folder / str(number)
        place.mkdir()
        ended = runs(place, *ONE_STEP, *overrides, limit=120)
        is_in_words(ended, overrides)
        refused += ended.status == 2
        shutil.rmtree(place)
    return refused


def test_bad_settings_are_told_in_a_line(runs: Runs, tmp_path: Path) -> None:
    assert check_settings(runs, tmp_path, 1, 8) > 2


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_hundred_bad_settings(seed: int, runs: Runs, tmp_path: Path) -> None:
    assert check_settings(runs, tmp_path, seed, 100) > 30


def changed(data: bytes, drawn: random.Random) -> bytes:
    """A file with a change as disks, transfers and people make it."""
    at = drawn.randrange(len(data) + 1)
    kind = drawn.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(drawn.randrange(256) for _ in range(drawn.choice((1, 4, 64)))) + data[at:]
    if kind == 2:
        return data[:at] + bytes(drawn.randrange(256) for _ in range(8)) + data[at + 8 :]
    if kind == 3:
        return data[at:]
    if kind == 4:
        odd = drawn.choice((b'"', b"null", b"[", b"{}", b"-1", b"1e999", b"NaN", b"\0", b"\xff\xfe", b"${x}", b"../"))
        return data[:at] + odd + data[at + len(odd) :]
    flipped = bytearray(data)
    for _ in range(3):
        if flipped:
            flipped[drawn.randrange(len(flipped))] ^= 1 << drawn.randrange(8)
    return bytes(flipped)


@pytest.fixture(scope="session")
def material(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one that was killed, images with masks and boxes, weights."""

    def make(folder: Path) -> None:
        write_folder(folder / "data", box_mask)
        rows = [
            "image,x0,y0,x1,y1",
            *(f"{split}/cat/image {n} ä.png,2,2,20,20" for split in ("train", "val") for n in "012"),
        ]
        (folder / "data" / "boxes.csv").write_text("\n".join(rows))
        coco = {
            "images": [{"id": 1, "file_name": "val/dog/image 0 ä.png", "width": 40, "height": 36}],
            "categories": [{"id": 1, "name": "dog"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "id": 1}],
        }
        (folder / "data" / "coco.json").write_text(json.dumps(coco))
        state = SmallResNet(3).state_dict()
        torch.save(state, folder / "weights.pth")
        save_file(state, folder / "weights.safetensors")
        done = runs(folder, *TINY, *QUICK, ONE_THREAD, "evaluate.images=1", "hydra.run.dir=run")
        assert done.status == 0, done.out
        long = ("trainer.checkpoint_every=1", "hydra.run.dir=killed")
        runs(folder, *TINY, *QUICK, ONE_THREAD, *long, fault="SIGKILL", number=60)
        shutil.rmtree(folder / "killed" / "tb")

    return made_once(tmp_path_factory, "material", make)


DATA = ("task=data", "dataset=folder", "dataset.root=data", "dataset.image_size=24", "dataset.cache=null", ONE_THREAD)

FILES: dict[str, tuple[str, ...]] = {
    "run/result.json": ("task=evaluate", "run=run", *QUICK),
    "run/pictures.csv": ("task=report", "runs=run"),
    "run/baseline/weights.pt": ("task=explain", "run=run", "images=data/val/cat"),
    "killed/checkpoint.safetensors": ("task=resume", "run=killed"),
    "killed/result.json": ("task=resume", "run=killed"),
    "data/train/cat/image 0 ä.png": DATA,
    "data/masks/val/dog/image 0 ä.png": DATA,
    "data/boxes.csv": DATA,
    "data/coco.json": (*DATA, "dataset.annotations=coco.json"),
    "weights.pth": (*ONE_STEP, "model.weights=weights.pth"),
    "weights.safetensors": (*ONE_STEP, "model.weights=weights.safetensors"),
}


def check_file(runs: Runs, material: Path, folder: Path, name: str, drawn: random.Random) -> None:
    """A changed file where the command reads it."""
    shutil.copytree(material, folder)
    path = folder / name
    path.write_bytes(changed(path.read_bytes(), drawn))
    outside = {entry.name for entry in folder.parent.iterdir()}
    is_in_words(runs(folder, *FILES[name], limit=120))
    assert {entry.name for entry in folder.parent.iterdir()} == outside
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_told_in_a_line(name: str, runs: Runs, material: Path, tmp_path: Path) -> None:
    check_file(runs, material, tmp_path / "copy", name, random.Random(name))


@pytest.mark.faults
@pytest.mark.parametrize("name", FILES)
def test_fifty_damaged_files(name: str, runs: Runs, material: Path, tmp_path: Path) -> None:
    drawn = random.Random(f"fifty {name}")
    for _ in range(50):
        check_file(runs, material, tmp_path / "copy", name, drawn)


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 10**6, 10**30, 0.5, -1.5, math.nan, math.inf, 1e308),
    *("", "x", "../x", [], {}, [[1]], {"a": 1}),
)


def other_tensor(found: torch.Tensor, drawn: random.Random) -> torch.Tensor:
    """Of another shape, type or value."""
    size = drawn.choice(((), (1,), (3,), (2, 2), (*found.shape, 1), (*found.shape[:-1], 0)))
    kind = drawn.choice((torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64))
    filled = torch.full_like(found, drawn.choice((math.nan, 1e38)), dtype=torch.float32)
    return drawn.choice((torch.zeros(size), found.to(kind), found.flatten(), filled))


def make_up(tree: Any, drawn: random.Random) -> str:
    """Change one value anywhere in nested dictionaries and lists; says which."""
    way = []
    while True:
        way.append(drawn.choice([*tree] if isinstance(tree, dict) else range(len(tree))))
        found = tree[way[-1]]
        if not isinstance(found, dict | list) or not found or drawn.random() < 0.1:
            break
        tree = found
    match drawn.randrange(6):
        case 0:
            del tree[way[-1]]
        case 1 if isinstance(tree, list):
            tree.append(copy.deepcopy(found))
        case 1:
            tree["new"] = copy.deepcopy(found)
        case _ if isinstance(found, torch.Tensor):
            tree[way[-1]] = other_tensor(found, drawn)
        case _:
            tree[way[-1]] = copy.deepcopy(drawn.choice((*ODD, torch.zeros(2))))
    return f"{way}: {tree.get(way[-1]) if isinstance(tree, dict) else len(tree)}"


def check_made_up(runs: Runs, material: Path, folder: Path, count: int, drawn: random.Random) -> int:
    """Checkpoints whose checksum is right, with a value that is not; how many were refused."""
    refused = 0
    for _ in range(count):
        run = Path(shutil.copytree(material / "killed", folder / "run"))
        tree = read_packed(run / "checkpoint.safetensors")
        what = make_up(tree, drawn)
        write_packed(run / "checkpoint.safetensors", tree)
        ended = runs(folder, "task=resume", "run=run", limit=120)
        is_in_words(ended, what)
        refused += ended.status == 2
        shutil.rmtree(run)
    return refused


def test_checkpoints_that_were_made_up_are_told_in_a_line(runs: Runs, material: Path, tmp_path: Path) -> None:
    assert check_made_up(runs, material, tmp_path, 6, random.Random(3)) > 1


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_checkpoints_that_were_made_up(seed: int, runs: Runs, material: Path, tmp_path: Path) -> None:
    assert check_made_up(runs, material, tmp_path, 100, random.Random(seed)) > 30
