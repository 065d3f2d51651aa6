"""Data sets that a user's own function returns: every form of an item, names of classes, what is wrong in a line."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import noise
from PIL import Image
from torch.utils.data import Subset, random_split

from camtrain.config.schema import PythonConfig
from camtrain.data.build import build, validation
from camtrain.data.images import relabelled
from camtrain.data.sources import python
from camtrain.errors import UserError

PIXELS = noise(20, 30, 3)
GREY = noise(20, 30)
MASK = (np.arange(600).reshape(20, 30) % 7 == 0).astype(np.uint8)

Make = Callable[..., Any]
Source = Callable[..., PythonConfig]


class Listed(list[Any]):
    """A map-style data set that names its classes."""

    def __init__(self, items: Any, classes: list[str]) -> None:
        super().__init__(items)
        self.classes = classes


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A configuration that names a function in the present folder: the given one."""
    (tmp_path / "my_own_sets.py").write_text("def make(**options):\n    return inner(**options)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def configured(make: Make, **settings: Any) -> PythonConfig:
        config = PythonConfig(source="my_own_sets:make", image_size=[20, 30], **settings)
        python.imported(config.source, "dataset.source").__globals__["inner"] = make
        return config

    yield configured
    sys.modules.pop("my_own_sets", None)


def both(*items: Any) -> Make:
    return lambda: (list(items), list(items))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS / 255,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255,
        torch.from_numpy(PIXELS).permute(2, 0, 1).double() / 255,
    ],
    ids=["pillow", "bytes", "doubles", "tensor", "floats", "double tensor"],
)
@pytest.mark.parametrize("mask", [MASK, MASK > 0, Image.fromarray(MASK), torch.from_numpy(MASK)[None]], ids=type)
def test_items_of_every_form(source: Source, image: Any, mask: Any) -> None:
    train, val = build(source(both((image, 0, mask), (image, np.int64(1)), (image, torch.tensor(2), None))), 0)
    for part in (train, val):
        images, regions = part.gather([0, 2])
        assert torch.equal(images[0], torch.from_numpy(PIXELS).permute(2, 0, 1))
        assert regions is not None
        assert torch.equal(regions[0], torch.from_numpy(MASK))
        assert not regions[1].any()
        assert part.targets.tolist() == [0, 1, 2]
        assert list(part.classes) == ["0", "1", "2"]
        assert int(part.has_region.sum()) == 1
        assert part.sizes.tolist() == [[30, 20]] * 3


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(source: Source, channels: int) -> None:
    if channels == 4:
        items = [(noise(20, 30, 4), 0), (Image.fromarray(noise(20, 30, 4), "CMYK"), 1)]
    else:
        items = [(GREY, 0), (PIXELS, 1), (Image.fromarray(GREY), 0), (Image.fromarray(PIXELS), 1)]
        items += [(Image.fromarray(noise(20, 30, 4), "RGBA"), 0), (torch.from_numpy(GREY), 1)]
    _, val = build(source(both(*items), channels=channels), 0)
    images, _ = val.gather(range(len(items)))
    assert images.shape == (len(items), channels, 20, 30)
    if channels != 4:
        mode = "L" if channels == 1 else "RGB"
        expected = [np.asarray(Image.fromarray(values).convert(mode)) for values in (GREY, PIXELS)]
        for number, image in enumerate(images[[0, 1, 2, 3]]):
            assert np.array_equal(image.permute(1, 2, 0).numpy().squeeze(), expected[number % 2])


def test_several_classes_per_image(source: Source) -> None:
    items = [(PIXELS, [1, 0, 1]), (PIXELS, torch.tensor([0.0, 1.0, 0.0])), (PIXELS, np.array([False, False, False]))]
    train, _ = build(source(both(*items), classes=["cat", "dog", "owl"]), 0)
    assert train.targets.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert list(train.classes) == ["cat", "dog", "owl"]


def test_names_are_the_data_sets_own_and_the_validation_split_is_numbered_as_in_training(source: Source) -> None:
    train = Listed([(PIXELS, 0), (PIXELS, 1), (PIXELS, 2)], ["ant", "bee", "cow"])
    val = Listed([(PIXELS, 0), (PIXELS, 1)], ["ant", "cow"])
    built = build(source(lambda: (Subset(train, [2, 1, 0]), val)), 0)  # type: ignore[arg-type]
    assert [list(part.classes) for part in built] == [["ant", "bee", "cow"]] * 2
    assert [part.targets.tolist() for part in built] == [[2, 1, 0], [0, 2]]
    alone = validation(source(lambda: (train, val)), 0)
    assert relabelled(alone, ["ant", "bee", "cow"]).targets.tolist() == [0, 2]


def test_options_and_the_seed_are_arguments(source: Source) -> None:
    def make(count: int, seed: int) -> Any:
        return [(np.full((20, 30, 3), seed, np.uint8), 0)] * count, [(PIXELS, 0)] * 2

    config = source(make, options={"count": 5})
    # The wrapper of the fixture takes any argument, and so hides that there is one called seed.
    python.imported(config.source, "").__globals__["make"] = make
    train, _ = build(config, 42)
    assert len(train.targets) == 5
    assert train.gather([0])[0].unique().tolist() == [42]


def test_what_does_not_fit_into_memory_is_asked_for_again(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Counted(list[Any]):
        def __getitem__(self, number: Any) -> Any:
            asked.append(number)
            return super().__getitem__(number)

    monkeypatch.setattr(python, "KEPT", 3 * PIXELS.nbytes)
    images = [noise(20, 30, 3, seed=seed) for seed in range(6)]
    _, val = build(source(lambda: ([(PIXELS, 0)], Counted((image, 0) for image in images))), 0)
    asked.clear()
    got, _ = val.gather(range(6))
    assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), np.stack(images))
    assert asked == [3, 4, 5]


FINE = (PIXELS, 0)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([], r"the training images are none$"),
        ([PIXELS], r"training images, item 0: an item must be \(image, target\) or .* not a ndarray$"),
        (
            [FINE, (PIXELS - 128.0, 0)],
            r"item 1: an image of values from -128 to 126; of floating point",
        ),
        ([(PIXELS.astype(np.int64), 0)], r"item 0: an image of type int64; it must be uint8"),
        ([(torch.from_numpy(PIXELS), 0)], r"item 0: an image of height, width and channels \(30, 3, 20\), but .*=3;"),
        ([(PIXELS[0, 0], 0)], r"item 0: an image cannot have the shape \(3,\)"),
        ([(PIXELS, -1)], r"item 0: the target -1; it must be a class number, or a vector of a 0 or 1"),
        ([(PIXELS, "cat")], r"item 0: the target cat; it must be a class number"),
        ([(PIXELS, [3])], r"item 0: the target \[3\]; it must be"),
        ([FINE, (PIXELS, [0, 1])], r"some targets are vectors and some are not"),
        ([(PIXELS, 0, MASK[:10])], r"item 0: the mask is 30x10 pixels, its image 30x20; they must be equal"),
        ([(PIXELS, 0, MASK * 0.3)], r"item 0: a mask holds values that are not whole numbers"),
        ([(PIXELS, 0, 255 * MASK)], r"the masks hold only 0 and 255, which is in no score"),
        ([(Image.fromarray(GREY.astype(np.int32)), 0)], r"item 0: an image of mode I; convert it to 8 bits"),
    ],
)
def test_what_is_wrong_with_an_item_is_said(source: Source, items: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(source(lambda: (items, [FINE])), 0)
    assert str(caught.value).startswith("dataset.source=my_own_sets:make: the ")
    assert "\n" not in str(caught.value)


def failing() -> Any:
    raise KeyError("no such file")


class Failing(list[Any]):
    def __getitem__(self, number: Any) -> Any:
        return super().__getitem__(number)[2]


class Shaky(list[Any]):
    def __getitem__(self, number: Any) -> Any:
        return np.random.default_rng().integers(0, 255, (20, 30, 3), np.uint8), 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: [FINE], r"it must return two data sets, for training and for validation, not 1 things"),
        (lambda: (iter([FINE]), [FINE]), r"a list_iterator is no map-style data set"),
        (lambda extra: extra, r"TypeError: .*missing 1 required positional argument: 'extra'"),
        (failing, rf"{re.escape(__file__)} line \d+: KeyError: 'no such file'"),
        (
            lambda: (Failing([FINE]), [FINE]),
            rf"the training images, item 0: {re.escape(__file__)} line \d+: IndexError: tuple index out of range",
        ),
        (lambda: ([FINE], Shaky([FINE])), r"the validation images, item 0: asked for twice it is not the same; leave"),
        (
            lambda: ([FINE], Listed([FINE], ["newt"])),
            r"the validation images have newt, which the training images have not",
        ),
        (lambda: ([FINE], [(PIXELS, 1)]), r"the validation images have class number 1; the classes are 0$"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(source: Source, make: Make, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(source(make), 0)
    assert "\n" not in str(caught.value)


def test_what_is_split_at_random_is_split_alike_each_time(source: Source) -> None:
    def make() -> Any:
        items = [(np.full((20, 30), value, np.uint8), value % 2) for value in range(8)]
        random.shuffle(items)
        drawn = np.random.permutation(8)
        return random_split([items[number] for number in drawn], [4, 4])

    config = source(make)
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    train, val = (part.gather(range(4))[0] for part in build(config, 3))
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert str(after) == str(state)
    assert torch.equal(validation(config, 3).gather(range(4))[0], val)
    assert len({int(image[0, 0, 0]) for image in (*train, *val)}) == 8
    assert not torch.equal(validation(config, 4).gather(range(4))[0], val)
