"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from camtrain.files import write_atomically, write_csv, write_text


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


def test_a_table_is_written_as_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", ("name", "value"), [("a, b", 1), ('"ä"', 0.5)])
    assert (tmp_path / "table.csv").read_bytes() == 'name,value\n"a, b",1\n"""ä""",0.5\n'.encode()
