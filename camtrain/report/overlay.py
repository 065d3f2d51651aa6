"""Maps as images: the input and every arm's map side by side on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from camtrain.cam.distribution import distribution
from camtrain.cam.stretch import Placement, upsample
from camtrain.regions import object_mask

TILE = 192
"""Width of one image in a strip, pixels; its height is in proportion."""

GAP = 6

COLOURS = matplotlib.colormaps["inferno"]

Pixels = NDArray[np.uint8]


class Drawn(NamedTuple):
    """One validation image with every arm's map and prediction."""

    image: Tensor  # (channels, height, width) float, 0..1
    region: Tensor  # (height, width) uint8
    truth: str  # name of the class whose maps these are
    density: Mapping[str, Tensor]  # by arm: (height, width), P times N: 1 is uniform attention; all 0 if dead
    predicted: Mapping[str, str]  # by arm
    probability: Mapping[str, float]  # by arm, of the predicted class
    figures: Mapping[str, Mapping[str, float]]  # by arm and tag; nan where not defined
    placement: Placement | None = None  # where the maps' cells lie in the image; None: in equal tiles


def density(maps: Tensor) -> Tensor:
    """Attention relative to uniform, :math:`N P`: (batch, height, width), mean 1; all zero for a dead map."""
    shares, _ = distribution(maps)
    return shares * (shares.shape[1] * shares.shape[2])


class View(NamedTuple):
    """The part of the network's input that is drawn, and in which aspect."""

    box: tuple[int, int, int, int]  # left, top, right, bottom; pixels of the input
    aspect: float  # height over width

    @classmethod
    def whole(cls, image: Tensor) -> View:
        """All of an input (channels, height, width), as the network sees it."""
        height, width = image.shape[1:]
        return cls((0, 0, width, height), height / width)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a tile in pixels."""
        return max(1, round(TILE * self.aspect)), TILE


def strip(drawn: Drawn, view: View | None = None) -> Pixels:
    """Input with the object's outline, then each arm's map over the dimmed input, as one RGB image.

    Of one or two channels their mean is drawn in grey, of more than three the first three as red, green and blue.

    The colour is the logarithm of the density, from uniform attention (none) to the largest density of any arm in this
    image: the same colour is the same share of attention in all maps, and a diffuse map stays visible beside a
    sharp one.

    Args:
        drawn: the image and its maps.
        view: what of them is drawn; all of it if not given.
    """
    largest = max(float(cells.max()) for cells in drawn.density.values())
    view = view or View.whole(drawn.image)
    plain = _tile(drawn.image, view)
    outline = _outline(drawn.region, view)
    tiles = [_with_outline(plain, outline)]
    for cells in drawn.density.values():
        high = _stretch(cells, drawn, view).clip(1)
        level = (np.log(high) / np.log(max(largest, 1.01))).clip(0, 1)[..., None]
        colours = COLOURS(level[..., 0])[..., :3] * 255
        grey = plain.mean(2, keepdims=True) * 0.55
        tiles.append(_with_outline((grey * (1 - 0.75 * level) + colours * 0.75 * level).astype(np.uint8), outline))
    gap = np.full((len(plain), GAP, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


class Line(NamedTuple):
    """A line of a caption. Where it is too long the text is shortened, and what follows it stays."""

    text: str
    rest: str = ""


def captioned(pixels: Pixels, captions: Sequence[Sequence[Line]]) -> Pixels:
    """A strip of tiles with lines of text under each, on white.

    Args:
        pixels: (height, tiles * (TILE + GAP) - GAP, 3), from :func:`strip`.
        captions: lines of each tile, from left to right.

    Returns:
        RGB image with room below for the captions.
    """
    font, line_height = _font(14), 18
    height, width = pixels.shape[:2]
    room = line_height * max(len(lines) for lines in captions)
    sheet = Image.new("RGB", (width + 2 * GAP, height + room + 3 * GAP), "white")
    sheet.paste(Image.fromarray(pixels), (GAP, GAP))
    for number, lines in enumerate(captions):
        for below, line in enumerate(lines):
            corner = GAP + number * (TILE + GAP), height + 2 * GAP + below * line_height
            ImageDraw.Draw(sheet).text(corner, fitted(line, font, TILE), fill="black", font=font)
    return np.asarray(sheet)


def fitted(line: Line, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A line at most `width` pixels wide, an ellipsis where its text was cut, a box for what cannot be shown."""
    text, rest = (
        "".join(char if char.isprintable() else "\N{WHITE VERTICAL RECTANGLE}" for char in part) for part in line
    )
    kept, shortest = len(text), 0
    if font.getlength(text + rest) > width:
        # The largest number of characters that fit, by bisection: names may be long.
        while shortest < kept:
            middle = -(-(shortest + kept) // 2)
            if font.getlength(f"{text[:middle]}\N{HORIZONTAL ELLIPSIS}{rest}") > width:
                kept = middle - 1
            else:
                shortest = middle
        text = f"{text[:kept].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    return text + rest


class Row(NamedTuple):
    """Images of one class."""

    label: str
    images: Tensor  # (images, channels, height, width) float, 0..1
    regions: Tensor  # (images, height, width) uint8


def contact_sheet(rows: Sequence[Row]) -> Pixels:
    """A row of images for each class under its name, objects outlined, as one RGB image."""
    heading = 30
    font = _font(17)
    columns = max(len(row.images) for row in rows)
    view = View.whole(rows[0].images[0])
    width, height = columns * (TILE + GAP) + GAP, view.size[0] + heading
    sheet = Image.new("RGB", (width, len(rows) * height + GAP), "white")
    for number, row in enumerate(rows):
        top = number * height
        ImageDraw.Draw(sheet).text((GAP, top + 6), row.label, fill="black", font=font)
        for column, (image, region) in enumerate(zip(row.images, row.regions, strict=True)):
            tile = _with_outline(_tile(image, view), _outline(region, view))
            sheet.paste(Image.fromarray(tile), (GAP + column * (TILE + GAP), top + heading))
    return np.asarray(sheet)


def save_png(pixels: Pixels, opened: BinaryIO) -> None:
    """Write an image."""
    Image.fromarray(pixels).save(opened, format="PNG")


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _tile(image: Tensor, view: View) -> Pixels:
    shown = image[:3] if len(image) > 2 else image.mean(0, keepdim=True).expand(3, -1, -1)
    pixels = (shown.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    part = Image.fromarray(pixels).crop(view.box)
    return np.asarray(part.resize(view.size[::-1], Image.Resampling.BICUBIC))


def _stretch(cells: Tensor, drawn: Drawn, view: View) -> NDArray[np.float32]:
    """A map over the input, where that is viewed."""
    size, placed = drawn.image.shape[1:], drawn.placement
    left, top, right, bottom = view.box
    down, across = view.size[0] / (bottom - top), view.size[1] / (right - left)
    whole = round(size[0] * down), round(size[1] * across)
    larger = placed and Placement(placed.rows.scaled(whole[0] / size[0]), placed.columns.scaled(whole[1] / size[1]))
    stretched = upsample(cells[None].cpu(), whole, larger)[0]
    row, column = min(round(top * down), whole[0] - view.size[0]), min(round(left * across), whole[1] - view.size[1])
    part = stretched[row : row + view.size[0], column : column + view.size[1]]
    return np.asarray(part.numpy(), np.float32)


def _outline(region: Tensor, view: View) -> NDArray[np.bool_]:
    """Pixels along the edge of the object."""
    object_ = object_mask(region).cpu().numpy().astype(np.uint8) * 255
    large = Image.fromarray(object_).crop(view.box).resize(view.size[::-1], Image.Resampling.NEAREST)
    grown = large.filter(ImageFilter.MaxFilter(5))
    edge: NDArray[np.bool_] = (np.asarray(grown) > 0) & (np.asarray(large) == 0)
    return edge


def _with_outline(tile: Pixels, outline: NDArray[np.bool_]) -> Pixels:
    marked = tile.copy()
    marked[outline] = (80, 220, 255)
    return marked
