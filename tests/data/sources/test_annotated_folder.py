"""Annotations of a user's own images: which are used, and what is said of the others."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from image_folders import box_mask, folder_error, training_region, write_folder
from PIL import Image

from camtrain.config.schema import FolderConfig
from camtrain.data.annotations import yolo
from camtrain.data.build import build
from camtrain.data.sources.folder import list_folder, splits, validation


def test_folder_with_boxes(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    with (tmp_path / "boxes.csv").open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["path", "class", "xmin", "ymin", "xmax", "ymax"])
        rows.writerow(["train/cat/image 0 ä.png", "cat", 2, 3, 12, 8])
        rows.writerow(["train/cat/image 0 ä.png", "cat", 20, 3, 22, 5])
    train, val = build(config, 0, guided=True)
    assert (int(train.has_region.sum()), int(val.has_region.sum())) == (1, 0)
    assert training_region(config, 0).sum() == 10 * 5 + 2 * 2
    assert training_region(config, 0)[3:8, 2:12].all()


def test_boxes_of_other_classes_are_not_the_object(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    rows = [
        "path,class,xmin,ymin,xmax,ymax",
        "train/cat/image 0 ä.png,cat,2,3,12,8",
        "train/cat/image 0 ä.png,dog,20,3,22,5",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    assert training_region(config, 0).sum() == 10 * 5
    (tmp_path / "boxes.csv").write_text("\n".join([rows[0], rows[2]]))
    assert "image 0 ä.png: of another class than the image's folder; the classes are named after" in folder_error(
        config
    )


@pytest.mark.parametrize("before", ["", "./", "ROOT/"])
def test_paths_of_boxes(tmp_path: Path, before: str) -> None:
    config = write_folder(tmp_path)
    path = before.replace("ROOT", str(tmp_path)) + "train/cat/image 1 ä.png"
    (tmp_path / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\n{path},1,2,5,6\n")
    regions = list_folder(config, "train").regions
    assert sum(region is not None for region in regions) == 1


def test_boxes_in_coco_layout(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    config.annotations = "coco.json"
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
    assert training_region(config, 0).sum() == 10 * 5
    train, val = build(config, 0, guided=True)
    assert (int(train.has_region.sum()), int(val.has_region.sum())) == (1, 1)
    for broken, message in (
        ("{", "not a JSON file"),
        ("[]", "not in the COCO layout"),
        (json.dumps({"images": []}), "not in the COCO layout"),
        (json.dumps({**content, "images": []}), "annotation 1: there is no image 7"),
    ):
        (tmp_path / "coco.json").write_text(broken)
        assert message in folder_error(config)
    for annotation, message in (
        ({"bbox": [1, 2, 3]}, "annotation 5: a coordinate is missing"),
        ({"bbox": [1, 2, 3, "x"]}, "annotation 5: a coordinate is not a number"),
        ({"bbox": [50, 2, 3, 3]}, "5, 40x30 pixels: the box lies outside its image"),
        ({"bbox": [1, 2, 3, 0]}, "an empty box"),
        ({"bbox": [1, 2, 3, 3], "segmentation": [[1, 2, 3]]}, "annotation 5: it holds something that is no polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "its polygon has no area"),
        ({"segmentation": [[1, 2, 3, 4, 9, 10, 5, 6]]}, "its polygon has no area"),
        ({"segmentation": {"size": [30, 40], "counts": "x"}}, "its run lengths cannot be read"),
        ({"segmentation": []}, "neither box nor polygon"),
        ({"bbox": [1, 2, 3, 3], "category_id": 9}, "there is no category 9"),
    ):
        alone = {**content, "annotations": [{"id": 5, "image_id": 7, **annotation}]}
        (tmp_path / "coco.json").write_text(json.dumps(alone))
        assert message in folder_error(config)


@pytest.mark.parametrize(
    ("segmentation", "cells"),
    [
        ([[2, 3, 12, 3, 12, 8, 2, 8]], 10 * 5),
        ([[2, 3, 12, 3, 12, 5, 4, 5, 4, 8, 2, 8]], 10 * 2 + 2 * 3),  # an L
        ([[2, 3, 5, 3, 5, 8, 2, 8], [10, 3, 12, 3, 12, 8, 10, 8]], 3 * 5 + 2 * 5),  # behind something
        ([[2.6, 3, 12, 3, 12, 8, 2.6, 8]], 9 * 5),  # the centres of the first column lie outside
        ({"size": [30, 40], "counts": "x"}, 10 * 5),  # run lengths: the box
        ([], 10 * 5),
        ([[2, 3, 12, 8]], 10 * 5),  # two corners: the box
        ([[2, 3, 12, 8], [2, 3, 5, 3, 5, 8, 2, 8]], 3 * 5),
        ([2, 3, 5, 3, 5, 8, 2, 8], 3 * 5),
    ],
)
def test_polygons_in_coco_layout(tmp_path: Path, segmentation: object, cells: int) -> None:
    config = write_folder(tmp_path)
    config.annotations = "coco.json"
    content = {
        "images": [{"id": 7, "file_name": "train/cat/image 0 ä.png"}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [2, 3, 10, 5], "segmentation": segmentation}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    found = training_region(config, 0)
    assert found.sum() == cells
    assert not found[:3].any()
    assert not found[8:].any()


def said(config: FolderConfig) -> list[str]:
    """What is said of the annotations of a data set."""
    train, val = splits(config)
    return [note.replace(f"{config.root}/", "") for note in dict.fromkeys([*train.notes, *val.notes])]


def write_coco(file: Path, annotations: list[dict[str, object]], **image: object) -> None:
    content = {
        "images": [{"id": 7, "file_name": "train/cat/image 0 ä.png", **image}],
        "annotations": [{"id": place, "image_id": 7, **entry} for place, entry in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    file.write_text(json.dumps(content))


def test_what_is_not_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    annotations: list[dict[str, object]] = [
        {"bbox": [2, 3, 10, 5], "category_id": 1},
        {"bbox": [2, 3, 0, 5], "category_id": 1},
        {"bbox": [], "segmentation": [], "category_id": 1},
        {"bbox": [2, 3, 10, 0], "category_id": 1},
        {"bbox": [40, 3, 10, 5], "category_id": 1},
        {"bbox": [2, 3, 10, 5], "category_id": 2},
        {"bbox": [2, 3, 10, 5], "category_id": 1, "image_id": 8},
        {"bbox": [0, 0, 40, 30], "category_id": 1, "iscrowd": 1},
    ]
    write_coco(tmp_path / "coco.json", annotations, width=80, height=60)
    (tmp_path / "train" / "dog" / "image 0 ä.xml").write_text("<annotation/>")
    (tmp_path / "metadata.csv").write_text("name,age\n")
    lines = said(config)
    assert lines[:8] == [
        "coco.json (COCO): 8 annotations, 1 used, on 1 of 12 images",
        "2 annotations left out: an empty box; each maximum must exceed its minimum; the first:"
        " coco.json annotation 2, 40x30 pixels",
        "1 annotation left out: it has neither box nor polygon; the first: coco.json annotation 3",
        "1 annotation left out: the box lies outside its image; the first: coco.json annotation 5, 40x30 pixels",
        "1 annotation left out: of another class than the image's folder; the first: coco.json annotation 6: dog in"
        " train/cat/image 0 ä.png",
        "1 annotation left out: there is no image 8; the first: coco.json annotation 7",
        "1 annotation left out: a crowd, beside single objects of the image; the first: coco.json annotation 8",
        "2 annotations: drawn on an image of another size, and may lie elsewhere here; the first: coco.json"
        " annotation 1: 80x60, train/cat/image 0 ä.png has 40x30 pixels",
    ]
    assert lines[8].startswith("not read as annotations: 1 .xml file; metadata.csv: no column path, xmax")
    assert len(lines) == 9


def test_a_crowd_is_the_object_where_there_is_nothing_else(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    write_coco(tmp_path / "coco.json", [{"bbox": [0, 0, 4, 4], "iscrowd": 1}, {"bbox": [9, 9, 4, 4], "iscrowd": 1}])
    assert training_region(config, 0).sum() == 2 * 16
    assert said(config)[0].endswith("2 annotations, all used, on 1 of 12 images")
    assert "2 annotations: a crowd, which is taken as the object" in said(config)[1]


def test_a_mask_counts_instead(tmp_path: Path) -> None:
    config = write_folder(tmp_path, box_mask)
    write_coco(tmp_path / "coco.json", [{"bbox": [0, 0, 4, 4]}])
    assert "1 annotation left out: the image has a mask, which counts instead" in said(config)[-1]
    assert (training_region(config, 0) == 1).sum() == 100


def test_annotations_that_nobody_asked_for_stop_nothing(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    write_coco(tmp_path / "coco.json", [{"bbox": [0, 0, 4, 4], "category_id": 2}])
    assert said(config) == [
        "coco.json (COCO): 1 annotation, 0 used, on 0 of 12 images",
        "1 annotation left out: of another class than the image's folder; the first: coco.json annotation 1: dog in"
        " train/cat/image 0 ä.png",
    ]
    config.annotations = "coco.json"
    assert "of another class" in folder_error(config)
    for none in (None, "boxes.csv"):  # as runs of former versions have it, whether it is there or not
        config.annotations = none
        assert said(config) == ["not read as annotations: 1 .json file"]


def test_folders_and_lists_of_annotations(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for split in ("train", "val"):
        labels = tmp_path / "exported" / split / "image 1 ä.txt"
        labels.parent.mkdir(parents=True)
        labels.write_text("0 0.5 0.5 0.5 0.5\n")
    config.annotations = "exported"
    assert "several images have this name; its folders must be written as well; none of 2 annotations" in folder_error(
        config
    )
    for split in ("train", "val"):
        (tmp_path / "exported" / split / "dog").mkdir()
        for file in (tmp_path / "exported" / split).glob("*.txt"):
            file.rename(file.parent / "dog" / file.name)
    assert "(YOLO): 2 annotations, all used, on 2 of 12 images" in said(config)[0]
    assert training_region(config, 4).sum() == 22 * 18
    config.annotations = ["exported/train/dog/image 1 ä.txt", "exported/val"]
    assert "(YOLO): 2 annotations, all used, on 2 of 12 images" in said(config)[0]
    for wrong, message in (("exports", "there is no file"), ("train", "no file in")):
        config.annotations = wrong
        assert message in folder_error(config)


def test_a_folder_of_annotations_is_no_class(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for split in ("train", "val"):
        file = tmp_path / split / "Annotations" / "cat" / "image 1 ä.xml"
        file.parent.mkdir(parents=True)
        box = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>26</ymax></bndbox>"
        file.write_text(f"<annotation><object><name>Cat</name>{box}</object></annotation>")
    lines = said(config)
    assert "(Pascal VOC): 2 annotations, all used, on 2 of 12 images" in lines[0]
    assert "2 annotations: the class is written in other capitals" in lines[1]


def test_boxes_are_of_the_image_as_displayed(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    for path in (tmp_path / "train" / "cat").iterdir():
        path.unlink()
    image.save(tmp_path / "train" / "cat" / "turned.jpg", exif=exif)
    (tmp_path / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nturned.jpg,2,25,12,38\n")
    region = training_region(config, 0)
    assert region.shape == (40, 20)
    assert region[25:38, 2:12].all()
    assert region.sum() == 10 * 13


def test_a_validation_split_alone_gets_the_same_regions(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    names = ("image 1 ä.png", "val/dog/image 1 ä.png", "train/cat/image 0 ä.png")
    rows = "".join(f"{name},1,2,5,6\n" for name in names)
    (tmp_path / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\n{rows}")
    both, alone = splits(config)[1].regions, validation(config).regions
    assert both == alone
    assert [number for number, region in enumerate(alone) if region] == [4]


def test_one_folder_for_both_splits(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    config.val_split = "train"
    (tmp_path / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax,class\nimage 1 ä.png,1,2,5,6,dog\n")
    for listing in splits(config):
        assert [number for number, region in enumerate(listing.regions) if region] == [4]


def test_class_folders_that_are_links(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "a")
    (tmp_path / "a" / "train" / "cat").rename(tmp_path / "cats")
    (tmp_path / "a" / "train" / "cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "image 1 ä.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "cats" / "again").symlink_to(tmp_path / "cats")
    assert [number for number, region in enumerate(list_folder(config, "train").regions) if region] == [1]


def test_without_annotations_no_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "image 0 ä.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    read: list[Path] = []
    lines_of = yolo.lines_of

    def counted(file: Path) -> list[tuple[int, list[str]]]:
        read.append(file)
        return lines_of(file)

    monkeypatch.setattr(yolo, "lines_of", counted)
    config.annotations = None
    assert list_folder(config, "train").notes == ["not read as annotations: 1 .txt file"]
    assert not read
    config.annotations = "auto"
    assert sum(region is not None for region in list_folder(config, "train").regions) == 1
    assert len(read) == 1
