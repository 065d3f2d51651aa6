"""A user's own images: the layout of the folder, masks, and errors that name the file and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from image_folders import box_mask, folder_error, training_region, write_folder
from PIL import Image

from camtrain.config.schema import FolderConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build
from camtrain.data.sources.folder import list_folder


def test_folder_with_masks(tmp_path: Path) -> None:
    config = write_folder(tmp_path, box_mask)
    train, val = build(config, seed=0, guided=True)
    assert list(train.classes) == ["cat", "dog"]
    assert len(train.targets) == len(val.targets) == int(train.has_region.sum()) == 6
    assert sorted(np.unique(training_region(config, 0))) == [0, 1, 255]
    assert (training_region(config, 0) == 1).sum() == 100
    batch = next(all_batches(val, Batching(6)))
    assert batch.images.shape == (6, 3, 24, 24)
    assert batch.images.max() <= 1
    assert set(batch.regions.unique().tolist()) == {0, 1, 255}


def test_a_split_elsewhere(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "a")
    write_folder(tmp_path / "b")
    config.val_split = str(tmp_path / "b" / "val")
    (tmp_path / "a" / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\n")
    assert all(path.is_relative_to(tmp_path / "b") for path in list_folder(config, config.val_split).paths)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "._image.png").write_text("left by a desktop")
    assert len(build(config, 0)[0].targets) == 6


def test_folder_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    def fresh(name: str, mask: Callable[[int, int], np.ndarray] | None = None) -> tuple[Path, FolderConfig]:
        return tmp_path / name, write_folder(tmp_path / name, mask)

    root, config = fresh("empty class")
    (root / "train" / "horse").mkdir()
    assert "horse: no images" in folder_error(config)

    root, config = fresh("no image")
    (root / "val" / "dog" / "broken.jpg").write_text("not an image")
    assert "broken.jpg: not an image" in folder_error(config)

    root, config = fresh("mask size", box_mask)
    Image.new("L", (9, 9)).save(root / "masks" / "train" / "cat" / "image 1 ä.png")
    assert "the mask is 9x9 pixels" in folder_error(config)

    root, config = fresh("binary masks", lambda w, h: (box_mask(w, h) > 0).astype(np.uint8) * 255)
    config.void = 255
    assert "dataset.void=null" in folder_error(config)

    root, config = fresh("unknown class")
    (root / "val" / "cow").mkdir()
    Image.new("RGB", (9, 9)).save(root / "val" / "cow" / "a.png")
    assert "cow: this class has no images in the training split" in folder_error(config)

    root, config = fresh("no split")
    (root / "val").rename(root / "validation")
    assert "neither val/ nor images/val/" in folder_error(config)

    root, config = fresh("columns")
    (root / "boxes.csv").write_text("file,x\n")
    assert "no column path, xmax" in folder_error(config)
    (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\ntrain/cat/image 0 ä.png,1,2,three,4\n")
    assert "boxes.csv line 2: a coordinate is not a number" in folder_error(config)
    for row, said in (
        ("0.1,0.2,0.5,0.9", "coordinates are pixels"),
        ("50,2,60,9", "40x30 pixels: the box lies outside its image"),
        ("9,2,5,9", "empty box"),
        ("nan,2,5,9", "empty box"),
        ("1,2,3", "a coordinate is missing"),
    ):
        (root / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\ntrain/cat/image 0 ä.png,{row}\n")
        assert said in folder_error(config)
    (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nvall/cat/typo.png,1,2,3,4\n")
    assert "line 2: vall/cat/typo.png, while there is train/cat/image 0 ä.png: there is no such image" in folder_error(
        config
    )
    (root / "boxes.csv").write_bytes("path,xmin,ymin,xmax,ymax\nä,1,2,3,4\n".encode("latin-1"))
    assert "boxes.csv: not a text in UTF-8" in folder_error(config)
    config.annotations = "other.csv"
    assert "dataset.annotations=other.csv: there is no file" in folder_error(config)

    assert "at least two class folders" in folder_error(write_folder(tmp_path / "one class", classes=("cat",)))


def test_real_photographs_with_masks(photographs: Path) -> None:
    train, val = build(FolderConfig(root=str(photographs / "tiny_animals"), image_size=96, cache=None), 0, guided=True)
    assert (len(train.targets), len(val.targets)) == (48, 24)
    assert (int(train.has_region.sum()), int(val.has_region.sum())) == (48, 24)
    batch = next(all_batches(val, Batching(24)))
    share = (batch.regions == 1).float().mean((1, 2))
    assert 0.05 < float(share.mean()) < 0.7


def test_files_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for name in ("alone.png", "raw.cr2", "notes.md", ".hidden", "Thumbs.db"):
        (tmp_path / "train" / name).write_bytes(b"x")
    (note,) = list_folder(config, "train").notes
    assert note.startswith("3 files left out: 1 x .png (in no class folder), 1 x .md (no image), 1 x .cr2 (a raw photo")
