"""Trainings by several processes, as users start them: what they leave, and what happens when one of them ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK, ROOT, Command, Completed, camtrain
from faults.compare import differences

SMALL = (
    *("dataset.train=48", "dataset.val=13", "dataset.image_size=32", "trainer.batch_size=12", "trainer.workers=1"),
    *("trainer.epochs=3", "trainer.device=cpu", "trainer.threads=1", *QUICK),
)

OWN_DATA = """
import os
import numpy as np
def make():
    if os.environ.get("RANK") == "1":
        raise RuntimeError("no such disk here")
    image = np.zeros((32, 32, 3), np.uint8)
    return [(image, number % 3) for number in range(24)], [(image, 0)]
"""


def check_ranks(*arguments: str) -> list[list[str]]:
    """Rows of the table of `scripts/check_ranks.py`."""
    command = [sys.executable, ROOT / "scripts" / "check_ranks.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()[1:]]


def test_two_processes_train_what_one_does() -> None:
    (row,) = check_ranks("default", "--ranks", "2", "--steps", "7")
    assert float(row[-2]) < 1e-9, row
    assert float(row[-1]) < 1e-6, row  # some figures are computed in float32


@pytest.mark.slow
def test_any_number_of_processes_trains_the_same_with_every_setting() -> None:
    rows = check_ranks()
    assert len(rows) == 8 * 3
    for row in rows:
        assert float(row[-2]) < 1e-9, row


def test_the_error_of_one_process_is_that_of_the_command(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mymodule.py").write_text(OWN_DATA)
    data = ("dataset=python", "dataset.source=mymodule:make", "dataset.image_size=32", "trainer.batch_size=6")
    done = command(*data, *QUICK, "trainer.processes=2", "trainer.epochs=1", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("camtrain: error: process 1 on ")
    assert line.endswith("RuntimeError: no such disk here")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trainer.processes=2", "trainer.batch_size=12"), "trainer.processes=2: torchrun has started 1; leave"),
        (("task=report", "runs=here"), "task=report runs in one process; start it without torchrun"),
        (("-m", "seed=0,1"), "a sweep starts its processes itself"),
    ],
)
def test_what_torchrun_cannot_start(run_command: Command, arguments: tuple[str, ...], said: str) -> None:
    of_torchrun = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = run_command(*SMALL, *arguments, **of_torchrun)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_batch_has_an_image_for_every_process(run_command: Command, tmp_path: Path) -> None:
    done = run_command(*SMALL, "trainer.processes=13")
    assert done.returncode == 2
    assert "trainer.processes=13: trainer.batch_size=12 leaves some without an image" in done.stderr
    assert not (tmp_path / "outputs").exists()


# ---- processes that are killed


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2")
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "camtrain", *arguments, f"hydra.run.dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=folder.parent,
    )


def children(parent: int) -> list[int]:
    lines = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(int(line.split()[0]) for line in lines[1:] if line.split()[1] == str(parent))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.faults
@pytest.mark.parametrize("moment", range(5))
def test_torchrun_starts_a_killed_training_again(moment: int, tmp_path: Path) -> None:
    arguments = (*SMALL, "trainer.checkpoint_every=1", "trainer.batch_size=4")
    whole = torchrun(tmp_path / "whole", *arguments)
    said, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, said
    broken = torchrun(tmp_path / "broken", *arguments)
    wait_for(tmp_path / "broken" / "checkpoint.safetensors", broken)
    time.sleep(random.Random(moment).uniform(0, 3))
    os.kill(children(broken.pid)[moment % 2], signal.SIGKILL)
    said, _ = broken.communicate(timeout=600)
    assert broken.returncode == 0, said
    assert "goes on" in said
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


@pytest.mark.faults
def test_a_killed_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    steps = ("trainer.max_steps=10", "trainer.epochs=20", "trainer.checkpoint_every=1")
    started = (*SMALL, "trainer.precision=float64", *steps)
    one = camtrain(*started, "hydra.run.dir=one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    run = subprocess.Popen(
        [sys.executable, "-m", "camtrain", *started, *("trainer.processes=2", "hydra.run.dir=other")],
        cwd=tmp_path,
        text=True,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for(tmp_path / "other" / "checkpoint.safetensors", run)
    os.kill(children(run.pid)[0], signal.SIGKILL)
    _, said = run.communicate(timeout=600)
    assert run.returncode == 4
    assert said.splitlines()[-1].startswith("camtrain: error: another process of the training has ended; go on with")
    resumed: Completed = camtrain("task=resume", "run=other", "trainer.processes=3", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "trainer.processes" in resumed.stdout + resumed.stderr
    from scripts.check_ranks import largest, outcome

    assert largest(outcome(tmp_path / "one")[0], outcome(tmp_path / "other")[0]) < 1e-9
