"""Files that are whole or not there, and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from camtrain.cam.routes import GradientRoute as GradientPath
from camtrain.cam.routes import Routes
from camtrain.config.schema import CamConfig, ModelConfig, OptimConfig
from camtrain.data.batches import Batch
from camtrain.files import write_atomically, write_csv, write_text
from camtrain.loss.balance import Balance
from camtrain.networks.build import build
from camtrain.training import checkpoint
from camtrain.training.arm import Arm, make_arms
from camtrain.training.step import train_step


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")

    def fail(opened: BinaryIO) -> None:
        opened.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_table_is_written_as_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", ("name", "value"), [("a, b", 1), ('"ä"', 0.5)])
    assert (tmp_path / "table.csv").read_bytes() == 'name,value\n"a, b",1\n"""ä""",0.5\n'.encode()


def fresh() -> Arm:
    model = build(ModelConfig(name="small_resnet"), 3, 32, 0).classifier
    return make_arms(model, OptimConfig(), 1e-3, Routes(GradientPath.closed, GradientPath.closed), Balance(0.5))[1]


def test_a_restored_arm_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def step(arm: Arm, number: int) -> None:
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(number))
        batch = Batch(images, torch.tensor([0, 1, 2, 0]), torch.zeros(4, 32, 32, dtype=torch.uint8), torch.arange(4))
        train_step(arm, batch, CamConfig(), 1.0, observe=False)

    through, stopped = fresh(), fresh()
    for arm in (through, stopped):
        step(arm, 0)
    checkpoint.save(stopped, tmp_path, epochs_done=1)
    resumed = fresh()
    assert checkpoint.restore(resumed, tmp_path) == 1
    for arm in (through, resumed):
        step(arm, 1)
    pairs = zip(through.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
