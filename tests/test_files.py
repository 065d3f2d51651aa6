"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
import torch

from camtrain.files import absolute, expanded, printable, write_atomically, write_csv, write_text


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


class Full:
    """A file on a disk without room."""

    def write(self, _data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        pass


def test_a_full_disk_is_one_whatever_a_library_makes_of_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        write_atomically(tmp_path / "file", lambda _: torch.save({"weight": torch.zeros(9)}, Full()))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file", lambda _: 1 / 0)


def test_names_of_any_bytes_can_be_written_and_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n\xf0\x9f\x98\x80.png")
    write_text(tmp_path / "names.json", json.dumps([name], ensure_ascii=False))
    assert json.loads((tmp_path / "names.json").read_text(encoding="utf-8")) == [name]
    assert printable(name) == "caf\\udce9\\n\N{GRINNING FACE}.png"
    assert printable("wo\N{ZERO WIDTH JOINER}man") == "wo\N{ZERO WIDTH JOINER}man"


def test_paths_mean_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "[1]"
    (here / "a*").mkdir(parents=True)
    (here / "ab").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("data") == str(here / "data")
    assert absolute("/data/*") == "/data/*"
    assert absolute("~/data") == "/home/me/data"
    assert absolute("a*") == str(here / "a*")
    assert absolute("a?") == f"{tmp_path}/[[]1]/a?"
    assert expanded("~no_such_account/data") == Path("~no_such_account/data")
