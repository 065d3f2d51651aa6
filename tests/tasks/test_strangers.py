"""Run folders that somebody else made: nothing in them is called, and nothing is read or written elsewhere."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK, TINY, Command, FinishedRun

from camtrain.errors import UserError
from camtrain.interface import load_run
from camtrain.packed import read_packed, write_packed
from camtrain.training.checkpoint import CHECKPOINT, FORMER

MODULE = """
from pathlib import Path
from camtrain.networks.small_resnet import SmallResNet

def make(num_classes, **options):
    Path("called").touch()
    return SmallResNet(num_classes)
"""

TASKS = {
    "evaluate": ("task=evaluate", "run=run", *QUICK),
    "explain": ("task=explain", "run=run", "images=run/pictures"),
    "resume": ("task=resume", "run=run"),
}


@pytest.fixture
def run(fake_run: FinishedRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fake_run.folder, tmp_path / "run"))


def change(run: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Something else in `result.json`."""
    tree = json.loads((run / "result.json").read_text())
    how(tree)
    (run / "result.json").write_text(json.dumps(tree))


def rename_arm(tree: dict[str, Any]) -> None:
    for arms in (tree["arms"], tree["config"]["arms"], *tree["wall"]):
        arms["../out"] = arms.pop("regularised")


@pytest.mark.parametrize("task", [*TASKS, "report"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda tree: tree["config"]["model"].update(weights="${oc.env:HOME}"), "an interpolation"),
        (lambda tree: tree["config"]["model"].update(options={"${oc.env:HOME}": 1}), "an interpolation"),
        (lambda tree: tree["arms"].update({"../out": tree["arms"].pop("regularised")}), "other arms"),
        (lambda tree: [part.update({"../out": {}}) for part in (tree["config"]["arms"],)], "other arms"),
        (rename_arm, "an arm is named in lower-case letters"),
        (lambda tree: tree["config"].update(trainer=[[]] * 5), "not what this camtrain writes"),
    ],
)
def test_what_does_not_belong_into_a_result(
    task: str, how: Callable[[dict[str, Any]], object], said: str, run: Path, run_command: Command
) -> None:
    change(run, how)
    done = run_command(*TASKS.get(task, ("task=report", "runs=run")))
    assert done.returncode == 2
    assert said in done.stderr
    assert {entry.name for entry in run.parent.iterdir()} <= {"run", "outputs"}


@pytest.mark.parametrize("task", TASKS)
def test_a_function_is_called_only_if_the_user_names_it(task: str, run: Path, run_command: Command) -> None:
    (run.parent / "odd.py").write_text(MODULE)
    change(run, lambda tree: tree["config"]["model"].update(name="odd:make"))
    change(run, lambda tree: tree.update(status="interrupted") if task == "resume" else None)
    done = run_command(*TASKS[task])
    assert done.returncode == 2
    assert "if it is yours, say so by repeating model.name=odd:make" in done.stderr
    assert not (run.parent / "called").exists()
    run_command(*TASKS[task], "model.name=odd:make")
    assert (run.parent / "called").exists()


def test_the_same_of_the_python_interface(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "odder.py").write_text(MODULE)
    change(run, lambda tree: tree["config"]["model"].update(name="odder:make"))
    monkeypatch.chdir(run.parent)
    with pytest.raises(UserError, match="a function that the run asks to be called"):
        load_run(run)
    assert not (run.parent / "called").exists()
    assert list(load_run(run, allow=["odder:make"]).networks) == ["baseline", "regularised"]


def test_timm_reads_no_file_that_an_option_names(run_command: Command) -> None:
    done = run_command(*TINY, *QUICK, "model.name=timm/resnet18", "model.options.checkpoint_path=evil.pth")
    assert done.returncode == 2
    assert "model.options.checkpoint_path: leave it out and say model.weights=" in done.stderr


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("called"),)


@pytest.mark.parametrize(("task", "file"), [("explain", "baseline/weights.pt"), ("resume", CHECKPOINT)])
def test_pickles_are_not_run(task: str, file: str, run: Path, run_command: Command) -> None:
    (run / FORMER).unlink()
    (run / file).write_bytes(pickle.dumps({"weight": Evil()}))
    change(run, lambda tree: tree.update(status="interrupted") if task == "resume" else None)
    done = run_command(*TASKS[task])
    assert done.returncode == 2
    assert str(run / file) in done.stderr
    assert not (run.parent / "called").exists()


def test_an_image_from_elsewhere_does_not_get_into_a_report(run: Path, run_command: Command) -> None:
    (first, *_) = sorted((run / "pictures").glob("*.png"))
    secret = run.parent / "secret.png"
    shutil.copy(first, secret)
    change(run, lambda tree: [entry.update(file="../secret.png") for entry in tree["wall"]])
    done = run_command("task=report", "runs=run", "hydra.run.dir=report")
    assert done.returncode == 0, done.stderr
    assert "data:image/png" not in (run.parent / "report" / "report.html").read_text().partition("<footer")[0]


@pytest.mark.parametrize("place", ["tb", "tb/baseline", "baseline/.weights.pt.partial", "measured/new"])
def test_a_run_does_not_go_on_through_a_link(place: str, run: Path, run_command: Command) -> None:
    change(run, lambda tree: tree.update(status="interrupted"))
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "events.out.tfevents.1").write_text("precious")
    shutil.rmtree(run / place, ignore_errors=True)
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(elsewhere / "events.out.tfevents.1" if place.endswith(".partial") else elsewhere)
    for arguments in (TASKS["resume"], (*TINY, "resume=auto", "hydra.run.dir=run")):
        done = run_command(*arguments)
        assert done.returncode == 2
        assert f"{place} is a link" in done.stderr
    assert [path.read_text() for path in elsewhere.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "how",
    [
        lambda state: state.update(epoch=-1),
        lambda state: state.update(epoch=None),
        lambda state: state.update(epoch=math.inf),
        lambda state: state.update(epoch=7),
        lambda state: state["arms"].pop("regularised"),
        lambda state: state["arms"].update({"../out": state["arms"].pop("regularised")}),
        lambda state: state["arms"]["baseline"].update(optimiser={"param_groups": 3, "state": []}),
        lambda state: state["arms"]["baseline"].update(network={}),
        lambda state: state["history"].update(baseline=[["x"]]),
        lambda state: state["arms"]["baseline"].update(kept_maps=[1] * len(state["history"]["baseline"])),
        lambda state: state["arms"]["baseline"].update(kept_maps=[]),
        lambda state: state.update(stopped=[1]),
        lambda state: state.update(stopped={"another": "loss"}),
        lambda state: state.clear(),
    ],
)
def test_a_checkpoint_that_was_made_up(
    how: Callable[[dict[str, Any]], object], run: Path, run_command: Command
) -> None:
    """With a right checksum, which anybody can compute."""
    change(run, lambda tree: tree.update(status="interrupted"))
    state = read_packed(run / CHECKPOINT)
    how(state)
    write_packed(run / CHECKPOINT, state)
    done = run_command(*TASKS["resume"])
    assert done.returncode == 2, done.stdout
    assert "checkpoint.safetensors: not a checkpoint of this run's arms and network; train anew" in done.stderr


def test_nothing_is_cached_where_a_run_says(run: Path, run_command: Command) -> None:
    elsewhere = run.parent / "elsewhere"
    change(run, lambda tree: tree["config"]["dataset"].update(cache=str(elsewhere)))
    assert run_command(*TASKS["evaluate"]).returncode == 0
    assert not elsewhere.exists()
