"""Miniature folder data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camtrain.config.schema import FolderConfig
from camtrain.data.build import build
from camtrain.data.decode import region_of, size_of
from camtrain.data.sources.folder import list_folder
from camtrain.errors import UserError

TRAINED_ALONE = (
    *("evaluate.maps=[]", "evaluate.faithfulness_images=0", "evaluate.road_images=0", "evaluate.sanity_images=0"),
    "evaluate.images=1",
)
"""Settings of a run in which little more than the training is done."""


def write_folder(
    root: Path, mask: Callable[[int, int], np.ndarray] | None = None, classes: tuple[str, ...] = ("cat", "dog")
) -> FolderConfig:
    """A folder data set with three plain images of different sizes in each class of each split."""
    for split in ("train", "val"):
        for class_number, name in enumerate(classes):
            for number in range(3):
                width, height = 40 + 4 * number, 30 + 6 * class_number
                path = root / split / name / f"image {number} ä.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                colour = (40, 60 * number, 100 * class_number)
                Image.new("RGB", (width, height), colour).save(path)
                if mask is not None:
                    target = root / "masks" / split / name / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask(width, height)).save(target)
    return FolderConfig(root=str(root), image_size=24, crop_scale=[0.5, 1.0], cache=str(root / "cache"))


def box_mask(width: int, height: int) -> np.ndarray:
    """A mask with 100 pixels of an object and 20 of void."""
    mask = np.zeros((height, width), np.uint8)
    mask[5:15, 10:20] = 3
    mask[15:17, 10:20] = 255
    return mask


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def write_noise(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> FolderConfig:
    """A folder data set with so many photographs of noise, 40 x 30 pixels, in each class of each split."""
    seed = 0
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                Image.fromarray(noise(30, 40, 3, seed=seed)).save(root / split / name / f"{number} ä.jpg")
    return FolderConfig(root=str(root), image_size=16, cache=str(root.parent / "cache"))


def caches(config: FolderConfig) -> list[Path]:
    """The folders in a data set's cache, finished or not."""
    return sorted(path for path in Path(str(config.cache)).glob("*") if path.is_dir())


BAD = ("empty", "text", "truncated", "corrupt", "vanished", "gigantic")


def spoil(path: Path, how: str) -> None:
    """Make a photograph of noise one that cannot be used, in one of the ways of :data:`BAD`."""
    whole = path.read_bytes()
    path.unlink()
    if how == "vanished":
        path.symlink_to("nowhere")
    else:
        contents = {
            "empty": b"",
            "text": b"this is no image",
            "truncated": whole[: len(whole) // 2],
            "corrupt": whole[:300] + bytes(200) + b"\xff\xd8" + whole[900:1000],
            "gigantic": b"P6 60000 60000 255\n" + bytes(100),  # 10.8 GB, if one believed the header
        }
        path.write_bytes(contents[how])


def write_odd(folder: Path) -> int:
    """Unusual images that are nevertheless valid; how many."""
    Image.fromarray(noise(30, 40, 4), "CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(30, 40).astype(np.uint16) * 257).save(folder / "sixteen bits.png")
    Image.fromarray(noise(30, 40, 3)).quantize(16).save(folder / "palette.png")
    Image.fromarray(noise(30, 40, 3)).quantize(16).save(folder / "transparent palette.png", transparency=b"\0\x80\xff")
    Image.fromarray(noise(30, 40, 4), "RGBA").save(folder / "alpha.png")
    Image.fromarray(noise(30, 40, 2), "LA").save(folder / "grey and alpha.png")
    Image.fromarray(noise(30, 40)).save(folder / "grey.webp")
    Image.fromarray(noise(30, 40) > 100).save(folder / "one bit.tif")
    frames = [Image.fromarray(noise(30, 40, seed=seed)) for seed in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    turned = Image.fromarray(noise(30, 40, 3))
    exif = turned.getexif()
    exif[0x0112] = 8
    turned.save(folder / "on its side.jpg", exif=exif)
    Image.fromarray(noise(1, 90, 3)).save(folder / "a line.png")
    return 11


def training_region(config: FolderConfig, number: int) -> np.ndarray:
    """Region of a training image, (height, width) uint8."""
    listing = list_folder(config, "train")
    return region_of(listing, number, size_of(listing, number))


def folder_error(config: FolderConfig) -> str:
    """What is wrong with a folder data set, in one line."""
    with pytest.raises(UserError) as caught:
        build(config, 0, guided=True)
    message = str(caught.value)
    assert "\n" not in message
    return message
