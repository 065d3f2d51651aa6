"""Runs that end by a fault: a process that forks them, and runs that nothing happened to."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import TINY, made_once

HERE = Path(__file__).resolve().parent

ONE_THREAD = "trainer.threads=1"


class Ended(NamedTuple):
    status: int  # exit code; negative: ended by a signal
    out: str  # what was printed

    @property
    def moments(self) -> int:
        """Of a run that was not killed."""
        return int(self.out.rpartition("moments: ")[2])


class Runs:
    """The command, forked from a process that has imported everything."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, cwd: Path, *arguments: str, fault: str = "", number: int = 0, limit: int = 0) -> Ended:
        out = cwd / "out.txt"
        asked = {
            "arguments": arguments,
            "cwd": str(cwd),
            "out": str(out),
            "fault": fault,
            "number": number,
            "limit": limit,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Ended(int(self.process.stdout.readline()), out.read_text(errors="backslashreplace"))


@contextlib.contextmanager
def served() -> Iterator[Runs]:
    root = HERE.parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, str(HERE / "moments.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Runs(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    with served() as found:
        yield found


class Undisturbed(NamedTuple):
    """A run that nothing happened to."""

    arguments: tuple[str, ...]
    folder: Path
    moments: int


@pytest.fixture(scope="session")
def undisturbed(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Undisturbed]:
    """The run of these arguments beside TINY, made once."""

    def find(name: str, *arguments: str) -> Undisturbed:
        whole = (*TINY, ONE_THREAD, "trainer.epochs=3", *arguments)

        def make(folder: Path) -> None:
            done = runs(folder, *whole, "hydra.run.dir=run")
            assert done.status == 0, done.out

        folder = made_once(tmp_path_factory, f"undisturbed {name}", make)
        return Undisturbed(whole, folder / "run", Ended(0, (folder / "out.txt").read_text()).moments)

    return find
