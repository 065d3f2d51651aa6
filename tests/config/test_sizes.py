"""`dataset.image_size` is one number or two, and what else it may be said to be is refused."""

from __future__ import annotations

from typing import Any

import pytest

from camtrain.config.options import DatasetName
from camtrain.config.schema import DatasetConfig, FakeConfig, FolderConfig
from camtrain.config.validate import check_dataset, image_shape
from camtrain.errors import UserError


@pytest.mark.parametrize(
    ("size", "shape"), [(32, (3, 32, 32)), ([160, 224], (3, 160, 224)), ((24, 8), (3, 24, 8))], ids=str
)
def test_one_number_or_two(size: Any, shape: tuple[int, int, int]) -> None:
    assert image_shape(FakeConfig(image_size=size)) == shape


@pytest.mark.parametrize("size", ["large", 64.5, [64], [64, 64, 64], [64, "x"], True, None], ids=str)
def test_anything_else_is_refused(size: Any) -> None:
    with pytest.raises(UserError, match=r"^dataset.image_size=.* a whole number, or a height and a width: \[160,224\]"):
        image_shape(FakeConfig(image_size=size))


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (FakeConfig(name=DatasetName.fake, channels=1, hue=0.1), "dataset.hue=0.1: only images of three channels"),
        (FakeConfig(name=DatasetName.fake, channels=4, saturation=1), "dataset.saturation=1: only images of three"),
        (FolderConfig(name=DatasetName.folder, root=".", channels=4), "dataset.channels=4: image files have 1 .* or 3"),
    ],
)
def test_what_other_channels_cannot_be(dataset: DatasetConfig, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_dataset(dataset)
    dataset.channels = 3
    check_dataset(dataset)
