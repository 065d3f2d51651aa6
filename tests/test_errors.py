"""Errors in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from camtrain.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("a\nb"), "a"), (OSError("\n a "), "a"), (KeyError(), "KeyError")]
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("what", "ends"),
    [
        ("torch.empty(2**31)", "True"),
        ("numpy.empty(2**31)", "True"),
        ("bytes(2**33)", "True"),
        ("mmap.mmap(-1, 2**33)", "True"),
        ("torch.empty(-1)", "False"),
    ],
)
def test_memory_that_is_exhausted_is_known(what: str, ends: str) -> None:
    """Every library has its own error; here they meet a real limit."""
    code = (
        "import mmap, resource, sys, numpy, torch\n"
        "from camtrain.errors import out_of_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        f"try: {what}\n"
        "except Exception as error: print(out_of_memory(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ends
