"""Augmentation: what is moved takes its region along; against torchvision and Pillow where they do the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional

from camtrain.data.augment import Augmentation, Draws, draw, move, move_each, recolour, vary, whole_pixels

EVERYTHING = Augmentation((0.3, 1.0), True, 0.4, 0.4, 0.4, 0.1, 0.5)


Moved = tuple[torch.Tensor, torch.Tensor]


def each(images: torch.Tensor, regions: torch.Tensor, draws: Draws, size: int) -> Moved:
    """As on a CPU."""
    squares = [(image.permute(1, 2, 0).numpy(), region.numpy()) for image, region in zip(images, regions, strict=True)]
    moved, cells = move_each(squares, draws, (size, size), with_regions=True)
    assert cells is not None
    return vary(moved, cells, draws), cells


def batch(images: torch.Tensor, regions: torch.Tensor, draws: Draws, size: int) -> Moved:
    """As on any other device."""
    moved, cells = move(images, regions, draws, (size, size))
    assert cells is not None
    return vary(moved, cells, draws), cells


both_ways = pytest.mark.parametrize("augment", [each, batch])


def drawn(augmentation: Augmentation, count: int = 500, size: tuple[int, int] = (300, 200), seed: int = 0) -> Draws:
    return draw(torch.tensor([size]).expand(count, 2), augmentation, np.random.default_rng(seed))


def marked(side: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """A square that is white exactly where its region is 1."""
    region = torch.zeros(1, side, side, dtype=torch.uint8)
    region[:, 10:40, 16:50] = 1
    return (255 * region)[:, None].expand(1, 3, side, side), region


@both_ways
@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_region_travels_with_its_image_through_crops_and_mirrors(augment: Callable[..., Moved], seed: int) -> None:
    image, region = marked()
    draws = drawn(Augmentation((0.3, 1.0), flip=True), 1, (80, 60), seed)
    pixels, mask = augment(image, region, draws, 32)
    assert pixels.shape == (1, 3, 32, 32)
    assert (pixels[:, 0] - mask.float()).abs().mean() < 0.06  # they differ at the edges only
    assert (pixels[:, 0][mask == 1] > 0.2).all()


@both_ways
def test_mirror_is_exact(augment: Callable[..., Moved]) -> None:
    images = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8)
    regions = (images[:, 0] > 128).to(torch.uint8)
    mirrored = torch.tensor([True, False, True, False])
    got, masks = augment(images, regions, Draws(mirrored, None, None, None), 8)
    assert torch.equal(got[0], images[0].flip(2) / 255)
    assert torch.equal(got[1], images[1] / 255)
    assert torch.equal(masks, (got[:, 0] * 255 > 128.5).to(torch.uint8))


def test_crops_lie_in_the_image_and_cover_the_asked_share() -> None:
    draws = drawn(Augmentation((0.25, 0.5), True))
    assert draws.crops is not None
    left, top, right, bottom = draws.crops.unbind(1)
    assert bool((left >= 0).all() and (top >= 0).all() and (right <= 1.0001).all() and (bottom <= 1.0001).all())
    share = (right - left) * (bottom - top)
    assert 0.24 < share.min() < share.max() < 0.501
    aspect = 1.5 * (right - left) / (bottom - top)
    assert 0.7 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.4
    assert 0.4 < draws.mirrored.float().mean() < 0.6


@both_ways
def test_crop_is_that_of_the_image_as_it_was_before_it_was_stretched_to_a_square(
    augment: Callable[..., Moved],
) -> None:
    # A smooth image of 300 x 200 pixels, stored as a square, cropped: as if Pillow had cropped the image itself.
    x, y = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 200))
    values = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(6 * x) * np.cos(5 * y)], 2).astype(np.uint8)
    image = Image.fromarray(values)
    stored = torch.from_numpy(np.array(image.resize((80, 80)))).permute(2, 0, 1)[None]
    draws = drawn(Augmentation((0.3, 0.8)), 1)
    assert draws.crops is not None
    got, _ = augment(stored, torch.zeros(1, 80, 80, dtype=torch.uint8), draws, 64)
    box = (draws.crops[0] * torch.tensor([300, 200, 300, 200])).tolist()
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR, box=box)) / 255
    assert np.abs(got[0].permute(1, 2, 0).numpy() - expected).max() < 0.03


@pytest.mark.parametrize("size", [16, 50, 70])
def test_both_ways_are_one(size: int) -> None:
    images = torch.randint(0, 255, (40, 3, 50, 50), dtype=torch.uint8)
    regions = torch.randint(0, 255, (40, 50, 50), dtype=torch.uint8)
    draws = drawn(Augmentation((0.05, 1.0), flip=True, erase=0.5), 40, (50, 50))
    (one, cells), (other, others) = (way(images, regions, draws, size) for way in (each, batch))
    assert (255 * (one - other)).abs().max() < 2.01  # torch's kernel for bytes rounds between rows and columns
    assert torch.equal(cells, others)


def test_tiny_crops_keep_a_pixel_and_empty_ones_none() -> None:
    boxes = torch.tensor([[0.31, 0.31, 0.32, 0.32], [0.999, 0.999, 1.0, 1.0], [0, 0, 0, 0]])
    low, high = whole_pixels(boxes, (10, 10))
    assert torch.cat([low, high], 1).tolist() == [[3, 3, 4, 4], [9, 9, 10, 10], [0, 0, 0, 0]]


@pytest.mark.parametrize("number", range(3))
def test_brightness_contrast_and_saturation_are_those_of_torchvision(number: int) -> None:
    torch.manual_seed(0)
    images = 0.4 + 0.2 * torch.rand(2, 3, 16, 16)  # nothing is clipped
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(2, 1)
    factors[:, number] = torch.tensor([0.8, 1.3])
    change = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)[number]
    expected = torch.stack([change(image, float(row[number])) for image, row in zip(images, factors, strict=True)])
    torch.testing.assert_close(
        recolour(images, factors), expected, atol=1e-3, rtol=0
    )  # their grey is 0.2989, 0.587, ...


def test_hue_turns_colours_and_leaves_greys_and_luma() -> None:
    red = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None].expand(3, 3, 2, 2)
    turned = recolour(red, torch.tensor([[1, 1, 1, 0.0], [1, 1, 1, 1.0], [1, 1, 1, 0.5]]))
    torch.testing.assert_close(turned[:2], red[:2], atol=1e-3, rtol=0)
    assert turned[2, 0, 0, 0] < turned[2, 1, 0, 0]  # the opposite of red has least red
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(turned[2, :, 0, 0] @ luma, red[0, :, 0, 0] @ luma, atol=1e-3, rtol=0)
    grey = torch.full((1, 3, 2, 2), 0.3)
    torch.testing.assert_close(recolour(grey, torch.tensor([[1, 1, 1, 0.3]])), grey, atol=1e-3, rtol=0)


@both_ways
def test_what_is_erased_is_mean_in_the_image_and_void_in_the_region(augment: Callable[..., Moved]) -> None:
    images = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    regions = torch.ones(400, 32, 32, dtype=torch.uint8)
    got, masks = augment(images, regions, drawn(Augmentation(erase=0.5), 400), 32)
    hidden = masks == 255
    assert torch.equal(hidden, got[:, 0] > 0)
    assert got[:, :, ...].amax((0, 2, 3)).tolist() == pytest.approx([0.485, 0.456, 0.406])
    share = hidden.float().mean((1, 2))
    assert 0.4 < (share > 0).float().mean() < 0.6
    assert share.max() < 0.4
    assert 0.1 < share[share > 0].mean() < 0.25


def test_draws_depend_on_their_stream_alone_and_no_switch_moves_another() -> None:
    one, again, other = drawn(EVERYTHING), drawn(EVERYTHING), drawn(EVERYTHING, seed=1)
    for part, same, different in zip(one, again, other, strict=True):
        assert part is not None
        assert torch.equal(part, same)
        assert not torch.equal(part, different)
    assert torch.equal(drawn(Augmentation(flip=True)).mirrored, one.mirrored)
    alone = drawn(Augmentation(hue=0.1)).colours
    assert alone is not None
    assert one.colours is not None
    assert torch.equal(alone[:, 3], one.colours[:, 3])


@both_ways
def test_images_are_augmented_one_by_one(augment: Callable[..., Moved]) -> None:
    images = torch.randint(0, 255, (6, 3, 20, 20), dtype=torch.uint8)
    regions = torch.randint(0, 2, (6, 20, 20), dtype=torch.uint8)
    draws = drawn(EVERYTHING, 6)
    together = augment(images, regions, draws, 16)
    for number in range(6):
        only = Draws(*(part[number : number + 1] for part in draws if part is not None))
        alone = augment(images[number : number + 1], regions[number : number + 1], only, 16)
        torch.testing.assert_close(alone[0][0], together[0][number])
        assert torch.equal(alone[1][0], together[1][number])
    assert 0 <= together[0].min() <= together[0].max() <= 1
