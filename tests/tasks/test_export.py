"""Exported files give what the run's own networks give, and nothing is left of what cannot be exported."""

from __future__ import annotations

import csv
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, Command, FinishedRun, finish, in_process
from PIL import Image

import camtrain
from camtrain.config.options import ExportFormat
from camtrain.export.formats import FORMATS, METADATA

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'camtrain[export]'")

TINY = ("dataset=fake", "dataset.classes=4", "trainer.max_steps=2", "trainer.batch_size=4", *QUICK)
NETWORKS = {
    "small_resnet": ("dataset.image_size=32",),
    "resnet18": ("model=resnet18", "dataset.image_size=32"),
    "mobilenet_v3_small": ("model=mobilenet_v3_small", "dataset.image_size=64"),
    "squeezenet1_0": ("model=squeezenet1_0", "dataset.image_size=64", "cam=layercam"),
    "densenet121": ("model=densenet121", "dataset.image_size=32"),
    "not_square": ("'dataset.image_size=[24,40]'".strip("'"), "cam=gradcampp", "model.layer=layer3"),
    "lite": ("model.name=timm/tf_efficientnet_lite0", "dataset.image_size=64"),
}

SLOW = ("densenet121", "lite")


def run_of(name: str, factory: pytest.TempPathFactory) -> Path:
    if name == "lite":
        pytest.importorskip("timm")
    return finish(factory, f"export_{name}", *TINY, *NETWORKS[name]).folder


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def exported(cwd: Path, run: Path, *arguments: str) -> Path:
    """The folder that the command leaves."""
    done = in_process("task=export", f"run={run}", *arguments, "hydra.run.dir=exported", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "exported"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NETWORKS]
)
def test_the_file_gives_the_maps_that_explain_draws(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = run_of(name, tmp_path_factory)
    folder = exported(tmp_path, run)
    network = session(folder / "regularised.onnx")
    metadata = json.loads(network.get_modelmeta().custom_metadata_map[METADATA])
    size = metadata["input"]["width"], metadata["input"]["height"]
    drawn = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    pixels = []
    for number, image in enumerate(drawn):
        Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
        pixels.append(np.asarray(Image.open(tmp_path / f"{number}.png")).transpose(2, 0, 1))
    logits, probabilities, maps = network.run(["logits", "probabilities", "map"], {"images": np.stack(pixels)})
    done = in_process("task=explain", f"run={run}", "images=[0.png,1.png,2.png]", "hydra.run.dir=maps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "maps" / "explanations.csv").open(newline="", encoding="utf-8") as opened:
        table = [row for row in csv.DictReader(opened) if row["arm"] == "regularised"]
    for row, own, share, ours in zip(table, logits, probabilities, maps, strict=True):
        whole = np.load(tmp_path / "maps" / row["npy"])
        assert metadata["classes"][own.argmax()] == row["predicted class"]
        assert share.max() == pytest.approx(float(row["predicted probability"]), abs=1e-5)
        assert np.abs(ours - whole.clip(0)).max() <= 1e-4 * np.abs(whole).max()
    (record,) = json.loads((folder / "export.json").read_text())["files"]
    assert record["map_difference"] < 1e-4
    assert record["bytes"] == (folder / "regularised.onnx").stat().st_size


def test_the_file_says_what_it_is(fake_run: FinishedRun, tmp_path: Path) -> None:
    folder = exported(tmp_path, fake_run.folder, "export.arm=all", "class=class_1")
    result = json.loads((fake_run.folder / "result.json").read_text())
    for arm in ("baseline", "regularised"):
        network = session(folder / f"{arm}.onnx")
        (given,) = network.get_inputs()
        assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 3, 32, 32])
        found = json.loads(network.get_modelmeta().custom_metadata_map[METADATA])
        assert (found["arm"], found["classes"], found["layer"]) == (arm, result["data"]["classes"], "layer3")
        assert (found["map"]["class"], found["map"]["method"], found["map"]["score"]) == ("class_1", "gradcam", "logit")
        assert found["map"]["rows"] == {"cells": 4, "first": 3.5, "step": 8.0, "field": 66.0}
        assert found["camtrain"] == version("camtrain")
        assert str(Path.home()) not in (folder / f"{arm}.onnx").read_bytes().decode("latin-1")
        assert str(fake_run.folder) not in (folder / f"{arm}.onnx").read_bytes().decode("latin-1")


def test_maps_of_all_classes_from_floats(fake_run: FinishedRun, tmp_path: Path) -> None:
    options = ("export.all_classes=true", "export.bytes=false", "export.batch=2", "export.output=mine.onnx")
    folder = exported(tmp_path, fake_run.folder, "export.arm=baseline", *options)
    assert sorted(path.name for path in folder.glob("*.onnx")) == []
    network = session(tmp_path / "mine.onnx")
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    logits, _, maps = network.run(None, {"images": images})
    own = camtrain.load_run(fake_run.folder).networks["baseline"]
    for number in range(logits.shape[1]):
        exact = camtrain.maps(own, torch.from_numpy(images), target=number).numpy()
        assert np.abs(maps[:, number] - exact.clip(0)).max() <= 1e-4 * np.abs(exact).max()


def test_several_classes_per_image_have_sigmoids(multilabel_run: FinishedRun, tmp_path: Path) -> None:
    folder = exported(tmp_path, multilabel_run.folder, "export.format=torch")
    run, metadata = FORMATS[ExportFormat.torch].opened((folder / "regularised.pt2").read_bytes())
    logits, probabilities, maps = run(torch.zeros(5, 3, 32, 32, dtype=torch.uint8))
    assert metadata["several_classes_per_image"]
    assert torch.allclose(probabilities, logits.sigmoid())
    assert len(maps) == 5


@pytest.mark.slow
def test_whole_numbers_are_smaller_and_measured(fake_run: FinishedRun, tmp_path: Path) -> None:
    folder = exported(tmp_path, fake_run.folder, "export.int8=true", "export.calibration=8", "export.arm=all")
    files = json.loads((folder / "export.json").read_text())["files"]
    assert [(one["arm"], one["numbers"]) for one in files] == [
        (arm, numbers) for arm in ("baseline", "regularised") for numbers in ("float32", "int8")
    ]
    for floats, whole in zip(files[::2], files[1::2], strict=True):
        assert whole["bytes"] < floats["bytes"] / 2
        assert floats["correlation"] == pytest.approx(1, abs=1e-5)
        assert 0.8 < whole["correlation"] < 1
        assert 0 <= whole["energy_in_mask"] <= 1
    result = json.loads((fake_run.folder / "result.json").read_text())
    assert files[2]["accuracy"] == pytest.approx(result["arms"]["regularised"]["final"]["accuracy/val"], abs=0.1)
    types = {node.op_type for node in __import__("onnx").load(folder / "baseline.int8.onnx").graph.node}
    assert "QuantizeLinear" in types


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export.arm=other"], "export.arm=other: the run has no such arm; it has baseline, regularised, or all"),
        (["class=bird"], "class=bird: the run has no such class; it has class_0, class_1, class_2"),
        (["class=class_1", "export.all_classes=true"], "class and export.all_classes=true"),
        (["export.output=x.onnx", "export.arm=all"], "one file cannot hold 2 arms"),
        (["export.output=x.bin"], "end in .onnx"),
        (["export.format=torch", "export.int8=true"], "export.int8=true: not for export.format=torch"),
        (["export.batch=0"], "export.batch=0 is out of range"),
        (["cam.variant=cam"], "cam.variant: task=export takes it from the run"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], said: str, fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    done = run_command("task=export", f"run={fake_run.folder}", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == []


def test_a_head_without_a_closed_form_leaves_nothing(
    run_command: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    early = ("model=squeezenet1_0", "dataset.image_size=48", "model.layer=features.5")
    run = finish(tmp_path_factory, "export_early", *TINY, *early).folder
    done = run_command("task=export", f"run={run}")
    assert done.returncode == 2
    assert "model.layer=features.5" in done.stderr
    assert "no closed form to export" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == []


def test_what_differs_from_the_network_is_not_kept(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camtrain.export.check.TOLERANCE", -1.0)
    done = run_command("task=export", f"run={fake_run.folder}")
    assert done.returncode == 2
    assert "differs from the network" in done.stderr
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("taken", "arguments", "said"),
    [
        ("mine.onnx", ["export.output=mine.onnx"], "mine.onnx: this exists already; choose another export.output"),
        ("mine.int8.onnx", ["export.output=mine.onnx", "export.int8=true"], "mine.int8.onnx: this exists already"),
        (
            "here/regularised.onnx",
            ["hydra.run.dir=here"],
            "regularised.onnx: this exists already; choose another hydra",
        ),
        ("here/baseline.int8.onnx", ["hydra.run.dir=here", "export.arm=all", "export.int8=true"], "baseline.int8.onnx"),
        ("here/regularised/facts.json", ["hydra.run.dir=here", "export.format=web"], "here/regularised: this exists"),
    ],
)
def test_no_file_of_the_users_is_replaced(
    taken: str, arguments: list[str], said: str, fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("precious")
    done = run_command("task=export", f"run={fake_run.folder}", *arguments)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert said in line
    assert (tmp_path / taken).read_text() == "precious"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / taken]


def test_a_file_that_its_runtime_cannot_open_is_one_line(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = FORMATS[ExportFormat.onnx]
    monkeypatch.setitem(FORMATS, ExportFormat.onnx, onnx._replace(written=lambda *_: b"no network"))  # type: ignore[arg-type]
    done = run_command("task=export", f"run={fake_run.folder}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "its runtime cannot run the file of small_resnet" in line
    assert list(tmp_path.rglob("*")) == []


def test_a_run_in_float64_is_exported_in_float32(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = finish(tmp_path_factory, "export_float64", *TINY, "dataset.image_size=32", "trainer.precision=float64").folder
    folder = exported(tmp_path, run)
    (record,) = json.loads((folder / "export.json").read_text())["files"]
    assert record["map_difference"] < 1e-4


OWN = """
import numpy as np

class Noise:
    classes = ["a", "b"]

    def __len__(self):
        return 6

    def __getitem__(self, number):
        return np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8), number % 2

def make():
    return Noise(), Noise()
"""


def test_data_of_ones_own_are_read_again_where_the_function_is_named(
    tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_noise.py").write_text(OWN)
    monkeypatch.setattr("sys.path", list(sys.path))
    source = "dataset.source=own_noise:make"
    data = ("dataset=python", source, "dataset.image_size=32", "trainer.max_steps=1", "trainer.batch_size=4", *QUICK)
    done = run_command(*data, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    export = ("task=export", "run=run", "export.int8=true", "hydra.run.dir=exported")
    refused = run_command(*export)
    assert refused.returncode == 2
    assert f"repeating {source}" in refused.stderr
    refused = run_command(*export, source, "export.batch=8")
    assert refused.returncode == 2
    assert "export.calibration=128: with 6 training images it fills no batch of export.batch=8" in refused.stderr
    assert not (tmp_path / "exported").exists()
    done = run_command(*export, source, "export.batch=2")
    assert done.returncode == 0, done.stderr
    files = json.loads((tmp_path / "exported" / "export.json").read_text())["files"]
    assert [one["numbers"] for one in files] == ["float32", "int8"]


def test_a_data_set_that_has_moved_is_read_where_it_is(tmp_path: Path, run_command: Command) -> None:
    for number, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (tmp_path / "set" / name).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / name / "0.png")
    data = ("dataset=folder", "dataset.root=set", "dataset.image_size=32", "dataset.cache=null", "trainer.max_steps=1")
    done = run_command(*data, "trainer.batch_size=2", *QUICK, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "set").rename(tmp_path / "moved")
    export = ("task=export", "run=run", "export.int8=true", "hydra.run.dir=exported")
    assert run_command(*export).returncode == 2
    done = run_command(*export, "dataset.root=moved")
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    done = run_command("task=export", f"run={fake_run.folder}")
    assert done.returncode == 2
    assert "onnxscript is not installed; pip install 'camtrain[export]'" in done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_training_has_no_use_for_its_keys(run_command: Command) -> None:
    done = run_command("export.arm=baseline")
    assert done.returncode == 2
    assert "export.arm is for task=export, not for task=train" in done.stderr
