"""Images of any aspect and number of channels brought to one size; against Pillow where it does the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_folders import noise
from PIL import Image

from camtrain.config.options import Fit
from camtrain.config.schema import FolderConfig
from camtrain.data.batches import Batching, training_batches
from camtrain.data.build import augmentation, build
from camtrain.data.listing import Rule
from camtrain.data.resample import fitted_batch, place, seen

EDGE = st.integers(1, 3000)
SIZES = [(40, 56), (56, 40), (48, 48)]


def photograph(width: int, height: int) -> np.ndarray:
    """A smooth image (height, width, 3)."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 255 * y, 127 + 120 * np.sin(6 * x) * np.cos(5 * y)], 2).astype(np.uint8)


def write(root: Path, image: np.ndarray, mask: np.ndarray | None = None, suffix: str = "png") -> FolderConfig:
    """A folder data set of one image, twice in each split."""
    for split in ("train", "val"):
        for kind in ("a", "b"):
            (root / split / kind).mkdir(parents=True)
            Image.fromarray(image).save(root / split / kind / f"1.{suffix}")
            if mask is not None:
                (root / "masks" / split / kind).mkdir(parents=True)
                Image.fromarray(mask).save(root / "masks" / split / kind / "1.png")
    return FolderConfig(root=str(root), image_size=32, cache=None, flip=False)


@given(EDGE, EDGE, EDGE, EDGE)
def test_what_is_seen_is_central_and_as_large_as_it_can_be(width: int, height: int, across: int, down: int) -> None:
    left, top, right, bottom = seen(width, height, Rule(down, across, Fit.crop))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert (left, right) == (0, width) or (top, bottom) == (0, height)
    assert abs((right - left) * down - (bottom - top) * across) <= max(across, down)
    assert seen(width, height, Rule(down, across, Fit.pad)) == (0, 0, width, height)
    assert place(width, height, Rule(down, across, Fit.pad)) == seen(across, down, Rule(height, width, Fit.crop))
    if across == down:
        assert right - left == bottom - top == min(width, height)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (120, 260)])
def test_images_are_cut_padded_and_stretched_as_by_pillow(
    tmp_path: Path, size: tuple[int, int], width: int, height: int
) -> None:
    image = Image.fromarray(photograph(width, height))
    config = write(tmp_path, np.asarray(image), np.full((height, width), 7, np.uint8))
    config.image_size = list(size)
    for fit in Fit:
        config.fit = fit
        _, val = build(config, 0)
        pixels, regions = val.gather([0])
        assert regions is not None
        inner, box = (size[1], size[0]), (0.0, 0.0, float(width), float(height))
        if fit is Fit.crop:
            scale = min(width / size[1], height / size[0])
            across, down = size[1] * scale, size[0] * scale
            box = (width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2
        if fit is Fit.pad:
            scale = max(width / size[1], height / size[0])
            inner = round(width / scale), round(height / scale)
        expected = np.empty((*size, 3), np.uint8)
        expected[:] = 124, 116, 104  # the mean of ImageNet's images
        left, top = (size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2
        part = np.s_[top : top + inner[1], left : left + inner[0]]
        expected[part] = np.asarray(image.resize(inner, Image.Resampling.BILINEAR, box=box))
        assert np.abs(pixels[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 4
        void = np.full(size, 255, np.uint8)
        void[part] = 1
        assert np.array_equal(regions[0].numpy(), void)


def test_images_in_memory_are_brought_to_a_size_as_files_are(tmp_path: Path) -> None:
    config = write(tmp_path, noise(30, 44, 3))
    config.image_size = [24, 20]
    stored = torch.from_numpy(noise(30, 44, 3)).permute(2, 0, 1)[None]
    for fit in Fit:
        config.fit = fit
        files = build(config, 0)[1].gather([0])[0]
        assert (fitted_batch(stored, Rule(24, 20, fit)).int() - files.int()).abs().max() <= 1, fit


def test_a_large_photograph_is_not_decoded_too_small(tmp_path: Path) -> None:
    config = write(tmp_path, photograph(1200, 900), suffix="jpg")
    config.image_size = [20, 80]
    got = build(config, 0)[1].gather([0])[0][0].permute(1, 2, 0).numpy().astype(int)
    expected = Image.fromarray(photograph(1200, 900)).resize((80, 20), Image.Resampling.BOX, box=(0, 300, 1200, 600))
    assert np.abs(got - np.asarray(expected)).mean() < 3


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("size", SIZES)
def test_regions_travel_with_images_of_any_aspect(tmp_path: Path, fit: Fit, size: tuple[int, int]) -> None:
    mask = np.zeros((100, 160), np.uint8)
    mask[30:80, 50:110] = 1
    config = write(tmp_path, 255 * mask[..., None].repeat(3, 2), mask)
    config.image_size, config.fit, config.crop_scale, config.flip = list(size), fit, [0.3, 1.0], True
    train, _ = build(config, 0, guided=True)
    for batch in training_batches(train, Batching(2), 6, 3, augmentation(config), size):
        assert batch.images.shape == (2, 3, *size)
        known = batch.regions != 255
        assert (batch.images[:, 0] - batch.regions.float())[known].abs().mean() < 0.06
        assert fit is Fit.pad or bool(known.all())


@pytest.mark.parametrize("fit", Fit)
def test_crops_have_the_aspect_of_what_the_network_sees(fit: Fit, tmp_path: Path) -> None:
    """A circle stays one, up to the 3/4 to 4/3 by which crops vary: under `stretch`, an ellipse as in validation."""
    x, y = np.meshgrid(np.arange(240), np.arange(120))
    disc = ((x - 120) ** 2 + (y - 60) ** 2 < 25**2).astype(np.uint8)
    config = write(tmp_path, 255 * disc[..., None].repeat(3, 2), disc)
    config.image_size, config.fit, config.crop_scale = [40, 56], fit, [0.4, 1.0]
    train, val = build(config, 0, guided=True)
    _, regions = val.gather([0])
    assert regions is not None

    def aspect(region: torch.Tensor) -> float:
        return float((region == 1).any(0).sum() / (region == 1).any(1).sum())

    usual = aspect(regions[0])
    assert usual == pytest.approx(56 / 40 / 2 if fit is Fit.stretch else 1, rel=0.1)
    batches = training_batches(train, Batching(2), 20, 3, augmentation(config), (40, 56))
    regions = torch.cat([batch.regions for batch in batches])
    inside = (regions == 1).sum((1, 2)) - (regions[:, 1:-1, 1:-1] == 1).sum((1, 2)) == 0
    found = [aspect(region) / usual for region in regions[inside]]
    assert 0.66 < min(found) < 0.9
    assert 1.1 < max(found) < 1.52


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_grey_is_that_of_pillow(tmp_path: Path, mode: str) -> None:
    config = write(tmp_path, noise(32, 32, 3))
    original = Image.fromarray(noise(32, 32, 3)).convert(mode)
    original.save(tmp_path / "val" / "a" / "1.png")
    config.channels = 1
    got = build(config, 0)[1].gather([0])[0]
    assert got.shape == (1, 1, 32, 32)
    with Image.open(tmp_path / "val" / "a" / "1.png") as opened:
        expected = np.asarray((opened.convert("RGBA") if mode == "P" else opened).convert("L"))
    assert np.array_equal(got[0, 0].numpy(), expected)


def test_channels_of_images_in_memory() -> None:
    colours = torch.from_numpy(noise(8, 8, 3)).permute(2, 0, 1)[None]
    grey = fitted_batch(colours, Rule(8, 8, Fit.crop, 1))
    assert np.array_equal(grey[0, 0].numpy(), np.asarray(Image.fromarray(noise(8, 8, 3)).convert("L")))
    assert torch.equal(fitted_batch(grey, Rule(8, 8, Fit.crop, 3)), grey.expand(-1, 3, -1, -1))
    around = fitted_batch(grey, Rule(8, 12, Fit.pad, 1))
    assert torch.equal(around[..., 2:10], grey)
    assert around[..., :2].unique().tolist() == around[..., 10:].unique().tolist() == [128]
