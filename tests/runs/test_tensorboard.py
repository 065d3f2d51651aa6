"""TensorBoard's writers."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from camtrain.errors import UserError
from camtrain.runs.tensorboard import Board, check_name


def test_a_full_disk_in_a_writers_thread_is_raised_and_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_writer: object, _data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write() -> None:
        with Board(tmp_path, ["baseline", "regularised"]) as board:
            monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
            board.scalars({"baseline": {"loss": 1.0}, "regularised": {"loss": 1.0}}, 1)

    with pytest.raises(OSError, match="No space left"):
        write()
    assert capsys.readouterr().err == ""


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\n")
    with Board(tmp_path, ["baseline"]) as board:
        board.hparams({"dataset.root": odd}, {"baseline": {}})
    with pytest.raises(UserError, match="not UTF-8"):
        check_name(tmp_path / odd)
