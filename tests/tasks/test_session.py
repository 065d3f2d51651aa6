"""The record of a run: its status, whatever ends the run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from runs.made import made_result

from camtrain.config.options import DatasetName
from camtrain.config.schema import Config, FakeConfig, ModelConfig
from camtrain.errors import UserError
from camtrain.tasks.session import RunRecord


def record(folder: Path) -> RunRecord:
    config = Config(dataset=FakeConfig(name=DatasetName.fake), model=ModelConfig(name="small_resnet"))
    return RunRecord(
        folder, made_result(config, {"baseline": {}, "regularised": {}}, {}), {"baseline": {}, "regularised": {}}
    )


def status(folder: Path) -> str:
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))["status"]
    assert isinstance(found, str)
    return found


def test_the_status_while_a_run_works_and_when_it_ends(tmp_path: Path) -> None:
    with record(tmp_path).running():
        assert status(tmp_path) == "running"
    assert status(tmp_path) == "completed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("unexpected pos"), "failed"),
        (UserError("diverged"), "failed"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_the_status_after_an_error(
    error: BaseException, expected: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def work() -> None:
        with record(tmp_path).running():
            sizes.append((tmp_path / "result.json").stat().st_size)
            if full:
                monkeypatch.setattr("camtrain.runs.result.write_text", no_room)
            raise error

    with pytest.raises(type(error)):
        work()
    assert status(tmp_path) == expected
    if full:
        assert (tmp_path / "result.json").stat().st_size <= sizes[0]


def test_an_error_that_a_library_made_of_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), record(tmp_path).running():
        unexpected_pos()
    assert status(tmp_path) == "interrupted"


def test_a_disk_that_is_full_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camtrain.runs.result.write_text", no_room)
    with pytest.raises(OSError, match="No space left"), record(tmp_path).running():
        pytest.fail("nothing is done")
    assert not list(tmp_path.iterdir())


def unexpected_pos() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("unexpected pos")


def no_room(path: Path, _text: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
