"""TensorBoard's writers."""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from camtrain.errors import UserError
from camtrain.runs.tensorboard import Board, check_name

NONE_YET: dict[str, list[dict[str, float]]] = {"baseline": [], "regularised": []}


def test_without_room_for_its_files_everything_else_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(_writer: object, _data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Board(tmp_path, NONE_YET) as board:
        monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
        for epoch in (1, 2, 3):
            board.scalars({"baseline": {"loss": 1.0}, "regularised": {"loss": 1.0}}, epoch)
            board.text("config", "x")
    assert [record.message for record in caplog.records] == [
        f"Note: {tmp_path}: No space left on device; TensorBoard shows no more of this run"
    ]
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tb").write_text("a file")
    with Board(tmp_path / "tb", NONE_YET) as board:
        board.scalars({"baseline": {"loss": 1.0}}, 1)
    assert len(caplog.records) == 1


def events(folder: Path) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Steps of every figure and every image, each time that it is there."""
    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0}, purge_orphaned_data=False)
    found.Reload()
    return (
        {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]},
        {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]},
    )


@pytest.mark.parametrize("cut", [0, 1, 50, 200])
def test_where_a_run_goes_on_no_step_is_doubled_or_missing(cut: int, tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    rows: list[dict[str, float]] = [{"loss": 1.0}, {"loss": 0.5}]
    with Board(tmp_path, NONE_YET) as board:
        for epoch in (1, 2, 3):
            board.strips("regularised", [image, image], epoch)
            board.scalars({"baseline": {"loss": 1.0 / epoch}, "regularised": {"loss": 1.0 / epoch}}, epoch)
    for arm in NONE_YET:
        (path,) = (tmp_path / arm).iterdir()
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    for _ in range(2):  # it breaks off once more
        with Board(tmp_path, {"baseline": rows, "regularised": rows}) as board:
            board.scalars({"baseline": {"loss": 0.3}, "regularised": {"loss": 0.3}}, 3)
    assert events(tmp_path / "baseline") == ({"loss": [1, 2, 3]}, {})
    kept = {"maps/00": [1, 2], "maps/01": [1, 2]}
    assert events(tmp_path / "regularised") == ({"loss": [1, 2, 3]}, kept)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\n")
    with Board(tmp_path, {"baseline": []}) as board:
        board.hparams({"dataset.root": odd}, {"baseline": {}})
    with pytest.raises(UserError, match="not UTF-8"):
        check_name(tmp_path / odd)


def test_images_are_in_the_file_before_anything_else_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed right then does not make them again: its checkpoint says that the epoch is done."""
    plain = RecordWriter.write

    def slow(writer: RecordWriter, data: bytes) -> None:
        time.sleep(0.1)
        plain(writer, data)

    monkeypatch.setattr(RecordWriter, "write", slow)
    with Board(tmp_path, NONE_YET) as board:
        board.strips("regularised", [np.zeros((4, 5, 3), np.uint8)] * 2, 1)
        assert events(tmp_path / "regularised")[1] == {"maps/00": [1], "maps/01": [1]}


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1])
def test_a_file_that_was_made_up_does_no_harm(length: int, tmp_path: Path) -> None:
    header = struct.pack("<Q", length)
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "events.out.tfevents.1").write_bytes(header + struct.pack("<I", masked_crc32c(header)))
    with Board(tmp_path, NONE_YET) as board:
        board.scalars({"baseline": {"loss": 1.0}}, 1)
    assert events(tmp_path / "baseline") == ({"loss": [1]}, {})
