"""Sweeps whose jobs are processes: faults of a job, what is left of it, and a sweep that goes on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import BASIC, QUICK, ROOT, SWEPT, TINY, Command, FinishedRun, in_process
from faults.compare import differences
from hydra.core.utils import JobReturn, JobStatus
from image_folders import write_noise
from omegaconf import OmegaConf

from camtrain.config.options import Task
from camtrain.interrupts import raised
from camtrain.sweeps import launcher
from camtrain.sweeps.launcher import Jobs, Planned, Processes, share_references
from camtrain.sweeps.process import Child, last_error, outcome
from camtrain.sweeps.record import Job, Sweep

FAULTY = (*TINY, *QUICK, "trainer.threads=1", "model.name=own_networks:faulty", "+model.options.marker=marker")

OWN = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])}


def jobs_of(sweep: Path, *what: str) -> list[Any]:
    """What `sweep.json` says of every job."""
    lines = json.loads((sweep / "sweep.json").read_text())
    return [tuple(line[name] for name in what) if len(what) > 1 else line[what[0]] for line in lines]


@pytest.mark.faults  # nine processes that import torch
@pytest.mark.parametrize("at_once", [1, 3])
def test_jobs_that_end_badly_leave_the_others_alone_and_go_on(at_once: int, tmp_path: Path, command: Command) -> None:
    faults = ("-m", *FAULTY, "+model.options.fault=none,raise,exit,kill,no,nothing", f"sweep.jobs={at_once}")
    (tmp_path / "marker").touch()
    first = command(*faults, "hydra.sweep.dir=here", **OWN)
    here = tmp_path / "here"
    assert first.returncode == 1, first.stderr
    assert jobs_of(here, "number", "status", "reason") == [
        (0, "completed", None),
        (1, "failed", "RuntimeError: the fault"),
        (2, "failed", "exit code 1"),
        (3, "failed", "ended by SIGKILL"),
        (4, "completed", None),
        (5, "completed", None),
    ]
    assert "RuntimeError: the fault" in (here / "1" / "camtrain.log").read_text()
    assert all(folder == str(here / str(number)) for number, folder in enumerate(jobs_of(here, "folder")))
    assert all(seconds > 0 for seconds in jobs_of(here, "seconds"))
    left = first.stderr.splitlines()[-1]
    assert left.startswith(
        f"camtrain: 3 of 6 jobs are not complete, see {here / 'sweep.json'}; go on with camtrain -m "
    )
    untouched = {number: (here / number / "result.json").stat().st_mtime_ns for number in "045"}

    (tmp_path / "marker").unlink()
    again = command(*shlex.split(left.partition("go on with camtrain ")[2]), **OWN)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": is complete") == 3
    assert again.stdout.count("goes on") == (3 if at_once == 1 else 0)  # side by side they print nothing
    assert set(jobs_of(here, "status")) == {"completed"}
    assert {number: (here / number / "result.json").stat().st_mtime_ns for number in "045"} == untouched
    assert [line.split()[0] for line in again.stdout.splitlines() if "> " in line[-60:]][-6:] == [
        f"{number}:" for number in range(6)
    ]

    undisturbed = in_process(*faults[:-1], BASIC, "hydra.sweep.dir=undisturbed", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for number in map(str, range(6)):
        assert not differences(here / number, tmp_path / "undisturbed" / number)


class Pretended(Child):
    """A process that ends after so many looks, by what its number says."""

    looks = (3, 1, 2, 2, 1, 1)
    begun: list[tuple[int, str | None]]  # numbers, and the device of each

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], quiet: bool = False) -> None:
        self.number, self.left, self.got = int(arguments[0]), self.looks[int(arguments[0])], list[int]()
        assert quiet
        self.begun.append((self.number, environment.get("CUDA_VISIBLE_DEVICES")))

    def signal(self, number: int) -> None:
        self.got.append(number)

    def code(self) -> int | None:
        self.left -= 1
        if self.left > 0 and not self.got:
            return None
        return 128 + self.got[0] if self.got else 2 * (self.number == 1)

    def stop(self) -> None:
        raise AssertionError("none is left")


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Planned]]:
    """Six jobs, three at once, of processes that are none; the first and the third have a baseline in common."""
    monkeypatch.setattr(launcher, "Child", Pretended)
    monkeypatch.setattr(launcher, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(launcher, "finals", lambda _: {"baseline": {}})
    monkeypatch.setattr(launcher, "objective", lambda *_: 1.0)
    monkeypatch.setattr(Pretended, "begun", [], raising=False)

    def launch(**settings: Any) -> list[Planned]:
        processes = Processes.__new__(Processes)
        processes.config = OmegaConf.create({"sweep": {"jobs": 3, "fail_fast": False, "objectives": [], **settings}})
        processes.jobs, processes.sweep, processes.compared = Jobs(lambda _: None, False), Sweep(tmp_path), {None}
        plans = [
            Planned(
                *(Job(number, [f"seed={number}"], str(tmp_path / str(number))), [str(number)]),
                *(tmp_path / str(number) / "camtrain.log", Task.train, None, None, reference, None),
                JobReturn(status=JobStatus.COMPLETED),
            )
            for number, reference in enumerate(["a", None, "a", "b", None, "c"])
        ]
        processes.sweep.jobs = [plan.job for plan in plans]
        try:
            processes.carry_out(plans)
        except launcher.FailedFast:
            assert settings["fail_fast"]
        return plans

    return launch


def test_jobs_run_side_by_side(launched: Callable[..., list[Planned]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    plans = launched()
    # The third waits for the baseline that the first one trains, as long as there is something else to do.
    assert [number for number, _ in Pretended.begun] == [0, 1, 3, 4, 5, 2]
    assert [device for _, device in Pretended.begun][:3] == ["4", "7", "4"]
    statuses = [plan.job.status for plan in plans]
    assert statuses == ["completed", "failed", "completed", "completed", "completed", "completed"]
    assert [plan.told.return_value for plan in plans] == [1.0, None, 1.0, 1.0, 1.0, 1.0]


def test_after_a_failure_none_is_begun_and_those_that_run_end(launched: Callable[..., list[Planned]]) -> None:
    plans = launched(fail_fast=True)
    assert [plan.job.status for plan in plans] == ["completed", "failed", "waiting", "completed", "waiting", "waiting"]


def test_a_signal_reaches_all_that_run(launched: Callable[..., list[Planned]], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Pretended, "looks", (9,) * 6)
    monkeypatch.setattr(launcher.time, "sleep", interrupted)
    with raised(), pytest.raises(KeyboardInterrupt):
        launched()
    assert len(Pretended.begun) == 3


def test_after_a_failure_the_others_wait_if_asked(tmp_path: Path, command: Command) -> None:
    layers = (*TINY, *QUICK, "trainer.max_steps=1", "model.layer=layer9,layer3")
    done = command("-m", *layers, "sweep.fail_fast=true", "hydra.sweep.dir=here", "hydra.job.name=other")
    assert done.returncode == 2
    said = "model.layer=layer9: small_resnet has no such layer"
    (first, reason), second = jobs_of(tmp_path / "here", "status", "reason")
    assert (first, second) == ("failed", ("waiting", None))
    assert reason.startswith(said)
    assert f"camtrain: error: {said}" in done.stderr
    assert said in (tmp_path / "here" / "0" / "other.log").read_text()
    assert not (tmp_path / "here" / "1").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.faults)])
def test_a_signal_stops_the_job_and_the_sweep(number: signal.Signals, tmp_path: Path, command: Command) -> None:
    """Ctrl-C at a terminal reaches the whole group of the command, `kill` one process."""
    (tmp_path / "marker").touch()
    arguments = ["-m", *FAULTY, "+model.options.fault=wait", "seed=0,1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "camtrain", *arguments],
        cwd=tmp_path,
        env={**os.environ, **OWN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        process_group=0,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "waits").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.terminate()
    assert process.returncode == 128 + number
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert jobs_of(sweep, "status", "reason") == [("interrupted", f"stopped by {number.name}"), ("waiting", None)]
    assert json.loads((sweep / "0" / "result.json").read_text())["status"] == "interrupted"
    assert "Traceback" not in errors
    goes_on = shlex.join(["camtrain", *arguments, "resume=auto", f"hydra.sweep.dir={sweep}"])
    assert errors.splitlines()[-1].endswith(f"; go on with {goes_on}")
    if number is signal.SIGTERM:
        (tmp_path / "marker").unlink()
        done = command(*shlex.split(goes_on)[1:], **OWN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("goes on") == 1
        assert jobs_of(sweep, "status") == ["completed", "completed"]


@pytest.mark.faults  # four processes that import torch
def test_jobs_that_have_a_baseline_in_common_train_it_once(tmp_path: Path, command: Command) -> None:
    swept = ("-m", *TINY, *QUICK, "trainer.threads=1", "cam.share=0.2,0.4", "seed=0,1")
    assert command(*swept, "hydra.sweep.dir=here").returncode == 0
    here = tmp_path / "here"
    assert len(list((here / "baselines").glob("*.safetensors"))) == 2
    results = [json.loads((here / str(number) / "result.json").read_text()) for number in range(4)]
    assert ["reference_from" in result for result in results] == [False, False, True, True]
    undisturbed = in_process(*swept, BASIC, "hydra.sweep.dir=undisturbed", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for number, result in enumerate(results):
        other = {"/reference_from", "report"} if "reference_from" in result else {"report"}
        found = set(differences(here / str(number), tmp_path / "undisturbed" / str(number)))
        assert found == {"/config/trainer/baselines", *other}


def test_which_jobs_share_a_baseline(tmp_path: Path) -> None:
    told = JobReturn()
    plans = [
        Planned(Job(number, [], ""), [], tmp_path, Task.train, None, None, reference, None, told)
        for number, reference in enumerate(["a", "b", None, "a", None])
    ]
    share_references(plans, tmp_path / "baselines")
    assert [bool(plan.arguments) for plan in plans] == [True, False, False, True, False]
    assert plans[0].arguments == [f'trainer.baselines="{tmp_path / "baselines"}"']


@pytest.fixture
def copied(sweep: FinishedRun, tmp_path: Path) -> Path:
    for number in "0123":
        (tmp_path / "here" / number).mkdir(parents=True)
        shutil.copy(sweep.folder / number / "result.json", tmp_path / "here" / number)
    shutil.copy(sweep.folder / "multirun.yaml", tmp_path / "here")
    return tmp_path / "here"


def test_what_is_complete_does_not_run_again(copied: Path, run_command: Command) -> None:
    done = run_command("-m", *SWEPT, "resume=auto", "hydra.sweep.dir=here", "trainer.workers=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": is complete\n") == 4
    assert jobs_of(copied, "status", "exit_code") == [("completed", 0)] * 4
    assert [list(copied.glob(f"{number}/*")) for number in range(4)] == [
        [copied / str(number) / "result.json"] for number in range(4)
    ]


def test_what_is_complete_counts_only_for_the_same_images(tmp_path: Path, run_command: Command) -> None:
    write_noise(tmp_path / "images")
    settings = ("dataset=folder", "dataset.root=images", "dataset.image_size=24", "trainer.max_steps=1", *QUICK)
    sweep = ("-m", *settings, "trainer.batch_size=4", "seed=0,1", "hydra.sweep.dir=here")
    assert run_command(*sweep, BASIC).returncode == 0
    done = run_command(*sweep, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": is complete\n") == 1  # once they have been looked at
    assert jobs_of(tmp_path / "here", "status", "exit_code") == [("completed", 0)] * 2

    before = {path: path.read_bytes() for path in (tmp_path / "here").glob("*/result.json")}
    first = next((tmp_path / "images" / "train").glob("*/*"))
    shutil.copy(first, first.with_stem("another"))
    done = run_command(*sweep, "resume=auto")
    assert done.returncode == 2
    assert [
        (status, reason.partition(": ")[2].partition(";")[0])
        for status, reason in jobs_of(tmp_path / "here", "status", "reason")
    ] == [("failed", "the images are not those that the run was trained on")] * 2
    assert {path: path.read_bytes() for path in before} == before


def test_folders_that_hold_something_else_are_refused(copied: Path, run_command: Command) -> None:
    cases = [
        (["hydra.sweep.dir=here"], f"{copied} already holds runs: go on with them by resume=auto, or choose another"),
        (["resume=auto"], "resume=auto: name the folder of the sweep that is to go on, hydra.sweep.dir=FOLDER"),
        (
            ["resume=auto", "hydra.sweep.dir=here", "cam.share=0.2", "dataset.flip=false"],
            f"{copied / '0'}: a run goes on with its own settings; dataset.flip was true, is false; cam.share was null",
        ),
    ]
    result = json.loads((copied / "3" / "result.json").read_text())
    before = {path: path.read_bytes() for path in copied.rglob("*.*") if path.is_file()}
    for more, said in cases:
        done = run_command("-m", *SWEPT, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"camtrain: error: {said}")
        assert {path: path.read_bytes() for path in before} == before
        assert not (copied / "sweep.json").exists()
    (copied / ".sweep.json.partial").symlink_to(copied / "3" / "result.json")
    done = run_command("-m", *SWEPT, "resume=auto", "hydra.sweep.dir=here")
    assert (done.returncode, "sweep.json.partial is a link" in done.stderr) == (2, True)
    (copied / ".sweep.json.partial").unlink()
    result["environment"]["camtrain"] = "0.0.1"
    (copied / "3" / "result.json").write_text(json.dumps(result))
    done = run_command("-m", *SWEPT, "resume=auto", "hydra.sweep.dir=here")
    assert (done.returncode, f"{copied / '3'} holds a run of camtrain 0.0.1, this is" in done.stderr) == (2, True)


def test_other_tasks(fake_run: FinishedRun, tmp_path: Path, command: Command) -> None:
    of_its_data = ("dataset.val=9", *QUICK, """hydra.sweep.dir='a b,c'""", "hydra.sweep.subdir=seed_${seed}")
    done = command("-m", "task=evaluate", f"run={fake_run.folder}", *of_its_data, "seed=3")
    assert done.returncode == 0, done.stderr
    (folder,) = jobs_of(tmp_path / "a b,c", "folder")
    result = json.loads((Path(folder) / "result.json").read_text())
    assert folder == str(tmp_path / "a b,c" / "seed_3")
    assert (result["status"], result["seed"], result["config"]["dataset"]["val"]) == ("completed", 3, 9)


def test_what_became_of_a_job() -> None:
    mistake = "time ERROR camtrain: error: what: where\n"
    assert outcome(0, [], True, "") == ("completed", None)
    assert outcome(0, [], False, "") == ("failed", "ended without an error before it was complete")
    assert outcome(0, [signal.SIGINT], True, "") == ("completed", None)
    assert outcome(-signal.SIGTERM, [signal.SIGTERM], False, "") == ("interrupted", "stopped by SIGTERM")
    assert outcome(143, [], False, "") == ("interrupted", "stopped by SIGTERM")
    assert outcome(-40, [], False, "") == ("failed", "ended by signal 40")
    assert outcome(2, [], False, mistake) == ("failed", "what: where")
    assert outcome(3, [], False, f"time INFO epoch\n{mistake}") == ("diverged", "what: where")
    crash = "time ERROR camtrain: unexpected error\nTraceback:\n  line\nValueError: first\nsecond\x1b\n\n"
    assert last_error(mistake + crash) == r"second\x1b"
    assert last_error("time ERROR an arm is trained no further\n") is None


def test_a_signal_that_comes_while_a_process_is_started_is_handed_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would end it without a checkpoint."""
    sent: list[int] = []
    child = Child()

    class Started:
        def __init__(self, *_: object, **__: object) -> None:
            child.signal(signal.SIGINT)

        def send_signal(self, number: int) -> None:
            sent.append(number)
            if len(sent) == 1:
                child.signal(signal.SIGTERM)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Started)
    child.start([], {})
    assert child.code() == 0
    assert sent == [signal.SIGINT, signal.SIGTERM]
