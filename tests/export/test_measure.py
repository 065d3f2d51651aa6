"""What is measured of exported networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from camtrain.data.batches import Batch
from camtrain.export.measure import given, seconds


@pytest.mark.parametrize(("number", "energy"), [(None, 5 / 16), (0, 5 / 16), (1, 11 / 16)])
def test_energy_is_measured_in_the_object_that_the_map_is_of(number: int | None, energy: float) -> None:
    """Class 0, which is predicted, lies left, class 1 right. The map, stretched, is 1, 1, 5/4, 7/4, 9/4, 11/4, 3, 3."""
    maps = torch.tensor([[[1.0, 3.0]]])
    regions = torch.tensor([1, 2], dtype=torch.uint8).repeat_interleave(4).expand(1, 8, 8)
    batch = Batch(torch.zeros(1, 3, 8, 8), torch.tensor([[1, 1]]), regions, torch.tensor([0]))

    def run(_images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.tensor([[2.0, 1.0]])
        return logits, logits.sigmoid(), maps.expand(1, 8, 2)

    found = given(run, [batch], None, False, None, number)
    assert found.energy.item() == pytest.approx(energy)


def test_time_is_that_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("camtrain.export.measure.time.process_time", lambda: float(next(clock)))
    assert seconds(lambda images: (images, images, images), torch.zeros(4, 3, 2, 2)) == 1 / 4
