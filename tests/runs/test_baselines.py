"""Runs that share a trained reference arm are those that train it themselves; another one is never taken."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, TINY, Command, in_process, made_once
from faults.compare import differences
from filelock import FileLock
from hydra import compose, initialize_config_dir
from image_folders import write_noise

from camtrain.cli import CONF
from camtrain.config.hydra_store import typed
from camtrain.packed import read_packed, write_packed
from camtrain.runs.settings import of_reference

KEPT = ("trainer.baselines=kept", "trainer.threads=1")

RUN = (*TINY, *QUICK, *KEPT, "dataset.image_size=32", "evaluate.images=1", "evaluate.image_epochs=[]")


@pytest.fixture(name="kept")
def _kept(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """The only file of a folder in which a run has left its reference arm."""

    def make(folder: Path) -> None:
        done = in_process(*RUN, "hydra.run.dir=first", cwd=folder)
        assert done.returncode == 0, done.stderr

    made = made_once(tmp_path_factory, "baselines", make)
    shutil.copytree(made / "kept", tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob("*.safetensors")
    return path


def taken(run: Path) -> bool:
    return "reference_from" in json.loads((run / "result.json").read_text())


@pytest.mark.usefixtures("kept")
def test_a_run_with_a_baseline_that_was_trained_before_is_the_same(run_command: Command, tmp_path: Path) -> None:
    other = ("cam.weight=0.5", "cam.consistency=0.3", "cam.start=0.5", "+arms.area.cam.term=area", "evaluate.images=1")
    whole = (*RUN, *other, "evaluate.maps=[layercam]", "evaluate.faithfulness_images=2")
    done = run_command(*whole, "hydra.run.dir=with")
    assert done.returncode == 0, done.stderr
    assert "/first, from where its step times are." in done.stdout
    assert run_command(*whole, "trainer.baselines=null", "hydra.run.dir=without").returncode == 0
    assert differences(tmp_path / "with", tmp_path / "without") == [
        "/config/trainer/baselines",
        "/reference_from",
        "report",
    ]
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "other",
    ["seed=1", "optim.lr=0.01", "trainer.epochs=1", "cam.term=area", "trainer.batch_size=4", "cam.views=mirror"],
)
def test_a_run_whose_baseline_is_another_one_trains_it(other: str, kept: Path, run_command: Command) -> None:
    folder = kept.parent
    assert run_command(*RUN, other, "trainer.max_steps=1", "hydra.run.dir=run").returncode == 0
    assert not taken(folder.parent / "run")
    assert len(list(folder.glob("*.safetensors"))) == 2


@pytest.fixture
def composed() -> Callable[..., str | None]:
    def found(*overrides: str) -> str | None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return of_reference(typed(compose("config", overrides=["dataset=fake", *overrides])))

    return found


def test_which_settings_a_baseline_uses(composed: Callable[..., str | None]) -> None:
    plain = composed()
    of_others = ("cam.share=0.2", "cam.keep=0.1", "cam.start=1", "+arms.area.cam.term=area", "evaluate.maps=[]")
    for other in (*of_others, "arms.regularised.cam.weight=3", "trainer.threads=3", "report.accuracy_margin=0.1"):
        assert composed(other) == plain, other
    for own in ("cam.score=logit", "arms.baseline.cam.views=none", "evaluate.max_images=3", "cam.views_share=0.5"):
        views = ("cam.views=mirror",)
        assert composed(own, *views) != composed(*views), own
    for alone in ("trainer.fork=1", "model.name=a:b", "arms.baseline.cam.weight=1"):
        assert composed(alone, "trainer.epochs=3") is None, alone


def test_images_or_weights_that_changed(run_command: Command, tmp_path: Path) -> None:
    write_noise(tmp_path / "images")
    data = ("dataset=folder", "dataset.root=images", "dataset.image_size=24", "dataset.cache=null")
    whole = (*RUN, *data, "trainer.epochs=1", "evaluate.images=0")
    assert run_command(*whole, "hydra.run.dir=first").returncode == 0
    assert run_command(*whole, "hydra.run.dir=second", "cam.share=0.2").returncode == 0
    assert taken(tmp_path / "second")
    image = next((tmp_path / "images" / "train").glob("*/*"))
    other = next(path for path in image.parent.iterdir() if path != image)
    shutil.copy(other, image)
    assert run_command(*whole, "hydra.run.dir=third").returncode == 0
    assert not taken(tmp_path / "third")


def test_a_damaged_one_is_trained_anew(kept: Path, run_command: Command) -> None:
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    done = run_command(*RUN, "hydra.run.dir=run")
    assert done.returncode == 0
    assert f"{kept} is damaged, and trained anew" in done.stdout
    assert not taken(kept.parent.parent / "run")
    assert read_packed(kept)["history"][1]["accuracy/val"] >= 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree.update(signature="0" * 16), "not a trained arm of these settings; remove it"),
        (lambda tree: tree["arm"].update(optimiser={}), "not a trained arm of these settings; remove it"),
        (lambda tree: tree["history"].pop(), "not a trained arm of these settings; remove it"),
    ],
)
def test_what_was_made_up_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, kept: Path, run_command: Command
) -> None:
    tree = read_packed(kept)
    change(tree)
    write_packed(kept, tree)
    done = run_command(*RUN, "hydra.run.dir=run")
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert kept.exists()
    # An arm that was taken in part is not what the run goes on from.
    checkpoint = kept.parent.parent / "run" / "checkpoint.safetensors"
    if checkpoint.exists():
        state, trained = read_packed(checkpoint), tree["arm"]["network"]["fc.weight"]
        assert not torch.equal(state["arms"]["baseline"]["network"]["fc.weight"], trained)


def test_one_that_gives_other_figures_here_is_trained_anew(kept: Path, run_command: Command) -> None:
    tree = read_packed(kept)
    trained = {name: value.clone() for name, value in tree["arm"]["network"].items()}
    tree["arm"]["network"]["fc.weight"] += 1.0
    write_packed(kept, tree)
    done = run_command(*RUN, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "gives other figures here than where it was trained" in done.stdout
    assert not taken(kept.parent.parent / "run")
    again = read_packed(kept)["arm"]["network"]
    assert all(torch.equal(value, again[name]) for name, value in trained.items())


def test_a_run_that_went_on_leaves_none(tmp_path: Path, run_command: Command) -> None:
    """Its baseline has had two schedules, or two versions of the code."""
    whole = (*RUN, "hydra.run.dir=run")
    assert run_command(*whole, "trainer.max_steps=2").returncode == 0
    for path in (tmp_path / "kept").iterdir():
        path.unlink()
    done = run_command("task=resume", "run=run", "trainer.epochs=3", "trainer.baselines=kept")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "kept").glob("*.safetensors"))


def test_where_no_file_can_be_written_a_run_trains_its_own(tmp_path: Path, run_command: Command) -> None:
    (tmp_path / "kept").write_text("a file")
    done = run_command(*RUN, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "this run trains its own baseline" in done.stdout


def test_a_treatment_that_diverges_leaves_the_taken_baseline_whole(kept: Path, run_command: Command) -> None:
    wild = ("arms.regularised.cam.weight=1e38", "arms.regularised.cam.conflict=keep", "optim=sgd", "optim.lr=100")
    done = run_command(*RUN, *wild, "hydra.run.dir=first_wild")
    assert done.returncode == 3, done.stderr
    again = run_command(*RUN, *wild, "hydra.run.dir=second_wild")
    assert again.returncode == 3, again.stderr
    runs = [
        json.loads((kept.parent.parent / name / "result.json").read_text()) for name in ("first_wild", "second_wild")
    ]
    assert [len(run["arms"]["baseline"]["epochs"]) for run in runs] == [2, 2]
    assert taken(kept.parent.parent / "second_wild")
    assert "trained to the end: baseline" in again.stderr


def test_a_run_waits_for_the_one_that_trains_it(kept: Path, run_command: Command) -> None:
    said, is_held = kept.parent.parent / "run" / "camtrain.log", threading.Event()

    def hold() -> None:
        with FileLock(kept.with_suffix(".lock")):
            is_held.set()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (said.exists() and "waiting for it" in said.read_text()):
                time.sleep(0.05)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    done = run_command(*RUN, "hydra.run.dir=run")
    thread.join()
    assert done.returncode == 0, done.stderr
    assert "another run trains the same one: waiting for it" in done.stdout
    assert taken(kept.parent.parent / "run")


def test_they_are_listed_and_removed(kept: Path, run_command: Command) -> None:
    broken, foreign = kept.with_name("0123456789abcdef.safetensors"), kept.with_name("model.safetensors")
    for path in (broken, foreign):
        path.write_bytes(b"x")
    listed = run_command("task=baselines", "trainer.baselines=kept")
    assert listed.returncode == 0
    named = {line.split("  ")[0] for line in listed.stdout.splitlines()[1:]}
    assert named == {str(broken), str(kept)}
    assert "fake, small_resnet, seed 0" in listed.stdout
    for days, left in (("1", {kept.name, broken.name, foreign.name}), ("0", {foreign.name})):
        assert run_command("task=baselines", "trainer.baselines=kept", f"prune={days}").returncode == 0
        assert {path.name for path in kept.parent.glob("*.safetensors")} == left
    assert "no trained baselines in" in run_command("task=baselines").stdout
    assert run_command("task=baselines", "trainer.baselines=nowhere").returncode == 2
