"""Errors in one line."""

from __future__ import annotations

import pytest

from camtrain.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("a\nb"), "a"), (OSError("\n a "), "a"), (KeyError(), "KeyError")]
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line
