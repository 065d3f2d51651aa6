"""Searches by Optuna: what is asked, what is told, and what goes on after an interruption."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import BASIC, QUICK, TINY, Command, FinishedRun
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_sweeps import OWN, jobs_of

from camtrain.config.options import Objective
from camtrain.errors import MachineError, UserError
from camtrain.sweeps.optimise import Optuna
from camtrain.sweeps.record import objective

optuna = pytest.importorskip("optuna", reason="needs the extra camtrain[optuna]")

BOTH = [Objective.accuracy, Objective.gain]

Found = Callable[[dict[str, float]], Any]


class Told:
    """A launcher that trains nothing: it writes down what is asked for, and answers with what a function finds."""

    def __init__(self, found: Found) -> None:
        self.found, self.asked = found, dict[int, list[str]]()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        self.asked |= dict(enumerate(map(list, job_overrides), initial_job_idx))
        values = [dict(text.split("=") for text in one) for one in job_overrides]
        return [SimpleNamespace(return_value=self.found({k: float(v) for k, v in one.items()})) for one in values]


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., dict[int, list[str]]]:
    """What trials of a search are asked for, by number."""

    def carry_out(
        found: Found,
        trials: int,
        *settings: str,
        jobs: int = 1,
        folder: str = "here",
        objectives: Any = BOTH,
        sampler: str = "TPESampler",
    ) -> dict[int, list[str]]:
        sweeper = Optuna(trials, sampler, 0)
        sweeper.optuna, sweeper.parser = optuna, OverridesParser.create()
        sweeper.jobs, sweeper.multirun = jobs, OmegaConf.create()
        sweeper.folder, sweeper.objectives = tmp_path / folder, objectives
        sweeper.carrier = told = Told(found)  # type: ignore[assignment]
        sweeper.sweep(list(settings))
        return told.asked

    return carry_out


def peaks(values: dict[str, float]) -> list[float]:
    """The first figure is best at x = 1, the second at x = 2: between them lies the front."""
    return [-((values["x"] - 1) ** 2), -((values["x"] - 2) ** 2)]


def test_the_front_lies_between_the_best_of_each(
    search: Callable[..., dict[int, list[str]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "camtrain"):
        asked = search(peaks, 16, "x=interval(-5,5)", "seed=3", jobs=4)
    assert list(asked) == list(range(16))
    assert all(one[0] == "seed=3" for one in asked.values())
    found = [float(one[1].partition("=")[2]) for one in asked.values()]
    assert all(-5 <= x <= 5 for x in found)
    said = [line for line in caplog.messages if line.startswith("#")]
    on_front = sorted(x for x in found if 1 <= x <= 2)
    assert on_front
    assert set(on_front) <= {float(line.rpartition("=")[2]) for line in said}
    study = optuna.load_study(study_name="camtrain", storage=f"sqlite:///{tmp_path / 'here' / 'optuna.db'}")
    assert len(study.trials) == 16


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupted_search_asks_what_it_would_have_asked(
    jobs: int, search: Callable[..., dict[int, list[str]]]
) -> None:
    """More trials than Optuna chooses by chance alone; two are not completed the first time."""
    settings = ("x=interval(-5,5)", "y=tag(log,interval(0.001,1))", "z=range(2,9,3)", "w=1,2")
    whole = search(peaks, 12, *settings, jobs=jobs, folder="whole")
    left = iter(range(10))

    def breaks_off(values: dict[str, float]) -> list[float]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return peaks(values)

    with pytest.raises(KeyboardInterrupt):
        search(breaks_off, 12, *settings, jobs=jobs)
    again = search(peaks, 12, *settings, jobs=jobs)
    assert again == whole
    values = {key: {one[at] for one in whole.values()} for at, key in enumerate("xyzw")}
    assert values["z"] <= {"z=2", "z=5", "z=8"}
    assert values["w"] == {"w=1", "w=2"}
    assert all(0.001 <= float(text[2:]) <= 1 for text in values["y"])


def test_what_was_not_completed_is_tried_again_and_what_is_not_defined_is_not(
    search: Callable[..., dict[int, list[str]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([None, [0.5, float("nan")], [0.5, 0.1]])
    search(lambda _: next(answers), 3, "x=interval(0,1)", jobs=3)
    assert "#1: accuracy 0.5, gain nan is not defined" in caplog.text
    study = optuna.load_study(study_name="camtrain", storage=f"sqlite:///{tmp_path / 'here' / 'optuna.db'}")
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL", "COMPLETE"]
    asked = search(lambda _: [0.7, 0.2], 3, "x=interval(0,1)")
    assert list(asked) == [0, 1, 2]  # all are asked for: the launcher leaves out what is complete
    assert [trial.values for trial in study.trials] == [[0.7, 0.2], None, [0.5, 0.1]]


def test_a_trial_that_was_only_half_made_is_made_whole(
    search: Callable[..., dict[int, list[str]]], tmp_path: Path
) -> None:
    search(peaks, 1, "x=interval(0,1)", "y=interval(0,1)")
    study = optuna.load_study(study_name="camtrain", storage=f"sqlite:///{tmp_path / 'here' / 'optuna.db'}")
    study.ask().suggest_float("x", 0, 1)
    asked = search(peaks, 2, "x=interval(0,1)", "y=interval(0,1)")
    assert [text[:2] for text in asked[1]] == ["x=", "y="]


@pytest.mark.parametrize(
    ("settings", "objectives", "said"),
    [
        (["x=interval(0,2)"], BOTH, r"here: a search goes on with its own settings; x was .*1\.0.* is .*2\.0"),
        (["x=interval(0,1)"], BOTH[:1], "objectives was accuracy, gain, is accuracy"),
        (["x=1"], BOTH, "nothing to search"),
        (["x=tag(log,interval(0,1))"], BOTH, r"x=tag\(log,interval\(0,1\)\): "),
    ],
)
def test_what_cannot_be_searched(
    settings: list[str], objectives: Any, said: str, search: Callable[..., dict[int, list[str]]]
) -> None:
    search(peaks, 1, "x=interval(0,1)")
    with pytest.raises(UserError, match=said):
        search(peaks, 2, *settings, objectives=objectives)


@pytest.mark.parametrize(
    ("trials", "sampler", "seed", "said"),
    [
        (2, "GridSampler", 0, r"hydra\.sweeper\.sampler=GridSampler: .*search_space"),
        (2, "nsgaii", 0, r"hydra\.sweeper\.sampler=nsgaii: "),
        (2, None, 0, r"hydra\.sweeper\.sampler=None: no such class"),
        (2, "TPESampler", None, r"hydra\.sweeper\.seed=None: give a whole number"),
        (2, "TPESampler", -1, r"hydra\.sweeper\.seed=-1: give a whole number"),
        (2, "TPESampler", 2**32, r"hydra\.sweeper\.sampler=TPESampler: Seed must be"),
        ("abc", "TPESampler", 0, r"hydra\.sweeper\.n_trials=abc: give a whole number"),
        (0, "TPESampler", 0, r"hydra\.sweeper\.n_trials=0: give a whole number"),
    ],
)
def test_no_search_can_be_made_with(trials: Any, sampler: Any, seed: Any, said: str) -> None:
    sweeper = Optuna(trials, sampler, seed)
    sweeper.optuna = optuna
    with pytest.raises(UserError, match=said):
        sweeper.check()


@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
def test_a_sampler_that_refuses_the_settings(search: Callable[..., dict[int, list[str]]]) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler=BruteForceSampler: .*step must be given"):
        search(peaks, 2, "x=interval(0,1)", sampler="BruteForceSampler")


def test_a_study_that_cannot_be_written_any_more(search: Callable[..., dict[int, list[str]]], tmp_path: Path) -> None:
    """Locked by another process; a full disk is told of in the same way. What was not told is told the next time."""
    others = []

    def locks(_: dict[str, float]) -> list[float]:
        others.append(sqlite3.connect(tmp_path / "here" / "optuna.db", isolation_level=None))
        others[0].execute("BEGIN EXCLUSIVE")
        return [0.5, 0.1]

    with pytest.raises(MachineError, match=r"optuna\.db: database is locked; mend that"):
        search(locks, 2, "x=interval(0,1)")
    others[0].close()
    assert list(search(peaks, 2, "x=interval(0,1)")) == [0, 1]


def test_figures_of_a_run(fake_run: FinishedRun, tmp_path: Path) -> None:
    result = json.loads((fake_run.folder / "result.json").read_text())
    treatment = result["arms"]["regularised"]["final"]
    gain = treatment["cam/energy_in_mask"] - result["control"]["final"]["cam/energy_in_mask"]
    assert objective(fake_run.folder, BOTH) == [treatment["accuracy/val"], gain]
    assert objective(fake_run.folder, BOTH[1:]) == gain
    assert objective(tmp_path, BOTH) is None


def test_a_search_in_this_process(tmp_path: Path, run_command: Command) -> None:
    """Also by a launcher that is not ours."""
    arguments = (
        "-m",
        "hydra/sweeper=optuna",
        BASIC,
        *TINY,
        *QUICK,
        "trainer.max_steps=1",
        "cam.share=interval(0.2,0.5)",
    )
    done = run_command(*arguments, "hydra.sweeper.n_trials=2", "hydra.sweep.dir=here")
    assert done.returncode == 0, done.stderr
    assert "of 2 trials that none other beats in accuracy" in done.stdout
    assert (tmp_path / "here" / "1" / "result.json").exists()


@pytest.mark.slow
def test_a_search_that_is_interrupted_goes_on(tmp_path: Path, command: Command) -> None:
    small = (*TINY, *QUICK, "dataset.image_size=32", "trainer.threads=1", "sweep.objectives=[accuracy,gain]")
    arguments = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=8", *small, "sweep.jobs=2"]
    arguments += ["cam.share=interval(0.2,0.5)", "cam.term=entropy,area", "hydra.sweep.dir=here"]
    environment = {**os.environ, **OWN}
    process = subprocess.Popen([sys.executable, "-m", "camtrain", *arguments], cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "here" / "3" / "camtrain.log").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    finally:
        process.kill()
    first = jobs_of(tmp_path / "here", "status", "overrides")
    assert [status for status, _ in first[:2]] == ["completed"] * 2
    done = command(*arguments, "resume=auto", **OWN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": is complete") == 2
    jobs = jobs_of(tmp_path / "here", "status", "overrides")
    assert [status for status, _ in jobs] == ["completed"] * 8
    assert [overrides for _, overrides in jobs[:4]] == [overrides for _, overrides in first]
    assert len(list((tmp_path / "here" / "baselines").glob("*.safetensors"))) == 2  # one for each term
    report = command(*shlex.split("task=report runs=here hydra.run.dir=compared"))
    assert report.returncode == 0, report.stderr
    assert "the sharpened baseline (higher is better)" in (tmp_path / "compared" / "report.html").read_text()
