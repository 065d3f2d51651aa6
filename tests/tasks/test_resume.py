"""Which run goes on, and what may be another when it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import QUICK, TINY, Command, FinishedRun, finish
from faults.compare import differences

from camtrain.report.console import counted
from camtrain.runs import lock
from camtrain.tasks.train import Saving
from camtrain.training.checkpoint import CHECKPOINT, FORMER

PARTED = ("trainer.fork=1", "cam.anchor=0.5", "cam.balance=image", "+arms.area.cam.term=area")

STEPS = 4
"""Of an epoch."""

SHORT = (*TINY, *QUICK, "trainer.threads=1", "trainer.epochs=2")


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finish(tmp_path_factory, "short", *SHORT)


@pytest.fixture
def run(short_run: FinishedRun, tmp_path: Path) -> Path:
    """A complete run where a command puts its runs."""
    return Path(shutil.copytree(short_run.folder, tmp_path / "outputs" / "runs" / "first"))


def mark(run: Path, status: str) -> None:
    tree = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**tree, "status": status}))


def test_a_complete_run_has_nothing_left_to_do(run: Path, run_command: Command) -> None:
    before = (run / "result.json").read_bytes()
    for arguments in (("task=resume", f"run={run}"), (*SHORT, f"hydra.run.dir={run}", "resume=auto")):
        done = run_command(*arguments)
        assert done.returncode == 0, done.stderr
        assert "the run is complete, nothing is left to do" in done.stdout
    assert (run / "result.json").read_bytes() == before
    assert list((run.parent).iterdir()) == [run]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pages that would be opened in the browser."""
    pages: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda page: pages.append(page) or True)
    return pages


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_the_newest_run_of_the_same_settings_goes_on(
    status: str, run: Path, run_command: Command, shown: list[str]
) -> None:
    """Of those that tell one run from another: not when checkpoints are written, or what is done with the report."""
    mark(run, status)
    step = json.loads((run / "result.json").read_text())["timing"]["step"]
    done = run_command(*SHORT, "resume=auto", "trainer.checkpoint_every=null", "report.open=true")
    assert done.returncode == 0, done.stderr
    assert "goes on   after 2 epochs and 0 steps" in done.stdout
    assert list(run.parent.iterdir()) == [run]
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["timing"]["step"]) == ("completed", step)
    assert shown == [(run / "report.html").as_uri()]


def test_a_folder_beside_that_holds_no_run_does_no_harm(run: Path, run_command: Command) -> None:
    (run / "result.json").write_text("[" * 100_000)
    done = run_command(*SHORT, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert len(list(run.parent.iterdir())) == 2


def test_a_run_of_other_settings_or_at_work_does_not(run: Path, run_command: Command) -> None:
    mark(run, "interrupted")
    with lock.held(run):
        assert run_command(*SHORT, "resume=auto").returncode == 0
    assert len(list(run.parent.iterdir())) == 2
    assert run_command(*SHORT, "resume=auto", "seed=1").returncode == 0
    assert len(list(run.parent.iterdir())) == 3
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"


def test_other_settings_are_refused_by_name(run: Path, run_command: Command) -> None:
    mark(run, "interrupted")
    before = (run / "result.json").read_bytes()
    done = run_command(*SHORT, f"hydra.run.dir={run}", "resume=auto", "seed=1", "cam.share=0.3", "trainer.epochs=3")
    assert done.returncode == 2
    for said in ("cam.share was null, is 0.3", "seed was 0, is 1", "(task=resume may raise trainer.epochs)"):
        assert said in done.stderr
    assert run_command("task=resume", f"run={run}", "seed=1").returncode == 2
    assert (run / "result.json").read_bytes() == before


def test_settings_of_the_machine_may_change_and_are_said(run: Path, run_command: Command, shown: list[str]) -> None:
    mark(run, "interrupted")
    done = run_command("task=resume", f"run={run}", "trainer.threads=2", "dataset.cache=null", "report.open=true")
    assert done.returncode == 0, done.stderr
    assert len(shown) == 1
    for said in ("trainer.threads was 1, is 2", "dataset.cache was auto, is null", "figures may differ by rounding"):
        assert said in done.stdout


def test_a_run_can_become_longer_and_not_shorter(run: Path, run_command: Command) -> None:
    done = run_command("task=resume", f"run={run}", "trainer.epochs=3")
    assert done.returncode == 0, done.stderr
    assert "no longer the run that it was" in done.stdout
    result = json.loads((run / "result.json").read_text())
    assert (result["config"]["trainer"]["epochs"], len(result["arms"]["baseline"]["epochs"])) == (3, 3)
    done = run_command("task=resume", f"run={run}", "trainer.epochs=2")
    assert done.returncode == 2
    assert "it may become longer, not shorter" in done.stderr


def test_a_complete_run_without_its_checkpoint_is_not_begun_anew(run: Path, run_command: Command) -> None:
    for name in (CHECKPOINT, FORMER):
        (run / name).unlink()
    before = (run / "baseline" / "weights.pt").read_bytes()
    done = run_command("task=resume", f"run={run}", "trainer.epochs=3")
    assert done.returncode == 2
    assert f"{CHECKPOINT}: it is not there any more" in done.stderr
    assert (run / "baseline" / "weights.pt").read_bytes() == before


@pytest.mark.parametrize("status", ["interrupted", "completed"])
def test_other_images_are_refused(status: str, run: Path, run_command: Command) -> None:
    mark(run, status)
    tree = json.loads((run / "result.json").read_text())
    tree["data"]["fingerprint"] = "another"
    (run / "result.json").write_text(json.dumps(tree))
    done = run_command("task=resume", f"run={run}")
    assert done.returncode == 2
    assert "the images are not those that the run was trained on" in done.stderr


def test_what_cannot_go_on(run: Path, run_command: Command) -> None:
    mark(run, "diverged")
    done = run_command("task=resume", f"run={run}")
    assert done.returncode == 3
    assert "train it again with a lower optim.lr" in done.stderr
    (run / "result.json").unlink()
    assert "no run had begun here" in run_command("task=resume", f"run={run}").stderr
    assert run_command("task=resume", "run=nowhere").returncode == 2


@pytest.mark.parametrize("value", ["0", "-5", "ten", "0min", "[5,5]", "[1min,2min]", "1.5"])
def test_how_often_is_a_number_of_steps_or_minutes(value: str, run_command: Command) -> None:
    done = run_command(*SHORT, f"trainer.checkpoint_every={value}")
    assert done.returncode == 2
    assert "trainer.checkpoint_every=" in done.stderr
    assert "give a number of steps, minutes such as 10min" in done.stderr


@pytest.fixture(scope="session")
def parted_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finish(tmp_path_factory, "parted", *SHORT, *PARTED, "trainer.epochs=3")


def epochs_of(run: Path, arm: str) -> list[dict[str, float]]:
    """Of a finished run, without times."""
    rows = json.loads((run / "result.json").read_text())["arms"][arm]["epochs"]
    return [{tag: value for tag, value in row.items() if not tag.startswith("time/")} for row in rows]


def weights_of(run: Path, arm: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / arm / "weights.pt", weights_only=True)
    return found


def test_the_first_arm_does_not_know_of_the_fork(
    short_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parted = finish(tmp_path_factory, "parted early", *SHORT, *PARTED).folder
    ours, plain = (weights_of(run, "baseline") for run in (parted, short_run.folder))
    assert all(torch.equal(ours[name], value) for name, value in plain.items())
    assert epochs_of(parted, "baseline") == epochs_of(short_run.folder, "baseline")


def test_until_the_fork_arms_are_one_and_take_no_time(parted_run: FinishedRun) -> None:
    result = json.loads((parted_run.folder / "result.json").read_text())
    first, *others = result["arms"]
    assert others == ["regularised", "area"]
    for number in range(3):
        rows = [result["arms"][arm]["epochs"][number] for arm in (first, *others)]
        assert all(("time/step" in row) == (number > 0) for row in rows)
        # What is measured against the last epoch's maps is known only at the end.
        trained = [{tag: row[tag] for tag in row if tag.startswith(("cam/", "loss/", "acc"))} for row in rows]
        assert (trained[0] == trained[1]) == (trained[0] == trained[2]) == (number == 0)
        assert all(("loss/anchor" in row) == (number > 0) for row in rows[1:])
        assert "loss/anchor" not in rows[0]
    assert set(result["timing"]["step"]) == {first, *others}


@pytest.mark.parametrize("steps", [2, STEPS, STEPS + 1, 2 * STEPS + 1])
def test_a_run_that_broke_off_around_the_fork_goes_on_as_if_it_had_not(
    steps: int, parted_run: FinishedRun, tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it, in the moment after all arms became one network, and behind it."""
    name = "save" if steps == STEPS else "after_step"
    plain = getattr(Saving, name)

    def broken(saving: Saving) -> None:
        plain(saving)
        if saving.state.steps_done(STEPS) == steps:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Saving, name, broken)
        assert run_command(*SHORT, *PARTED, "trainer.epochs=3", f"hydra.run.dir={run}").returncode == 130
    done = run_command("task=resume", f"run={run}")
    assert done.returncode == 0, done.stderr
    done_before = f"{counted(steps // STEPS, 'epoch')} and {counted(steps % STEPS, 'step')}"
    assert f"goes on   after {done_before}" in done.stdout
    assert differences(parted_run.folder, run) == []


def test_where_the_one_network_diverges_all_arms_do(run_command: Command, tmp_path: Path) -> None:
    done = run_command(*SHORT, *PARTED, "optim.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 3, done.stderr
    assert "lower optim.lr (1e+30)" in done.stderr
    assert done.stderr.count("the baseline arm's") == 1
    assert "regularised" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("trainer.fork=2",), "trainer.fork=2 leaves no epoch in which arms differ: it must be below trainer.epochs"),
        (("trainer.fork=0",), "trainer.fork=0 is out of range: it must be at least 1"),
        (("trainer.fork=1", "trainer.max_steps=3"), "trainer.max_steps=3 ends training before arms part"),
        (("trainer.fork=1", "arms.baseline.cam.weight=0.1"), "must be plain: set arms.baseline.cam.weight=0"),
        (("cam.anchor=0.5",), "arms.regularised.cam.anchor=0.5 needs the network of an epoch to hold on to"),
        (("trainer.fork=1", "cam.anchor=-1"), "cam.anchor=-1 is out of range: it must be at least 0"),
    ],
)
def test_what_cannot_fork_is_said_in_a_line(wrong: tuple[str, ...], said: str, run_command: Command) -> None:
    done = run_command(*SHORT, *wrong)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_that_was_killed_before_it_began_is_to_be_given_again(run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "camtrain.log").touch()
    done = run_command("task=resume", "run=killed")
    assert done.returncode == 2
    assert "no run had begun here, there is no result.json; give the command of the run again" in done.stderr
