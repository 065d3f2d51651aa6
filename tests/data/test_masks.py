"""What masks' values mean: kinds by hand, soft edges, rims, colours, transparency."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from camtrain.data.masks import Kind, kind_of, levels, meaning, shape_of, together
from camtrain.regions import VOID


def rectangle(value: int = 255, size: tuple[int, int] = (80, 64)) -> Image.Image:
    image = Image.new("L", size)
    ImageDraw.Draw(image).rectangle((10, 10, 59, 49), fill=value)
    return image


def jpeg(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=75)
    return Image.open(stored)


def antialiased() -> Image.Image:
    large = Image.new("L", (320, 256))
    ImageDraw.Draw(large).ellipse((40, 40, 260, 200), fill=255)
    return large.resize((80, 64), Image.Resampling.BILINEAR)


def judged(image: Image.Image, void: int | str | None = "auto") -> np.ndarray:
    values = levels(image)
    found: np.ndarray = meaning([shape_of(values)], void)[values]
    return found


SOFT = {
    "blurred": rectangle().filter(ImageFilter.GaussianBlur(0.5)),
    "very blurred": rectangle().filter(ImageFilter.GaussianBlur(2)),
    "antialiased": antialiased(),
    "halved": rectangle().resize((41, 33), Image.Resampling.BILINEAR),
    "jpeg": jpeg(rectangle()),
    "blurred jpeg": jpeg(rectangle().filter(ImageFilter.GaussianBlur(1))),
    "jpeg in colours": jpeg(rectangle().filter(ImageFilter.GaussianBlur(1)).convert("RGB")),
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("void", ["auto", None])
def test_soft_edges_belong_to_the_object_by_their_share(name: str, void: str | None) -> None:
    found = judged(SOFT[name], void)
    assert kind_of(shape_of(levels(SOFT[name]))) is Kind.soft
    assert set(np.unique(found)) == {0, 1}
    np.testing.assert_array_equal(found, levels(SOFT[name]) >= 128)


def test_the_edge_of_a_blurred_rectangle_stays_where_it_was() -> None:
    np.testing.assert_array_equal(judged(SOFT["blurred"])[1:-1, 1:-1].sum(), 50 * 40)


def rimmed(label: int = 1) -> np.ndarray:
    values = np.zeros((64, 80), np.uint8)
    values[8:52, 8:62] = 255
    values[10:50, 10:60] = label
    return values


@pytest.mark.parametrize(
    ("values", "kind", "of_255"),
    [
        (rimmed(), Kind.labels, VOID),
        (rimmed(15), Kind.labels, VOID),
        (rimmed(128), Kind.labels, VOID),
        (np.asarray(rectangle()), Kind.white, 1),
        (np.asarray(rectangle(1)), Kind.labels, VOID),  # which it has not: what a rim elsewhere would mean
        (np.where(np.asarray(rectangle()) > 0, np.where(np.arange(80) < 40, 7, 255), 0), Kind.labels, 1),
        (np.where(np.asarray(rectangle()) > 0, np.arange(80) // 3, 0), Kind.labels, VOID),  # instances
        (np.where(np.eye(64, 80, dtype=bool), 1, 0), Kind.labels, VOID),  # a line of label 1 fills no area
        (np.zeros((9, 9)), Kind.nothing, VOID),
    ],
)
def test_labels_and_what_255_is_beside_them(values: np.ndarray, kind: Kind, of_255: int) -> None:
    image = Image.fromarray(values.astype(np.uint8))
    assert kind_of(shape_of(levels(image))) is kind
    meant = meaning([shape_of(levels(image))], "auto")
    assert meant[0] == 0
    assert (meant[1:255] == 1).all()
    assert meant[255] == of_255
    assert meaning([shape_of(levels(image))], 255)[255] == VOID, "declared"
    assert meaning([shape_of(levels(image))], None)[255] == 1


def test_one_large_void_among_rims_is_void() -> None:
    hidden = rimmed()
    hidden[:, 40:] = 255  # another object, in no score
    shapes = [shape_of(values) for values in (rimmed(), rimmed(), hidden)]
    assert meaning(shapes, "auto")[255] == VOID
    assert together(shapes).rims == 2


def test_masks_of_every_mode_show_the_same() -> None:
    grey = rectangle()
    expected = np.asarray(grey) > 0
    clear = Image.merge("RGBA", (*Image.new("RGB", grey.size, "green").split(), grey))
    white_first = Image.new("P", grey.size, 1)
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    white_first.paste(0, mask=grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for image in (
        *(grey.convert(mode) for mode in ("1", "RGB", "RGBA", "LA", "P", "CMYK")),
        *(clear, white_first, deep, Image.fromarray(np.asarray(grey) / np.float32(255))),
        Image.composite(Image.new("RGB", grey.size, (128, 0, 0)), Image.new("RGB", grey.size), grey),
    ):
        np.testing.assert_array_equal(judged(image) == 1, expected, err_msg=image.mode)


def test_a_palette_of_labels_keeps_its_numbers_and_colours_of_voc_their_void() -> None:
    image = Image.fromarray(rimmed(7)).convert("P")
    palette = np.zeros((256, 3), np.uint8)
    palette[7], palette[255] = (128, 128, 128), (224, 224, 192)
    image.putpalette(palette.ravel().tolist())
    np.testing.assert_array_equal(levels(image), rimmed(7))
    np.testing.assert_array_equal(judged(image.convert("RGB")), judged(image))
