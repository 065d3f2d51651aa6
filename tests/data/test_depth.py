"""Images of more than 8 bits: the range of a set, and values by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from image_folders import noise, write_folder
from PIL import Image

from camtrain.config.schema import FolderConfig
from camtrain.data.build import build, validation
from camtrain.data.depth import ALL_16_BITS, Values, depth_of, is_deep, pixels_of_deep, scaled
from camtrain.errors import UserError


@pytest.mark.parametrize(
    ("values", "span"),
    [
        ([100, 1799], (0, 2048)),
        ([0, 4095], (0, 4096)),
        ([0, 4096], (0, 8192)),
        ([7, 65535], ALL_16_BITS),
        ([0, 0], (0, 1)),
        ([-1024, 3071], (-1024, 4096)),
        ([0.0, 1.0], (0, 1)),
        ([0.0, 200.5], (0, 256)),
        ([-2.5, 3.0, np.nan, np.inf], (-4, 4)),
    ],
)
def test_the_range_is_the_smallest_power_of_two_that_holds_all(values: list[float], span: tuple[float, float]) -> None:
    assert depth_of([Values.of(np.array(values))], None).span == span


def test_one_range_for_all_images() -> None:
    found = [Values.of(np.array([0, most])) for most in (10, 3000)]
    depth = depth_of(found, None)
    assert (depth.images, depth.least, depth.most, depth.span) == (2, 0, 3000, (0, 4096))
    assert "2 images of more than 8 bits, values 0 to 3000: 0 is black, 4096 white" in depth.words()
    assert "cut off" in depth_of(found, (0, 1000)).words()


def test_a_few_hot_pixels_are_told() -> None:
    values = np.full(100_000, 500)
    values[0] = 65535
    assert "dataset.intensity_range=[0,500]" in depth_of([Values.of(values)], None).words()


def test_scaling_by_hand() -> None:
    assert scaled(np.array([0, 15, 16, 4095, 9999]), (0, 4096)).tolist() == [0, 0, 1, 255, 255]
    assert scaled(np.array([-1.0, 0, 0.5, 1, np.nan]), (0, 1)).tolist() == [0, 0, 128, 255, 0]
    every = np.arange(65536).astype(np.uint16)
    assert (scaled(every, ALL_16_BITS) == every >> 8).all()


def colours_of_16_bits(values: np.ndarray) -> bytes:
    """A TIFF of (height, width, 3) uint16, without compression; Pillow cannot write one."""
    height, width = values.shape[:2]
    pixels = values.astype("<u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    entries += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(pixels))]
    directory = len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        directory += b"".join(part.to_bytes(size, "little") for part, size in ((tag, 2), (kind, 2), (count, 4)))
        directory += value.to_bytes(4, "little")
    head = b"II*\0" + (14 + len(pixels)).to_bytes(4, "little") + b"\x10\0\x10\0\x10\0"
    return head + pixels + directory + bytes(4)


def test_colours_of_16_bits_keep_their_lower_bytes(tmp_path: Path) -> None:
    values = noise(5, 7, 3).astype(np.uint16) * 16 + 5
    path = tmp_path / "a.tif"
    path.write_bytes(colours_of_16_bits(values))
    with Image.open(path) as opened:
        assert opened.mode == "RGB"
        assert is_deep(opened)
        np.testing.assert_array_equal(pixels_of_deep(path, opened), values)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4", "<f4"])
def test_every_mode_of_grey(tmp_path: Path, kind: str) -> None:
    values = (noise(5, 7).astype(np.int64) * 16).astype(kind)
    stored = io.BytesIO()
    Image.fromarray(values).save(stored, "TIFF")
    path = tmp_path / "a.tif"
    path.write_bytes(stored.getvalue())
    with Image.open(path) as opened:
        assert is_deep(opened)
        np.testing.assert_array_equal(pixels_of_deep(path, opened), values)
    for mode in ("L", "RGB", "P", "1"):
        Image.new(mode, (3, 3)).save(tmp_path / "b.png")
        with Image.open(tmp_path / "b.png") as opened:
            assert not is_deep(opened)


def write_microscope(root: Path, most: int = 1700) -> FolderConfig:
    """A folder data set whose cats are of 16 bits, of which 11 are used, brightest in the last training image."""
    config = write_folder(root)
    for split in ("train", "val"):
        for number in range(3):
            values = np.linspace(0, most * (number + 1) // 3, 30 * 40).reshape(30, 40).astype(np.uint16)
            Image.fromarray(values).save(root / split / "cat" / f"image {number} ä.png")
    return config


@pytest.mark.parametrize("cached", [True, False])
def test_training_images_set_the_range_of_both_splits(tmp_path: Path, cached: bool) -> None:
    config = write_microscope(tmp_path)
    Image.fromarray(np.full((30, 40), 5000, np.uint16)).save(tmp_path / "val" / "cat" / "z.png")
    config.cache = config.cache if cached else None
    for _ in range(1 + cached):  # also from the cache
        train, val = build(config, 0)
        assert train.depth is not None
        assert val.depth is not None
        assert train.depth[:4] == (3, 0, 1700, pytest.approx(1699, abs=3))
        assert train.depth.span == val.depth.span == (0, 2048)
        assert val.depth.words().endswith("what lies outside is cut off")
        assert [int(train.gather([number])[0].max()) for number in range(3)] == [70, 141, 212]  # 1700 / 2048 * 256
        assert int(val.gather([3])[0].min()) == 255
    alone = validation(config, 0).depth
    assert alone is not None
    assert alone.span == (0, 8192)
    config.intensity_range = [0.0, 1700.0]
    assert int(build(config, 0)[0].gather([2])[0].max()) >= 254
    config.intensity_range = [3.0, 3.0]
    with pytest.raises(UserError, match=r"dataset\.intensity_range=\[3\.0, 3\.0\] must be two values, black first"):
        build(config, 0)


def test_sets_of_8_bits_have_no_range(tmp_path: Path) -> None:
    assert [images.depth for images in build(write_folder(tmp_path), 0)] == [None, None]
