"""Names as tools write them, and the images that they mean."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from camtrain.data.annotations.match import NO_IMAGE, SEVERAL, Known, Names

ROOT = Path("/home/bob/cat/data")

PATHS = (
    *("train/cat/a.png", "train/dog/b.png", "train/dog/a.png", "val/cat/a.png", "val/cat/c.jpg", "val/dog/d.e.png"),
    *("val/dog/deep/f.png", "train/dog/" + unicodedata.normalize("NFD", "é.png")),
)


@pytest.fixture(scope="module")
def names() -> Names:
    images = [Path(path) for path in PATHS]
    return Names([Known(ROOT / p, p.parts[1], p.parts[0], p.parts) for p in images], ROOT)


@pytest.mark.parametrize(
    ("written", "file", "label", "found"),
    [
        ("train/cat/a.png", "boxes.csv", None, "train/cat/a.png"),
        ("images/train/cat/a.png", "boxes.csv", None, "train/cat/a.png"),
        ("./train/cat/a.png", "boxes.csv", None, "train/cat/a.png"),
        ("../data/train/cat/a.png", "boxes.csv", None, "train/cat/a.png"),
        (" train\\cat\\a.png ", "boxes.csv", None, "train/cat/a.png"),
        ("C:\\bob\\train\\cat\\a.png", "boxes.csv", None, "train/cat/a.png"),
        ("/mnt/val/x/train/cat/a.png", "boxes.csv", None, "train/cat/a.png"),
        ("file:///mnt/train/cat/a.png", "boxes.csv", None, "train/cat/a.png"),
        # in the data set: the folders above it, of which one is called as a class, tell nothing
        (f"{ROOT}/labels/b", "boxes.csv", None, "train/dog/b.png"),
        (f"{ROOT}/labels/val/d.e", "boxes.csv", None, "val/dog/d.e.png"),
        ("/home/bob/cat/other/b", "boxes.csv", None, "train/dog/b.png"),
        # bare names
        ("b.png", "boxes.csv", None, "train/dog/b.png"),
        ("b", "boxes.csv", None, "train/dog/b.png"),
        ("d.e", "boxes.csv", None, "val/dog/d.e.png"),
        ("f.png", "boxes.csv", None, "val/dog/deep/f.png"),
        ("é.png", "boxes.csv", None, PATHS[-1]),
        # a name that several have: by the file's name or place, then by the class
        ("a.png", "boxes.csv", None, SEVERAL),
        ("a.png", "boxes.csv", "dog", "train/dog/a.png"),
        ("a.png", "boxes.csv", "cat", SEVERAL),
        ("a.png", "val/_annotations.csv", None, "val/cat/a.png"),
        ("a.png", "annotations/instances_val2017.json", None, SEVERAL),
        ("a.png", "annotations/instances_val.json", None, "val/cat/a.png"),
        ("a.png", "annotations/instances_valid.json", None, "val/cat/a.png"),
        ("a.png", "Validation labels/x.json", None, "val/cat/a.png"),
        ("a.png", "train.json", "CAT", "train/cat/a.png"),
        ("cat/a.png", "train-val.json", None, SEVERAL),
        # folders of another machine, which may not say otherwise
        ("obj_train_data/b.png", "boxes.csv", None, "train/dog/b.png"),
        ("photos/dog/a.png", "boxes.csv", None, "train/dog/a.png"),
        ("photos/train/b.png", "boxes.csv", None, "train/dog/b.png"),
        ("photos/val/b.png", "boxes.csv", None, NO_IMAGE),
        ("photos/cat/b.png", "boxes.csv", None, NO_IMAGE),
        ("vall/cat/c.jpg", "boxes.csv", None, "val/cat/c.jpg"),
        ("b.png", "val/boxes.csv", None, NO_IMAGE),
        ("train/dog/b.png", "val/boxes.csv", None, "train/dog/b.png"),
        ("b.jpg", "boxes.csv", None, NO_IMAGE),
        ("", "boxes.csv", None, NO_IMAGE),
        ("/", "boxes.csv", None, NO_IMAGE),
    ],
)
def test_a_name_means_one_image_or_none(names: Names, written: str, file: str, label: str | None, found: str) -> None:
    match = names.find(written, ROOT / file, label)
    assert (str(match.image.path.relative_to(ROOT)) if match.image else match.why_not) == found
    assert not match.other_case


@pytest.mark.parametrize("written", ["B.PNG", "É.png"])
def test_capitals_may_differ_with_a_word(names: Names, written: str) -> None:
    match = names.find(written, ROOT / "boxes.csv", None)
    assert match.image is not None
    assert match.other_case


def test_classes() -> None:
    images = [Known(Path(f"/d/train/{name}/a.png"), name, "train", ("train", name, "a.png")) for name in ("Cat", "dog")]
    images.append(images[0]._replace(class_name="cat", path=Path("/d/train/cat/a.png")))
    names = Names(images, Path("/d"))
    same = {
        (label, image.class_name): (match.image is not None, match.other_case)
        for label in ("Cat", "cat", "CAT", "Dog")
        for image in images
        for match in [names.same_class(label, image)]
    }
    assert same["Cat", "Cat"] == same["cat", "cat"] == (True, False)
    assert same["Cat", "cat"] == same["cat", "Cat"] == (False, False)
    assert same["Dog", "dog"] == same["CAT", "cat"] == (True, True)
    assert same["Dog", "cat"] == (False, False)
