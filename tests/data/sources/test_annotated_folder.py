"""Boxes of a user's own images, in CSV and in the COCO layout."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from image_folders import folder_error, training_region, write_folder

from camtrain.data.build import build
from camtrain.data.sources.folder import list_folder


def test_folder_with_boxes(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    with (tmp_path / "boxes.csv").open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["path", "class", "xmin", "ymin", "xmax", "ymax"])
        rows.writerow(["train/cat/image 0 ä.png", "cat", 2, 3, 12, 8])
        rows.writerow(["train/cat/image 0 ä.png", "cat", 20, 3, 22, 5])
    train, val = build(config, 0, guided=True)
    assert (train.with_region, val.with_region) == (1, 0)
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
    assert (train.with_region, val.with_region) == (1, 1)
    for broken, said in (
        ("{", "not a JSON file"),
        ("[]", "not in the COCO layout"),
        (json.dumps({"images": []}), "not in the COCO layout"),
        (json.dumps({**content, "images": []}), "annotation 1: there is no image 7"),
    ):
        (tmp_path / "coco.json").write_text(broken)
        assert said in folder_error(config)
    for annotation, said in (
        ({"bbox": [1, 2, 3]}, "annotation 5: a coordinate is missing"),
        ({"bbox": [1, 2, 3, "x"]}, "annotation 5: a coordinate is not a number"),
        ({"bbox": [50, 2, 3, 3]}, "5, 40x30 pixels: the box lies outside its image"),
        ({"bbox": [1, 2, 3, 0]}, "an empty box"),
        ({"bbox": [1, 2, 3, 3], "segmentation": [[1, 2, 3]]}, "annotation 5: it holds something that is no polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "its polygon has fewer than three corners"),
        ({"segmentation": {"size": [30, 40], "counts": "x"}}, "its run lengths cannot be read"),
        ({"segmentation": []}, "neither box nor polygon"),
        ({"bbox": [1, 2, 3, 3], "category_id": 9}, "there is no category 9"),
    ):
        alone = {**content, "annotations": [{"id": 5, "image_id": 7, **annotation}]}
        (tmp_path / "coco.json").write_text(json.dumps(alone))
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
