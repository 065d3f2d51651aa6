"""Images that are not square, of one channel, from a data set of one's own: trained on, measured again, explained."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, in_process, made_once
from image_folders import noise
from PIL import Image

from camtrain.report.overlay import GAP, TILE

MODULE = """
import numpy as np

class Bars:
    classes = ["upper", "lower"]

    def __init__(self, count, seed):
        self.noise = np.random.default_rng(seed).integers(0, 99, (count, 20, 44), np.uint8)

    def __len__(self):
        return len(self.noise)

    def __getitem__(self, number):
        image, mask = self.noise[number].copy(), np.zeros((20, 44), np.uint8)
        part = np.s_[2:8, 5:39] if number % 2 == 0 else np.s_[12:18, 5:39]
        image[part] += 120
        mask[part] = 1
        return image, number % 2, mask

def make(count):
    return Bars(count, 1), Bars(8, 2)
"""

SETTINGS = (
    *("dataset=python", "dataset.source=own_bars:make", "dataset.options.count=12", "dataset.fit=pad"),
    *("dataset.image_size=[24,40]", "dataset.channels=1", "dataset.crop_scale=[0.5,1]", "dataset.contrast=0.2"),
    *(
        "trainer.epochs=1",
        "trainer.max_steps=2",
        "trainer.batch_size=4",
        "evaluate.images=2",
        "evaluate.sanity_images=2",
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module is; its run is in `run`."""

    def make(folder: Path) -> None:
        (folder / "own_bars.py").write_text(MODULE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", list(sys.path))
            done = in_process(*SETTINGS, "hydra.run.dir=run", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "stdout.txt").write_text(done.stdout)

    return made_once(tmp_path_factory, "own bars", make)


def test_a_run_on_a_data_set_of_ones_own(folder: Path) -> None:
    found = json.loads((folder / "run" / "result.json").read_text())
    assert found["data"]["classes"] == ["upper", "lower"]
    assert found["data"]["val_with_region"] == 8
    height, width = found["model"]["grid"]
    assert height < width
    assert found["config"]["dataset"]["options"] == {"count": 12}
    pictures = sorted((folder / "run" / "pictures").glob("*.png"))
    with Image.open(pictures[0]) as drawn:
        assert drawn.size == (3 * TILE + 2 * GAP, round(TILE * 24 / 40))
    said = (folder / "stdout.txt").read_text()
    assert "own_bars:make: 12 training images, 8 validation images (all of these with masks" in said
    assert "2 classes, 24 x 40 px, 1 channel" in said


def test_files_are_explained_in_their_own_aspect(folder: Path, run_command: Command, tmp_path: Path) -> None:
    for name, image in {"grey.png": noise(20, 60), "colours.png": noise(50, 30, 3)}.items():
        Image.fromarray(image).save(tmp_path / name)
    done = run_command("task=explain", f"run={folder / 'run'}", "images=*.png", "hydra.run.dir=maps")
    assert done.returncode == 0, done.stderr
    assert "images    2, each of them whole and padded at 24 x 40 pixels" in done.stdout
    grid = json.loads((folder / "run" / "result.json").read_text())["model"]["grid"]
    with (tmp_path / "maps" / "explanations.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    for row, height, lines in ((rows[0], TILE * 50 / 30, 2), (rows[2], TILE * 20 / 60, 2)):
        assert list(np.load(tmp_path / "maps" / row["npy"]).shape) == grid
        with Image.open(tmp_path / "maps" / row["png"]) as drawn:
            below = 18 * lines + 3 * GAP
            assert abs(drawn.height - below - height) <= 18 + 12  # captions; padding is a whole number of pixels
