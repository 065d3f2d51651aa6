"""Files that are whole or not there, and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from camtrain.files import write_atomically, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")

    def fail(opened: BinaryIO) -> None:
        opened.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
