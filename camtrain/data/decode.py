"""From an image file, its mask and its boxes to pixels of one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from camtrain.data import depth
from camtrain.data.depth import Depth, Values
from camtrain.data.files import content, open_image
from camtrain.data.listing import BadImage, Box, Listing, Mask, Rule, Skipped
from camtrain.data.masks import levels
from camtrain.data.prefetch import prefetched
from camtrain.data.resample import Pixels, fitted
from camtrain.errors import first_line, out_of_memory

T = TypeVar("T")

DOZEN = 12
"""Images that are handed to a thread at once, because handing one out costs as much as reading a header."""

PNG_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
"""Where a PNG may keep its orientation."""


class Header(NamedTuple):
    """What is known of an image file before it is decoded."""

    size: tuple[int, int]  # width and height, as displayed
    mode: str
    deep: bool  # more than 8 bits per channel


def displayed_size(path: Path) -> tuple[int, int]:
    """Width and height of an image after the rotation that its EXIF data asks for, from its header.

    Raises:
        BadImage: it cannot be read.
    """
    return _header(path, turn=True)[0]


def size_of(listing: Listing, number: int) -> tuple[int, int]:
    """Width and height as displayed, from the headers of the image and its mask.

    Raises:
        BadImage: either cannot be read, or does not fit the other, or a box does not fit its image.
    """
    return header_of(listing, number).size


def header_of(listing: Listing, number: int) -> Header:
    """What the header of an image says; checks and errors as for :func:`size_of`."""
    path, region = listing.paths[number], listing.regions[number]
    header = _header(path, turn=True)
    size = header.size
    if isinstance(region, Mask):
        mask_size, mask_mode, _ = _header(region.path, turn=False)
        if region.stored:
            _check_mask_mode(region.path, mask_mode)
        if mask_size != size:
            found, needed = ("x".join(map(str, pair)) for pair in (mask_size, size))
            raise BadImage(
                f"{region.path}: the mask is {found} pixels, its image {path} is {needed}; they must be equal"
            )
    if isinstance(region, tuple):
        for box in region:
            pixels_of(box, size)
    return header


def image_and_region(
    listing: Listing, number: int, rule: Rule, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its region as the rule asks for them, cut, stretched and padded alike.

    The image is antialiased; the region holds no values that it did not hold before.

    Args:
        listing: that holds it.
        number: of the image.
        rule: what it becomes.
        size: width and height as displayed.

    Returns:
        (height, width, channels) uint8; (height, width) uint8, None where no region is known; around a padded image
        the mean colour and void.

    Raises:
        BadImage: it or its mask cannot be decoded.
    """
    image = _decode(listing.paths[number], rule)
    if abs(image.shape[1] * size[1] - image.shape[0] * size[0]) > size[0] + size[1]:
        found, expected = (f"{width}x{height}" for width, height in (image.shape[1::-1], size))
        raise BadImage(f"{listing.paths[number]}: {expected} pixels by its header, {found} when decoded; save it again")
    region = None if listing.regions[number] is None else region_of(listing, number, size)
    return fitted(image, region, rule, size)


def region_of(listing: Listing, number: int, size: tuple[int, int]) -> np.ndarray:
    """The object in the image of this (width, height), uncut: (height, width) uint8, 0 where nothing is known."""
    region = listing.regions[number]
    if isinstance(region, Mask):
        meant: np.ndarray = listing.meaning[mask_values(region)]
        return meant
    pixels = np.zeros(size[::-1], np.uint8)
    for box in sorted(region or (), key=_area, reverse=True):  # where boxes overlap the smaller one is in front
        left, top, right, bottom = pixels_of(box, size)
        pixels[top:bottom, left:right][inside(box.outline, (left, top, right, bottom))] = box.value
    return pixels


def inside(outline: Sequence[Sequence[float]], box: Pixels) -> np.ndarray:
    """Which pixels of a box have their centre in one of the polygons, bool; all of them where there is no polygon."""
    left, top, right, bottom = box
    found = np.full((bottom - top, right - left), not outline)
    if outline:
        from matplotlib.path import Path as Polygon  # slow to import, and few need it

        centres = np.stack(np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5), 2).reshape(-1, 2)
        for polygon in outline:
            found |= Polygon(np.reshape(polygon, (-1, 2))).contains_points(centres).reshape(found.shape)
    return found


def fault(box: Box, size: tuple[int, int]) -> str:
    """Why a box cannot be of an image of this (width, height), in words; empty if it can."""
    left, top, right, bottom = box[:4]
    width, height = size
    if not (left < right and top < bottom):
        return "an empty box; each maximum must exceed its minimum"
    if right <= 1 and bottom <= 1 and min(size) > 1:
        return "the box lies within one pixel; coordinates are pixels, not shares of the image"
    if not (left < width and top < height and right > 0 and bottom > 0 and math.isfinite(left + top + right + bottom)):
        return "the box lies outside its image"
    return ""


def pixels_of(box: Box, size: tuple[int, int]) -> Pixels:
    """The whole pixels of the image that a box touches.

    Raises:
        BadImage: there are none.
    """
    why = fault(box, size)
    width, height = size
    if why:
        raise BadImage(f"{box.where}: {why}, of {width}x{height} pixels")
    left, top, right, bottom = box[:4]
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(width, math.ceil(right)),
        min(height, math.ceil(bottom)),
    )


def mask_values(mask: Mask) -> np.ndarray:
    """The mask's values, (height, width) uint8."""
    path = mask.path
    try:
        with open_image(path) as opened:
            if not mask.stored:
                return levels(opened)
            _check_mask_mode(path, opened.mode)
            return np.asarray(opened).astype(np.uint8)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(f"{path}: the mask cannot be decoded ({_reason(path, error)}); repair or remove it") from error


def each(
    task: Callable[[int], T],
    listing: Listing,
    numbers: Sequence[int],
    threads: int,
    skipped: list[Skipped] | None = None,
) -> Generator[tuple[int, T], None, None]:
    """(number, the task's result) of each image, in order, made in threads: Pillow releases Python's lock.

    Args:
        task: from a number to what is made of the image; may raise :class:`BadImage`.
        listing: of the images.
        numbers: of the images.
        threads: number of threads.
        skipped: collects the bad images, which are left out then; None: the first one is raised.
    """

    def attempt(dozen: Sequence[int]) -> list[T | BadImage]:
        results: list[T | BadImage] = []
        for number in dozen:
            try:
                results.append(task(number))
            except BadImage as error:
                results.append(error)
                if skipped is None:
                    break
        return results

    dozens = [numbers[at : at + DOZEN] for at in range(0, len(numbers), DOZEN)]
    with closing(prefetched(attempt, dozens, threads, 2 * threads)) as made:
        for dozen, items in made:
            for number, item in zip(dozen, items, strict=False):  # the first bad one may end it
                if not isinstance(item, BadImage):
                    yield number, item
                elif skipped is None:
                    raise item
                else:
                    skipped.append(Skipped(str(listing.paths[number]), str(item)))


class Prepared(NamedTuple):
    """What is known of a listing's images before they are decoded."""

    sizes: dict[int, tuple[int, int]]  # width and height of every image that can be read, by its number
    rule: Rule  # with the range of images of more than 8 bits, where there are any
    depth: Depth | None  # what these hold; None where there are none


def prepared(listing: Listing, rule: Rule, threads: int, skipped: list[Skipped] | None) -> Prepared:
    """Sizes from the headers, and of images of more than 8 bits the values; bad images as for :func:`each`."""
    headers = dict(
        each(lambda number: header_of(listing, number), listing, range(len(listing.paths)), threads, skipped)
    )
    sizes = {number: header.size for number, header in headers.items()}
    deep = [number for number, header in headers.items() if header.deep]
    found = dict(each(lambda number: _values(listing.paths[number]), listing, deep, threads, skipped))
    for number in set(deep) - set(found):
        del sizes[number]
    if not found:
        return Prepared(sizes, rule, None)
    depth_found = depth.depth_of(list(found.values()), rule.span)
    return Prepared(sizes, rule._replace(span=depth_found.span), depth_found)


def _check_mask_mode(path: Path, mode: str) -> None:
    if mode not in ("L", "P", "1"):
        raise BadImage(f"{path}: a mask must have one channel of 8 bits (mode L or P), not {mode}")


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


def _header(path: Path, turn: bool) -> Header:
    """An image file's header; `turn` honours the EXIF orientation."""
    try:
        with open_image(path) as opened:
            width, height = opened.size
            # A TIFF's size is given as displayed. Asking a PNG for EXIF data that it lacks would decode it.
            may_turn = turn and opened.format != "TIFF"
            may_turn &= opened.format != "PNG" or bool(PNG_EXIF & opened.info.keys())
            turned = may_turn and opened.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return Header((height, width) if turned else (width, height), opened.mode, depth.is_deep(opened))
    except Exception as error:  # Pillow's readers raise anything on a damaged file
        raise BadImage(
            f"{path}: not an image that can be read ({_reason(path, error)}); repair or remove it"
        ) from error


def _decode(path: Path, rule: Rule) -> np.ndarray:
    """The image (height, width, channels) uint8, upright; a large JPEG at a fraction of its size, but with at least
    twice the pixels along an edge that the rule asks for."""
    try:
        with open_image(path) as opened:
            mode = "L" if rule.channels == 1 else "RGB"
            if depth.is_deep(opened):
                values = depth.pixels_of_deep(path, opened)
                return _as_array(Image.fromarray(depth.scaled(values, rule.span or depth.ALL_16_BITS)), mode)
            short, longest = min(opened.size), max(rule.size)
            opened.draft(None, tuple(-(-edge * 2 * longest // short) for edge in opened.size))  # type: ignore[arg-type]
            image: Image.Image = opened
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "P":
                image = image.convert("RGBA")  # a palette may hold transparency
            image.load()
            return _as_array(image, mode)
    except Exception as error:
        raise BadImage(f"{path}: the image cannot be decoded ({_reason(path, error)}); repair or remove it") from error


def _as_array(image: Image.Image, mode: str) -> np.ndarray:
    """The image in this mode, (height, width, channels) uint8."""
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _values(path: Path) -> Values:
    """What an image of more than 8 bits holds."""
    try:
        with open_image(path) as opened:
            return Values.of(depth.pixels_of_deep(path, opened))
    except Exception as error:
        raise BadImage(f"{path}: the image cannot be decoded ({_reason(path, error)}); repair or remove it") from error


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read; that memory is exhausted is no fault of the file, and raised again."""
    if out_of_memory(error):
        raise error
    if isinstance(error, FileNotFoundError):
        return "a link to nothing" if path.is_symlink() else "it is not there any more"
    if isinstance(error, UnidentifiedImageError):
        return content(path) or "unknown format"
    return first_line(error)
