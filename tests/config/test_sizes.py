"""`dataset.image_size` is one number or two, and what else it may be said to be is refused."""

from __future__ import annotations

from typing import Any

import pytest

from camtrain.config.schema import FakeConfig
from camtrain.config.validate import image_shape
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
