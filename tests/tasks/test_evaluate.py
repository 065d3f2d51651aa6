"""task=evaluate: a finished run measured again, without training."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, in_process, made_once
from PIL import Image
from runs.made import made_result

from camtrain.config.options import DatasetName, Fit
from camtrain.config.schema import Config, FakeConfig, ModelConfig, PythonConfig, ShapesConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build, validation
from camtrain.data.images import relabelled
from camtrain.errors import UserError
from camtrain.evaluation.forward import forward_maps
from camtrain.runs.load import Finished, networks, read
from camtrain.runs.result import Control
from camtrain.tasks.evaluate import combined, first_result, title

FEW = (
    "evaluate.faithfulness_images=2",
    "evaluate.road_images=1",
    "evaluate.sanity_images=2",
    "evaluate.images=1",
)


def paint(folder: Path, colours: dict[str, tuple[int, int, int]], count: int) -> None:
    generator = np.random.default_rng(0)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = generator.integers(-60, 60, (40, 40, 3)) + np.array(colour)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


ODD = os.fsdecode(b'caf\xe9 \xf0\x9f\x98\x80\n"a".png')
"""A file name that is not UTF-8, in two lines."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a short training on three colours, whose images are still there for validation only."""

    def make(place: Path) -> None:
        paint(place / "set" / "train", COLOURS, 8)
        paint(place / "set" / "val", COLOURS, 3)
        (place / "set" / "val" / "blue" / "2.png").rename(place / "set" / "val" / "blue" / ODD)
        small = ("dataset.image_size=32", "dataset.crop_scale=[1.0,1.0]", "trainer.epochs=3", "trainer.batch_size=8")
        data = ("dataset=folder", "dataset.root=set", *small)
        done = in_process(*data, *FEW, "hydra.run.dir=run", cwd=place)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(place / "set" / "train")

    return made_once(tmp_path_factory, "colours", make) / "run"


def result_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def test_the_same_images_give_the_same_figures(trained: Path, run_command: Command, tmp_path: Path) -> None:
    done = run_command("task=evaluate", f"run={trained}", *FEW, "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    before, after = result_of(trained), result_of(tmp_path / "again")
    assert after["status"] == "completed"
    for arm in ("baseline", "regularised"):
        final, epochs = after["arms"][arm]["final"], after["arms"][arm]["epochs"]
        assert len(epochs) == 1
        assert {"accuracy/val", "faithfulness/road", "cam/box_accuracy", "sanity/all"} <= set(final)
        for tag, value in final.items():
            assert value == pytest.approx(before["arms"][arm]["final"][tag], abs=1e-6), tag
    assert after["control"]["power"] == pytest.approx(before["control"]["power"], rel=1e-5)
    assert {entry.name for entry in (tmp_path / "again").iterdir()} >= {"report.html", "pictures.csv", "pictures"}
    assert "weights.pt" not in [entry.name for entry in (tmp_path / "again").rglob("*")]


def test_other_images_with_some_of_the_classes(trained: Path, run_command: Command, tmp_path: Path) -> None:
    paint(tmp_path / "other" / "val", {name: COLOURS[name] for name in ("red", "green")}, 4)
    done = run_command(
        "task=evaluate", f"run={trained}", "dataset=folder", "dataset.root=other", *FEW, "hydra.run.dir=again"
    )
    assert done.returncode == 0, done.stderr
    after = result_of(tmp_path / "again")
    assert after["data"]["val"] == 8
    assert after["config"]["dataset"]["image_size"] == 32
    with (tmp_path / "again" / "pictures.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["class"] for row in rows} == {"red", "green"}
    network = networks(read(trained), torch.device("cpu"))["baseline"]
    config = read(trained).config
    config.dataset.root = str(tmp_path / "other")  # type: ignore[attr-defined]
    image_set = relabelled(validation(config.dataset, 0), ["blue", "green", "red"])
    (batch,) = all_batches(image_set, Batching(8))
    assert sorted(set(batch.targets.tolist())) == [1, 2]
    logits = forward_maps(network, batch.images, batch.targets, config.cam.variant).logits
    accuracy = float((logits.argmax(1) == batch.targets).float().mean())
    assert after["arms"]["baseline"]["final"]["accuracy/val"] == pytest.approx(accuracy)


def test_names_that_are_not_utf_8_are_in_every_file(trained: Path) -> None:
    with (trained / "pictures.csv").open(newline="", encoding="utf-8") as opened:
        names = [row["picture"] for row in csv.DictReader(opened)]
    assert str(trained.parent / "set" / "val" / "blue" / ODD).replace("\udce9", "\\udce9") in names
    assert result_of(trained)["status"] == "completed"
    assert "class" in (trained / "report.html").read_text(encoding="utf-8")


def test_the_runs_folder_of_images_is_found_from_anywhere(trained: Path) -> None:
    assert result_of(trained)["config"]["dataset"]["root"] == str(trained.parent / "set")


def test_a_set_of_one_class(trained: Path, run_command: Command, tmp_path: Path) -> None:
    paint(tmp_path / "other" / "val", {"green": COLOURS["green"]}, 4)
    done = run_command("task=evaluate", f"run={trained}", "dataset.root=other", *FEW, "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    assert "training images" not in done.stdout
    assert result_of(tmp_path / "again")["config"]["dataset"]["root"] == str(tmp_path / "other")
    assert 0 <= result_of(tmp_path / "again")["arms"]["regularised"]["final"]["accuracy/val"] <= 1


def test_mistakes_are_one_line_and_write_nothing(trained: Path, run_command: Command, tmp_path: Path) -> None:
    paint(tmp_path / "other" / "val", {"red": COLOURS["red"], "violet": (150, 40, 150)}, 2)
    cases = {
        (f"run={trained}", "dataset=folder", "dataset.root=other"): "does not know the class violet",
        (f"run={trained}", "dataset=shapes_multi"): "it has several classes per image, the run was trained with one",
        (f"run={trained}", "dataset.objects=2"): "no such key of this data set, but of dataset=shapes",
        ("run=nowhere",): "there is no such folder",
        ("run=other",): "result.json",
        (): "run is not set",
    }
    for arguments, message in cases.items():
        done = run_command("task=evaluate", *arguments)
        assert done.returncode == 2, arguments
        (line,) = done.stderr.splitlines()
        assert message in line
        assert {entry.name for entry in tmp_path.iterdir()} == {"other"}


def test_other_images_of_a_generated_set() -> None:
    """What the network was trained on stays on record, and the seeds of network and images apart."""
    theirs = Config(dataset=ShapesConfig(name=DatasetName.shapes, train=1200), model=ModelConfig(name="small_resnet"))
    asked = Config(dataset=ShapesConfig(name=DatasetName.shapes, val=100), seed=7)
    own = combined(
        asked,
        Finished(Path(), made_result(theirs, {"baseline": {}, "regularised": {}}, {})),
        {"dataset", "dataset.val", "seed"},
    )
    assert isinstance(own.dataset, ShapesConfig)
    assert (own.dataset.train, own.dataset.val, own.seed) == (1200, 100, 7)
    assert title(own, 0) == "shapes, small_resnet, seed 0, measured again on images of seed 7"
    assert title(own, 7) == "shapes, small_resnet, seed 7, measured again"


def test_what_the_networks_see_is_the_runs() -> None:
    theirs = FakeConfig(name=DatasetName.fake, image_size=[24, 40], channels=1, fit=Fit.pad)
    run = Config(dataset=theirs, model=ModelConfig(name="small_resnet"))
    finished = Finished(Path(), made_result(run, {"baseline": {}, "regularised": {}}, {}))
    asked = Config(dataset=ShapesConfig(name=DatasetName.shapes, fit=Fit.stretch))
    own = combined(asked, finished, {"dataset", "dataset.fit"}).dataset
    assert (own.image_size, own.channels, own.fit) == ([24, 40], 1, Fit.stretch)
    with pytest.raises(UserError, match=r"dataset.channels=3: the run's networks take 1"):
        combined(asked, finished, {"dataset", "dataset.channels"})


def test_a_run_that_is_measured_again_begins_without_its_former_figures() -> None:
    config = Config(
        dataset=ShapesConfig(name=DatasetName.shapes, train=8, val=4), model=ModelConfig(name="small_resnet")
    )
    result = made_result(config, {"baseline": {}, "regularised": {}}, {"regularised": Control(2.0, {})})
    result.controls_area, result.faithfulness_images = dict(result.controls), 521
    begun = first_result(Finished(Path(), result), config, validation(config.dataset, 0), torch.device("cpu"))
    assert not begun.finals()["baseline"]
    assert (begun.controls, begun.controls_area, begun.faithfulness_images) == ({}, {}, None)


def test_settings_change_the_runs_own_data_set() -> None:
    theirs = PythonConfig(name=DatasetName.python, source="my:make", options={"size": 3, "deep": {"a": 1}})
    run = Config(dataset=theirs, model=ModelConfig(name="small_resnet"))
    finished = Finished(Path("somewhere"), made_result(run, {"baseline": {}, "regularised": {}}, {}))
    asked = Config(dataset=PythonConfig(name=DatasetName.python, source="other:make", options={"size": 5}))
    own = combined(asked, finished, {"dataset.options.size"}).dataset
    assert isinstance(own, PythonConfig)
    assert (own.source, own.options) == ("my:make", {"size": 5, "deep": {"a": 1}})
    # Of several runs in a sweep the first one's data set is composed.
    with pytest.raises(UserError, match=r"dataset.val: somewhere has dataset=python, without this key"):
        combined(Config(dataset=ShapesConfig(name=DatasetName.shapes)), finished, {"dataset.val"})


def test_images_of_other_classes_are_not_decoded(trained: Path, run_command: Command, tmp_path: Path) -> None:
    paint(tmp_path / "other" / "val", {"red": COLOURS["red"], "violet": (150, 40, 150)}, 2)
    done = run_command(
        *("task=evaluate", f"run={trained}", "dataset=folder", "dataset.root=other", "dataset.cache=cached")
    )
    assert done.returncode == 2
    assert not (tmp_path / "cached").exists()


def test_validation_is_the_split_that_training_had() -> None:
    for config in (FakeConfig(image_size=16), ShapesConfig(image_size=32, train=20, val=10)):
        _, expected = build(config, 3)
        found = validation(config, 3)
        assert torch.equal(found.targets, expected.targets)
        for first, second in zip(found.gather([0, 5]), expected.gather([0, 5]), strict=True):
            assert first is not None
            assert second is not None
            assert torch.equal(first, second)


def test_relabelling_leaves_the_original_as_it_is() -> None:
    _, images = build(FakeConfig(image_size=16, val=6), 0)
    before = images.targets.clone()
    other = relabelled(images, ["other", *reversed(images.classes)])
    assert torch.equal(images.targets, before)
    assert [other.classes[kind] for kind in other.targets.tolist()] == [images.classes[kind] for kind in before]
