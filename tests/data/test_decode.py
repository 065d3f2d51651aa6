"""From files to pixels: orientation, depth, modes, boxes, large photographs, decoding ahead in threads."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import training_region, write_folder
from PIL import Image, ImageOps, PngImagePlugin

from camtrain.config.options import Fit
from camtrain.config.schema import FolderConfig
from camtrain.data.build import build
from camtrain.data.decode import DOZEN, each, image_and_region, size_of
from camtrain.data.listing import Listing, Rule
from camtrain.data.sources.folder import list_folder


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


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "RGB"])
@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, None), (5, Image.Transpose.TRANSPOSE), (6, Image.Transpose.ROTATE_270)]
)
def test_a_tiff_that_is_not_compressed_is_turned_whole(
    tmp_path: Path, mode: str, orientation: int, turn: Image.Transpose | None
) -> None:
    values = np.arange(800).reshape(20, 40)
    image = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else (values % 251).astype(np.uint8))
    image = image if mode == "I;16" else image.convert(mode)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.tif", exif=exif)
    upright = image if turn is None else image.transpose(turn)
    upright.save(tmp_path / "a.png")
    listing = Listing([], [tmp_path / "a.tif", tmp_path / "a.png"], torch.zeros(2), [None] * 2, np.zeros(256, np.uint8))
    rule = Rule(upright.height, upright.width, Fit.crop)
    turned, expected = (image_and_region(listing, number, rule, upright.size)[0] for number in range(2))
    np.testing.assert_array_equal(turned, expected)


def test_boxes_cover_every_pixel_that_they_touch_and_end_at_the_image(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    rows = "train/cat/image 0 ä.png,1.5,2,1.9,3.2\ntrain/cat/image 0 ä.png,38,-5,99,2\n"
    (tmp_path / "boxes.csv").write_text(f"path,xmin,ymin,xmax,ymax\n{rows}")
    assert sorted(zip(*(part.tolist() for part in training_region(config, 0).nonzero()), strict=True)) == [
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


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_other_modes(tmp_path: Path, mode: str) -> None:
    config = write_folder(tmp_path)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (40, 30)).save(tmp_path / "train" / "cat" / f"a.{suffix}")
    train, _ = build(config, 0)
    images, _ = train.gather([0])
    assert images.shape == (1, 3, 30, 30)  # room for crops


def test_large_photographs_are_decoded_at_a_fraction_and_look_the_same(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 9, 1200), np.linspace(0, 7, 900))
    values = np.stack([127 + 120 * np.sin(x), 127 + 120 * np.cos(y), 127 + 120 * np.sin(x + y)], 2).astype(np.uint8)
    for kind in ("a", "b"):
        for split in ("train", "val"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / split / kind / "large.jpg", quality=95)
    config = FolderConfig(root=str(tmp_path), image_size=64, cache=None)
    got = build(config, 0)[0].gather([0])[0][0].permute(1, 2, 0).numpy()
    expected = Image.fromarray(values).resize((64, 64), Image.Resampling.BOX, box=(150, 0, 1050, 900))
    assert np.abs(got.astype(int) - np.asarray(expected).astype(int)).mean() < 3


def test_no_more_images_wait_than_are_soon_needed(tmp_path: Path) -> None:
    listing = list_folder(write_folder(tmp_path), "train")
    begun: list[int] = []
    made = each(lambda number: begun.append(number), listing, [0] * 1000, threads=2)
    next(made)
    time.sleep(0.2)
    assert len(begun) <= 5 * DOZEN
    assert len(list(made)) == 999
