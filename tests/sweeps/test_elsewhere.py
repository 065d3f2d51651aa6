"""Sweeps by other launchers: the same jobs, faults and records as by our own."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import QUICK, TINY, Command
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from test_sweeps import FAULTY, OWN, jobs_of

from camtrain.errors import CRASHED, UserError
from camtrain.importing import optional
from camtrain.sweeps import elsewhere, submitted
from camtrain.sweeps.elsewhere import Carried, going_on
from camtrain.sweeps.on_ray import Task
from camtrain.sweeps.process import Child
from camtrain.sweeps.submitted import Submitted

SMALL = ("dataset.image_size=32", "trainer.threads=1")

SUBMITIT = pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="needs the extra camtrain[slurm]")
RAY = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs the extra camtrain[ray]")
SLURM = pytest.mark.skipif(not shutil.which("sbatch"), reason="there is no SLURM here")

LAUNCHERS = [
    pytest.param(["hydra/launcher=submitit_local", "sweep.jobs=2"], marks=SUBMITIT, id="submitit_local"),
    pytest.param(["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"], marks=RAY, id="ray"),
    pytest.param(["hydra/launcher=submitit_slurm"], marks=[SUBMITIT, SLURM], id="submitit_slurm"),
]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_that_end_badly_leave_the_others_alone_and_go_on(
    launcher: list[str], tmp_path: Path, command: Command
) -> None:
    faults = ("-m", *launcher, *FAULTY, *SMALL, "+model.options.fault=none,raise,exit,kill,no,nothing")
    (tmp_path / "marker").touch()
    first = command(*faults, "hydra.sweep.dir=here", **OWN)
    assert first.returncode == 1, first.stderr
    assert jobs_of(tmp_path / "here", "number", "status", "reason") == [
        (0, "completed", None),
        (1, "failed", "RuntimeError: the fault"),
        (2, "failed", "exit code 1"),
        (3, "failed", "ended by SIGKILL"),
        (4, "completed", None),
        (5, "completed", None),
    ]
    assert [line.split()[0] for line in first.stdout.splitlines() if "> " in line[-60:]][-3:] == ["0:", "4:", "5:"]
    (tmp_path / "marker").unlink()
    again = command(*shlex.split(first.stderr.splitlines()[-1].partition("go on with camtrain ")[2]), **OWN)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": is complete") == 3
    assert set(jobs_of(tmp_path / "here", "status")) == {"completed"}
    report = command("task=report", "runs=here", "hydra.run.dir=compared", **OWN)
    assert report.returncode == 0, report.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_share_a_baseline(launcher: list[str], tmp_path: Path, command: Command) -> None:
    done = command("-m", *launcher, *TINY, *QUICK, *SMALL, "cam.share=0.2,0.4", "hydra.sweep.dir=here", **OWN)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here" / "baselines").glob("*.safetensors"))) == 1
    texts = [(tmp_path / "here" / number / "result.json").read_text() for number in "01"]
    assert sorted('"reference_from"' in text for text in texts) == [False, True]


def waiting(tmp_path: Path, *launcher: str) -> subprocess.Popen[str]:
    """A sweep of one job that has begun to train, which it does not end by itself; behaves as at a terminal."""
    (tmp_path / "marker").touch()
    arguments = ["-m", *launcher, *FAULTY, *SMALL, "trainer.epochs=9", "+model.options.fault=wait"]
    process = subprocess.Popen(
        [sys.executable, "-m", "camtrain", *arguments, "hydra.sweep.dir=here"],
        cwd=tmp_path,
        env={**os.environ, **OWN},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        process_group=0,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_stops_the_job_with_a_checkpoint(launcher: list[str], number: signal.Signals, tmp_path: Path) -> None:
    with waiting(tmp_path, *launcher) as process:
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert jobs_of(tmp_path / "here", "status", "reason") == [("interrupted", f"stopped by {number.name}")]
    assert '"status": "interrupted"' in (tmp_path / "here" / "0" / "result.json").read_text()
    assert (tmp_path / "here" / "0" / "checkpoint.safetensors").exists()
    assert "Traceback" not in errors


@pytest.mark.slow
@SUBMITIT
def test_a_worker_that_is_killed_is_a_job_that_failed(tmp_path: Path) -> None:
    with waiting(tmp_path, "hydra/launcher=submitit_local") as process:
        (pickled,) = (tmp_path / "here" / ".submitit").glob("*_submitted.pkl")
        controller = pickled.name.partition("_")[0]
        (worker,) = Path("/proc", controller, "task", controller, "children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        (tmp_path / "marker").unlink()  # what it had started goes on to its end
        process.communicate(timeout=120)
    assert process.returncode == CRASHED
    ((status, reason),) = jobs_of(tmp_path / "here", "status", "reason")
    assert (status, reason.partition(" (")[0]) == ("failed", "ended without a result")
    deadline = time.monotonic() + 240
    result = tmp_path / "here" / "0" / "result.json"
    while '"status": "completed"' not in result.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.mark.slow
@SUBMITIT
def test_a_job_whose_time_is_over_goes_on(tmp_path: Path) -> None:
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    with waiting(tmp_path, "hydra/launcher=submitit_local", *limit) as process:
        deadline = time.monotonic() + 240
        said = ""
        while "Requeued" not in said and time.monotonic() < deadline:
            time.sleep(0.2)
            said = "".join(path.read_text() for path in (tmp_path / "here" / ".submitit").glob("*_log.out"))
        (tmp_path / "marker").unlink()
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert jobs_of(tmp_path / "here", "status", "exit_code") == [("completed", 0)]
    assert "goes on   after " in (tmp_path / "here" / "0" / "camtrain.log").read_text()


class Process:
    """One that ends when it is interrupted."""

    def __init__(self, got: list[int]) -> None:
        self.got = got

    def send_signal(self, number: int) -> None:
        self.got.append(number)

    def poll(self) -> int | None:
        return 130 if self.got else None


def test_several_who_ask_for_the_end_are_one_signal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """submitit's, the terminal's and the batch system's: a second one would end it without a checkpoint."""
    pytest.importorskip("submitit", reason="needs the extra camtrain[slurm]")
    got: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *elsewhere.OF_ALL)}

    def start(child: Child, arguments: Sequence[str], environment: Mapping[str, str]) -> None:  # noqa: ARG001
        assert {signal.getsignal(number) for number in elsewhere.OF_ALL} == {signal.SIG_IGN}
        child.process = Process(got)  # type: ignore[assignment]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Child, "start", start)
    monkeypatch.chdir(tmp_path)
    job = Carried(["seed=1", "resume=null"], {}, str(tmp_path))
    try:
        assert job() == 130
        signal.raise_signal(signal.SIGTERM)
        again = job.checkpoint()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert got == [signal.SIGINT]
    assert again.function == Carried(["seed=1", "resume=auto"], {}, str(tmp_path))


def test_a_job_that_slurm_queued_again_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(Child, "start", lambda _, arguments, __: asked.append(arguments))
    monkeypatch.setattr(Child, "code", lambda _: 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for count in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        assert Carried(["seed=1"], {}, str(tmp_path))() == 0
    assert asked == [["seed=1"], ["seed=1", "resume=auto"]]
    assert going_on(["resume=auto", "a=b"]) == ["a=b", "resume=auto"]


class Gone:
    """A job whose worker is gone."""

    job_id = "1"

    def __init__(self, folder: Path) -> None:
        self.paths = SimpleNamespace(result_pickle=folder / "1.pkl", stderr=Path("1.err"))

    def done(self) -> bool:
        return True

    def result(self) -> int:
        raise RuntimeError("Job 1 has\nno result")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_job_without_a_result_has_failed(damaged: bool, tmp_path: Path) -> None:
    if damaged:
        (tmp_path / "1.pkl").touch()
    child = Submitted(SimpleNamespace(submit=lambda _: Gone(tmp_path)), "local")
    child.start([], {})
    assert (child.code(), child.code(), child.lost) == (CRASHED, CRASHED, "ended without a result (1.err)")


@pytest.mark.parametrize(
    ("script", "codes"),
    [
        ("echo 1 main camtrain", [None, None, None]),
        ("true", [None, CRASHED, CRASHED]),  # it has ended; the result may be on its way
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", [None, CRASHED, CRASHED]),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", [None, None, None]),
    ],
)
def test_a_job_that_slurm_no_longer_knows(
    script: str, codes: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(submitted, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(submitted, "ASK_EVERY", 0.0)
    child = Submitted(SimpleNamespace(submit=lambda _: Gone(tmp_path)), "slurm")
    child.start([], {})
    assert [child.code() for _ in codes] == codes
    (tmp_path / "1.pkl").touch()
    monkeypatch.setattr(Gone, "result", lambda _: 3)
    assert child.code() == (codes[-1] or 3)  # what was said once stays


def test_a_signal_before_a_job_is_handed_over_is_not_lost() -> None:
    cancelled: list[Any] = []
    ray = SimpleNamespace(cancel=cancelled.append, wait=lambda *_, **__: ([], []))
    child = Task(ray, SimpleNamespace(remote=lambda job: job))
    child.signal(signal.SIGINT)
    assert not cancelled
    child.start(["seed=1"], {"A": "b"})
    assert cancelled == [Carried(["seed=1"], {"A": "b"}, str(Path.cwd()))]
    child.signal(signal.SIGSTOP)  # Ctrl-Z is no end
    assert len(cancelled) == 1
    assert child.code() is None


def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path, run_command: Command) -> None:
    with pytest.raises(
        UserError, match=r"hydra/launcher=x: nowhere_at_all is not installed; pip install 'camtrain\[y\]'"
    ):
        optional("nowhere_at_all", "hydra/launcher=x", extra="y")
    for choice in ("launcher=dask", "sweeper=ax"):
        done = run_command("-m", f"hydra/{choice}", *TINY, "seed=0,1")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"camtrain: error: hydra/{choice}: no such choice; choose one of basic, ")
    assert not (tmp_path / "outputs").exists()


def test_our_choices_stand_beside_those_of_hydras_plugins(run_command: Command) -> None:
    store = ConfigStore.instance()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(store.repo["hydra"], "launcher", dict(store.repo["hydra"].get("launcher", {})))
        theirs = {"_target_": "hydra_plugins.theirs.Launcher", "timeout_min": 60}
        store.store(group="hydra/launcher", name="submitit_local", node=OmegaConf.create(theirs), provider="theirs")
        done = run_command("hydra/launcher=submitit_local", "--cfg", "hydra")
    assert done.returncode == 0, done.stderr
    assert "    cluster: local\n" in done.stdout


@SUBMITIT
@pytest.mark.skipif(bool(shutil.which("srun")), reason="there is SLURM here")
def test_where_there_is_no_batch_system(tmp_path: Path, run_command: Command) -> None:
    done = run_command("-m", "hydra/launcher=submitit_slurm", *TINY, "seed=0,1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("camtrain: error: hydra/launcher=submitit_slurm: Could not detect")
    assert not (tmp_path / "outputs").exists()
