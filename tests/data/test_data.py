"""Data sets: exact masks, regions that travel with their images, order and augmentation, folders and their errors."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from camtrain.config.schema import FakeConfig, FolderConfig, ShapesConfig
from camtrain.data.augment import Augmentation
from camtrain.data.batches import Batch, all_batches, epoch_plans, steps_per_epoch, training_batches
from camtrain.data.build import build
from camtrain.data.decode import region_of, size_of
from camtrain.data.images import ImageSet, StoredImages
from camtrain.data.prefetch import prefetched
from camtrain.data.sources import shapes
from camtrain.data.sources.folder import list_folder
from camtrain.errors import UserError
from camtrain.streams import Stream, stream, torch_seed


def test_shapes_are_a_function_of_seed_and_split() -> None:
    one, again = shapes.generate(16, 32, 3, 0), shapes.generate(16, 32, 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (shapes.generate(16, 32, 4, 0), shapes.generate(16, 32, 3, 1)):
        assert not torch.equal(one[0], other[0])


def test_shapes_are_small_whole_and_of_every_class() -> None:
    images, target, masks = shapes.generate(160, 64, 0, 0)
    assert images.shape == (160, 3, 64, 64)
    assert torch.bincount(target).tolist() == [20] * len(shapes.CLASSES)
    share = masks.float().mean((1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.15
    edge = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], 1)
    assert edge.float().mean() < 0.01, "objects are cut off at the edge"


def test_shapes_mask_is_where_the_object_was_painted() -> None:
    # The disc's mask has the area and the roundness of a disc.
    _, target, masks = shapes.generate(8, 256, 0, 0)
    disc = masks[target == 0][0]
    rows, columns = disc.nonzero(as_tuple=True)
    height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert abs(height - width) <= 1
    assert int(disc.sum()) == pytest.approx(np.pi * (height / 2) ** 2, rel=0.03)


CPU = torch.device("cpu")


def batches(
    images: ImageSet, size: int, augmentation: Augmentation, pixels: int, epochs: int = 1, threads: int = 1
) -> list[Batch]:
    return list(training_batches(images, size, epochs, 7, augmentation, pixels, CPU, torch.contiguous_format, threads))


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


def test_streams_are_independent() -> None:
    draws = {stream(0, purpose, epoch, step).random() for purpose in Stream for epoch in range(3) for step in range(3)}
    assert len(draws) == len(Stream) * 9
    assert torch_seed(0, Stream.dropout, 1, 2) == torch_seed(0, Stream.dropout, 1, 2)


def write_folder(
    root: Path, mask: Callable[[int, int], np.ndarray] | None = None, classes: tuple[str, ...] = ("cat", "dog")
) -> FolderConfig:
    """A miniature folder data set with images of different sizes."""
    for split in ("train", "val"):
        for kind, name in enumerate(classes):
            for number in range(3):
                width, height = 40 + 4 * number, 30 + 6 * kind
                path = root / split / name / f"picture {number} ä.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                colour = (40, 60 * number, 100 * kind)
                Image.new("RGB", (width, height), colour).save(path)
                if mask is not None:
                    target = root / "masks" / split / name / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask(width, height)).save(target)
    return FolderConfig(root=str(root), image_size=24, crop_scale=[0.5, 1.0], cache=str(root / "cache"))


def region(config: FolderConfig, number: int) -> np.ndarray:
    listing = list_folder(config, "train")
    return region_of(listing, number, size_of(listing, number))


def box_mask(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[5:15, 10:20] = 3
    mask[15:17, 10:20] = 255
    return mask


def test_folder_with_masks(tmp_path: Path) -> None:
    config = write_folder(tmp_path, box_mask)
    train, val = build(config, seed=0, guided=True)
    assert list(train.classes) == ["cat", "dog"]
    assert len(train.targets) == len(val.targets) == train.with_region == 6
    assert sorted(np.unique(region(config, 0))) == [0, 1, 255]
    assert (region(config, 0) == 1).sum() == 100
    batch = next(all_batches(val, 6, CPU))
    assert batch.images.shape == (6, 3, 24, 24)
    assert batch.images.max() <= 1
    assert set(batch.regions.unique().tolist()) == {0, 1, 255}


def test_folder_with_boxes(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    with (tmp_path / "boxes.csv").open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["path", "class", "xmin", "ymin", "xmax", "ymax"])
        rows.writerow(["train/cat/image 0 ä.png", "cat", 2, 3, 12, 8])
        rows.writerow(["train/cat/image 0 ä.png", "cat", 20, 3, 22, 5])
    train, val = build(config, 0, guided=True)
    assert (train.with_region, val.with_region) == (1, 0)
    assert region(config, 0).sum() == 10 * 5 + 2 * 2
    assert region(config, 0)[3:8, 2:12].all()


def test_boxes_of_other_classes_are_not_the_object(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    rows = [
        "path,class,xmin,ymin,xmax,ymax",
        "train/cat/image 0 ä.png,cat,2,3,12,8",
        "train/cat/image 0 ä.png,dog,20,3,22,5",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    assert region(config, 0).sum() == 10 * 5
    (tmp_path / "boxes.csv").write_text("\n".join([rows[0], rows[2]]))
    assert "boxes.csv line 2: dog: no box of" in folder_error(config)


def test_boxes_in_coco_layout(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    config.boxes = "coco.json"
    content = {
        "images": [
            {"id": 7, "file_name": "train/cat/image 0 ä.png"},
            {"id": 8, "file_name": "val/dog/image 1 ä.png"},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [2, 3, 10, 5]},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [20, 3, 2, 2]},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 4, "image_id": 8, "category_id": 2, "bbox": [0, 0, 4, 4]},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert region(config, 0).sum() == 10 * 5
    train, val = build(config, 0, guided=True)
    assert (train.with_region, val.with_region) == (1, 1)
    for broken, said in (
        ("{", "not a JSON file"),
        ("[]", "not in the COCO layout"),
        (json.dumps({"images": []}), "not in the COCO layout"),
        (json.dumps({**content, "images": content["images"][:1]}), "annotation 4: there is no image 8"),
        (
            json.dumps({**content, "annotations": [{"id": 5, "image_id": 7, "bbox": [1, 2, 3]}]}),
            "not in the COCO layout",
        ),
        (json.dumps({**content, "annotations": [{"id": 5, "image_id": 7, "bbox": [1, 2, 3, "x"]}]}), "COCO layout"),
        (
            json.dumps({**content, "annotations": [{"id": 5, "image_id": 7, "bbox": [50, 2, 3, 3]}]}),
            "5: the box lies outside",
        ),
        (
            json.dumps(
                {
                    **content,
                    "annotations": [{"id": 5, "image_id": 7, "bbox": [1, 2, 3, 3], "segmentation": [[1, 2, 3]]}],
                }
            ),
            "annotation 5: segmentation holds something that is no polygon",
        ),
    ):
        (tmp_path / "coco.json").write_text(broken)
        assert said in folder_error(config)


@pytest.mark.parametrize(
    ("segmentation", "cells"),
    [
        ([[2, 3, 12, 3, 12, 8, 2, 8]], 10 * 5),
        ([[2, 3, 12, 3, 12, 5, 4, 5, 4, 8, 2, 8]], 10 * 2 + 2 * 3),  # an L
        ([[2, 3, 5, 3, 5, 8, 2, 8], [10, 3, 12, 3, 12, 8, 10, 8]], 3 * 5 + 2 * 5),  # behind something
        ([[2.6, 3, 12, 3, 12, 8, 2.6, 8]], 9 * 5),  # the centres of the first column lie outside
        ({"size": [30, 40], "counts": "x"}, 10 * 5),  # run lengths: the box
        ([], 10 * 5),
    ],
)
def test_polygons_in_coco_layout(tmp_path: Path, segmentation: object, cells: int) -> None:
    config = write_folder(tmp_path)
    config.boxes = "coco.json"
    content = {
        "images": [{"id": 7, "file_name": "train/cat/image 0 ä.png"}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [2, 3, 10, 5], "segmentation": segmentation}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    found = region(config, 0)
    assert found.sum() == cells
    assert not found[:3].any()
    assert not found[8:].any()


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
            assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(made[0][0].images, made[0][3].images)


def test_threads_that_make_batches_leave_the_number_of_torchs_alone() -> None:
    train, _ = build(ShapesConfig(train=16, val=8, image_size=32), seed=0)
    before = torch.get_num_threads()
    inside = list(prefetched(lambda _: torch.get_num_threads(), range(4), 2, 3))
    batches(train, 4, Augmentation(), 32, threads=2)
    assert [number for _, number in inside] == [1] * 4
    assert torch.get_num_threads() == before


def test_few_batches_wait_however_many_threads_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = build(ShapesConfig(train=64, val=8, image_size=32), seed=0)
    taken: list[int] = []
    square = type(train).square

    def counted(self: StoredImages, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        taken.append(number)
        return square(self, number)

    monkeypatch.setattr(type(train), "square", counted)
    monkeypatch.setattr("camtrain.data.batches.WAITING", 3 * 4 * 3 * 32**2 * 4)
    made = training_batches(train, 4, 1, 7, Augmentation(), 32, CPU, torch.contiguous_format, threads=8)
    next(made)
    time.sleep(0.2)
    assert len(taken) == 4 * 4  # three that wait, and the one that was taken
    made.close()


def test_another_device_gets_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = build(ShapesConfig(train=16, val=8, image_size=32), seed=0)
    varied = Augmentation((0.4, 1.0), flip=True, brightness=0.3, hue=0.1, erase=0.5)
    here = batches(train, 4, varied, 24)

    class Elsewhere:  # as torch.device("cuda") would be asked
        type = "elsewhere"

    monkeypatch.setattr("camtrain.data.batches._to", lambda _, *parts: parts)
    there = list(training_batches(train, 4, 1, 7, varied, 24, cast(torch.device, Elsewhere())))
    for one, other in zip(here, there, strict=True):
        assert (one.images - other.images).abs().max() < 0.02  # bytes round in between
        assert torch.equal(one.regions, other.regions)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("before", ["", "./", "ROOT/"])
def test_paths_of_boxes(tmp_path: Path, before: str) -> None:
    config = write_folder(tmp_path)
    path = before.replace("ROOT", str(tmp_path)) + "train/cat/image 1 ä.png"
    (tmp_path / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\n{path},1,2,5,6\n")
    regions = list_folder(config, "train").regions
    assert sum(region is not None for region in regions) == 1


def test_a_split_elsewhere(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "a")
    write_folder(tmp_path / "b")
    config.val_split = str(tmp_path / "b" / "val")
    (tmp_path / "a" / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\n")
    assert all(path.is_relative_to(tmp_path / "b") for path in list_folder(config, config.val_split).paths)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "xmp.png", "malformed.jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_is_honoured(tmp_path: Path, suffix: str, orientation: int) -> None:
    config = write_folder(tmp_path)
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    path = tmp_path / "train" / "cat" / f"a turned.{suffix}"
    if suffix == "xmp.png":
        words = PngImagePlugin.PngInfo()
        tag = f'<d tiff:Orientation="{orientation}"/>'
        words.add_itxt("XML:com.adobe.xmp", f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{tag}</x:xmpmeta>')
        image.save(path, pnginfo=words)
    else:
        exif = image.getexif()
        exif[0x0112] = orientation
        content = exif.tobytes()
        if suffix == "malformed.jpg":  # a text instead of a number
            assert b"\x01\x12\x00\x03" in content
            content = content.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")
        image.save(path, exif=content)
    listing = list_folder(config, "train")
    at = [path.name for path in listing.paths].index(path.name)
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened).size
    assert size_of(listing, at) == upright
    if orientation >= 5 and suffix != "malformed.jpg":
        assert upright == (20, 40)
    assert build(config, 0)[0].sizes[at].tolist() == list(upright)


def test_boxes_cover_every_pixel_that_they_touch_and_end_at_the_image(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    rows = "train/cat/image 0 ä.png,1.5,2,1.9,3.2\ntrain/cat/image 0 ä.png,38,-5,99,2\n"
    (tmp_path / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\n{rows}")
    assert sorted(zip(*(part.tolist() for part in region(config, 0).nonzero()), strict=True)) == [
        (0, 38),
        (0, 39),
        (1, 38),
        (1, 39),
        (2, 1),
        (3, 1),
    ]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "train" / "cat" / "a.png")
    train, _ = build(config, 0)
    images, _ = train.gather([0])
    assert 100 < images.float().mean() < 155
    assert len(images.unique()) > 50


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "._image.png").write_text("left by a desktop")
    assert len(build(config, 0)[0].targets) == 6


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_other_modes(tmp_path: Path, mode: str) -> None:
    config = write_folder(tmp_path)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (40, 30)).save(tmp_path / "train" / "cat" / f"a.{suffix}")
    train, _ = build(config, 0)
    images, _ = train.gather([0])
    assert images.shape == (1, 3, 30, 30)  # room for crops


def folder_error(config: FolderConfig) -> str:
    with pytest.raises(UserError) as caught:
        build(config, 0, guided=True)
    message = str(caught.value)
    assert "\n" not in message
    return message


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
    assert "dataset.void=null" in folder_error(config)
    config.void = None
    assert build(config, 0, guided=True)[0].with_region == 6

    root, config = fresh("colour mask", lambda w, h: np.zeros((h, w, 3), np.uint8))
    assert "one channel" in folder_error(config)

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
        ("50,2,60,9", "outside its image of 40x30"),
        ("9,2,5,9", "empty box"),
        ("nan,2,5,9", "empty box"),
        ("1,2,3", "not a number"),
    ):
        (root / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\ntrain/cat/image 0 ä.png,{row}\n")
        assert said in folder_error(config)
    (root / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nvall/cat/typo.png,1,2,3,4\n")
    assert "line 2: there is no image vall/cat/typo.png" in folder_error(config)
    (root / "boxes.csv").write_bytes("path,xmin,ymin,xmax,ymax\nä,1,2,3,4\n".encode("latin-1"))
    assert "not a CSV file in UTF-8" in folder_error(config)
    config.boxes = "other.csv"
    assert "dataset.boxes=other.csv" in folder_error(config)

    assert "at least two class folders" in folder_error(write_folder(tmp_path / "one class", classes=("cat",)))


def test_fake() -> None:
    train, val = build(FakeConfig(classes=4, train=8, val=4, image_size=16), seed=0)
    assert len(train.classes) == 4
    assert train.gather([0, 1])[1].amax((1, 2)).tolist() == [1, 1]
    assert len(val.targets) == 4


def test_real_photographs_with_masks(photographs: Path) -> None:
    train, val = build(FolderConfig(root=str(photographs / "tiny_animals"), image_size=96, cache=None), 0, guided=True)
    assert (len(train.targets), len(val.targets)) == (48, 24)
    assert (train.with_region, val.with_region) == (48, 24)
    batch = next(all_batches(val, 24, CPU))
    share = (batch.regions == 1).float().mean((1, 2))
    assert 0.05 < float(share.mean()) < 0.7
