"""Where masks lie, whose they are, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folders import box_mask, folder_error, noise, training_region, write_folder
from PIL import Image, ImageFilter

from camtrain.config.schema import FolderConfig
from camtrain.data.listing import Listing, Mask
from camtrain.data.sources.folder import list_folder, splits
from camtrain.errors import UserError

MASK = Image.fromarray(box_mask(40, 30))


def store(path: Path, image: Image.Image = MASK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def masks_of(listing: Listing) -> dict[str, str]:
    """File name of each image's mask, by that of the image with its class."""
    return {
        f"{path.parent.name}/{path.stem[:7]}": region.path.name
        for path, region in zip(listing.paths, listing.regions, strict=True)
        if isinstance(region, Mask)
    }


@pytest.mark.parametrize(
    "place",
    [
        "masks/train/cat/image 0 ä.png",
        "masks/train/cat/image 0 ä.tif",
        "masks/train/cat/image 0 a\u0308.bmp",
        "masks/train/cat/image 0 ä_mask.png",
        "masks/train/cat/image 0 ä.png.png",
        "labels/train/cat/image 0 ä.png",
        "SegmentationClass/cat/image 0 ä.png",
        "train_masks/cat/image 0 ä_mask.gif",
        "train/cat/masks/image 0 ä.png",
        "train/cat/image 0 ä_mask.png",
        "train/cat/image 0 ä.mask.png",
    ],
)
def test_masks_in_usual_places(tmp_path: Path, place: str) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "val" / "cat" / "image 0 ä.png").unlink()  # it would have the mask of a folder without splits as well
    store(tmp_path / place)
    listing = list_folder(config, "train")
    assert masks_of(listing) == {"cat/image 0": Path(place).name}
    assert len(listing.paths) == 6
    (note,) = listing.notes
    assert note.startswith("masks hold 0, 3, 255 (1 looked at): 255 is a thin rim and void")
    assert (training_region(config, 0) == 1).sum() == 100
    assert (training_region(config, 0) == 255).sum() == 20


def test_masks_without_class_folders(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "image 0 ä.png").rename(tmp_path / "train" / "cat" / "alone.png")
    store(tmp_path / "masks" / "train" / "alone.png")
    store(tmp_path / "masks" / "train" / "image 1 ä.png")  # of a cat and of a dog
    listing = list_folder(config, "train")
    assert masks_of(listing) == {"cat/alone": "alone.png"}
    assert any("1 mask not used: 1 x .png (its name fits images of several classes)" in note for note in listing.notes)
    assert list_folder(config, "val").notes == []


def test_every_mask_that_is_not_used_is_counted(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    cats = tmp_path / "masks" / "train" / "cat"
    for name in ("image 0 ä.png", "image 0 ä.tif", "nobody.png", "nobody else.png"):
        store(cats / name)
    (cats / "array.npy").write_bytes(b"x")
    Image.fromarray(noise(30, 40, 3)).save(tmp_path / "train" / "cat" / "image 0 ä.jpg")
    notes = list_folder(config, "train").notes
    counted = next(note for note in notes if "not used" in note)
    assert counted.startswith("4 masks not used: 2 x .png (no image here has its name), ")
    assert "1 x .tif (its image has another mask)" in counted
    assert "1 x .npy (an array: convert it to TIFF)" in counted
    shared = next(note for note in notes if "several images" in note)
    assert shared.startswith("1 mask with several images of the same name, all of which use it; the first: ")
    assert shared.endswith("of image 0 ä.jpg and image 0 ä.png")


def test_photographs_that_are_called_like_masks_are_images(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    store(tmp_path / "train" / "cat" / "image 0 ä_mask.png", Image.fromarray(noise(30, 40, 3)))
    store(tmp_path / "train" / "dog" / "guide_mask.png")  # of no image
    listing = list_folder(config, "train")
    assert len(listing.paths) == 8
    assert masks_of(listing) == {}


def test_masks_are_judged_over_a_split(tmp_path: Path) -> None:
    def fresh(name: str, mask: Callable[[int, int], np.ndarray]) -> FolderConfig:
        return write_folder(tmp_path / name, mask)

    def white(width: int, height: int) -> np.ndarray:
        return (box_mask(width, height) > 0).astype(np.uint8) * 255

    def soft(width: int, height: int) -> np.ndarray:
        return np.asarray(Image.fromarray(white(width, height)).filter(ImageFilter.GaussianBlur(0.5)))

    config = fresh("white", white)
    assert set(np.unique(training_region(config, 0))) == {0, 1}
    assert list_folder(config, "train").notes == ["masks hold 0, 255 (6 looked at): all but 0 is the object"]

    config = fresh("soft", soft)
    np.testing.assert_array_equal(training_region(config, 0), white(40, 30) > 0)
    store(tmp_path / "soft" / "masks" / "train" / "cat" / "image 1 ä.png", Image.new("L", (44, 30), 1))
    assert "image 1 ä.png: this mask holds no value above 1, others have grey levels up to 255" in folder_error(config)

    config = fresh("two kinds", white)
    for number in range(3):
        for name, height in (("cat", 30), ("dog", 36)):
            path = tmp_path / "two kinds" / "masks" / "val" / name / f"image {number} ä.png"
            store(path, Image.fromarray(box_mask(40 + 4 * number, height)))
    assert "the masks' value 255 seems to be the object in train and void in val" in folder_error(config)

    config = fresh("all object", lambda width, height: box_mask(width, height) // 3 + 1)
    assert any("masks hold no 0" in note for note in list_folder(config, "train").notes)

    def areas(width: int, height: int) -> np.ndarray:
        values = box_mask(width, height) // 3 % 85
        values[:, :8] = 255
        return values

    assert "255 fills areas" in list_folder(fresh("areas of 255", areas), "train").notes[0]


def test_a_mask_of_images_in_both_splits_is_not_used(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "image 0 ä.png").rename(tmp_path / "train" / "cat" / "alone.png")
    for name in ("alone", "image 0 ä", "image 1 ä", "nobody"):  # of train, of val, of both, of none
        store(tmp_path / "masks" / "cat" / f"{name}.png")
    train, val = splits(config)
    assert masks_of(train) == {"cat/alone": "alone.png"}
    assert masks_of(val) == {"cat/image 0": "image 0 ä.png"}
    for split in (train, val, list_folder(config, "val")):
        (note,) = (note for note in split.notes if "not used" in note)
        assert note.startswith("2 masks not used: 1 x .png (its name fits images of both splits), 1 x .png (no image")


@pytest.mark.parametrize("hard", [MASK.point(lambda value: 255 * (value == 3)), Image.new("L", (40, 30))])
def test_splits_whose_masks_hold_other_values_are_not_understood_otherwise(tmp_path: Path, hard: Image.Image) -> None:
    config = write_folder(tmp_path)
    soft = hard.point(lambda _: 0)
    soft.paste(255, (10, 10, 20, 20))
    store(tmp_path / "masks" / "train" / "cat" / "image 0 ä.png", soft.filter(ImageFilter.GaussianBlur(2)))
    store(tmp_path / "masks" / "val" / "cat" / "image 0 ä.png", hard)
    train, val = splits(config)
    for split in (train, val):  # also for masks that were not looked at
        assert split.meaning[[1, 127, 128, 255]].tolist() == [0, 0, 1, 1]


def test_splits_whose_masks_are_understood_otherwise_are_refused(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    soft = Image.new("L", (40, 30))
    soft.paste(255, (10, 10, 20, 20))
    store(tmp_path / "masks" / "train" / "cat" / "image 0 ä.png", soft.filter(ImageFilter.GaussianBlur(2)))
    labels = Image.fromarray(np.asarray(soft) // 255 * 4)
    store(tmp_path / "masks" / "val" / "cat" / "image 0 ä.png", labels)
    with pytest.raises(UserError, match=r"value 4 seems to be background in train and the object in val; store"):
        splits(config)
