"""Maps by other methods than the trained one."""

from __future__ import annotations

import math

import pytest
import torch
from measured import context_of, network

from camtrain.config.options import TRAINABLE, CamVariant
from camtrain.config.schema import FakeConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluation.every_epoch import evaluate
from camtrain.evaluation.other_maps import measure_other_maps
from camtrain.networks.classifier import Classifier


def networks(one: Classifier) -> dict[str, Classifier]:
    return {"baseline": one}


@pytest.mark.parametrize("variant", list(CamVariant))
def test_every_map_is_measured_alone_as_with_the_trained_one(variant: CamVariant) -> None:
    _, images = build_data(FakeConfig(image_size=32, val=6), 0)
    measured = torch.tensor([True, False, True, True, False, False])
    trained = CamVariant.gradcam
    context = context_of(networks(network()), images, measured, trained)
    found = measure_other_maps(context, context.batches(measured), [variant])
    alone = found.measured.means["baseline"]
    assert found.image_of_map.tolist() == [0, 2, 3]
    assert {tag.split("/")[1] for tag in alone} == {variant.value}
    alike = alone.pop(f"other_maps/{variant.value}/with_trained")
    same = variant in (trained, CamVariant.cam, CamVariant.hirescam, CamVariant.xgradcam)
    assert (alike == pytest.approx(1, abs=1e-4)) == same
    assert 0 <= alone[f"other_maps/{variant.value}/entropy"] <= math.log(16)
    if variant in TRAINABLE:
        whole = evaluate(networks(network()), all_batches(images, Batching(4)), variant, measured).measured.means[
            "baseline"
        ]
        for tag, value in alone.items():
            assert value == pytest.approx(whole[f"cam/{tag.split('/')[2]}"], nan_ok=True)
