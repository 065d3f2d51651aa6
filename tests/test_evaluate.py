"""Evaluation: a fixed subset of maps, means over the pictures for which a value is defined."""

from __future__ import annotations

import math

import pytest
import torch

from camtrain import faithfulness, indicators
from camtrain.arm import Arm
from camtrain.config import TRAINABLE, CamVariant, FakeConfig, ModelConfig, OptimConfig, ShapesConfig
from camtrain.data.batches import all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluate import evaluate, evaluate_faithfulness, evaluate_maps, forward_maps, of_maps
from camtrain.head import Path, Paths
from camtrain.model import build as build_model
from camtrain.optim import make_optimiser

CPU = torch.device("cpu")


def arm(closed: bool = True, classes: int = 3) -> Arm:
    model = build_model(ModelConfig(name="small_resnet"), classes, 32, 0).classifier
    path = Path.closed if closed else Path.autograd
    return Arm("baseline", model, make_optimiser(model, OptimConfig(), 1e-3), False, Paths(path, path))


def test_subset_is_measured_whatever_the_batches_hold() -> None:
    _, pictures = build_data(FakeConfig(image_size=32, val=16), 0)
    measured = torch.zeros(16, dtype=torch.bool)
    measured[[2, 3, 11]] = True
    figures = [
        evaluate([arm()], all_batches(pictures, size, CPU), CamVariant.gradcam, measured).means["baseline"]
        for size in (2, 16)  # most batches of two hold no measured picture
    ]
    for tag, value in figures[0].items():
        assert value == pytest.approx(figures[1][tag], abs=1e-5, nan_ok=True)
    images, regions = pictures.gather([2, 3, 11])
    maps = forward_maps(arm(), images.float() / 255, pictures.targets[[2, 3, 11]], CamVariant.gradcam).maps
    expected = of_maps(maps, regions)
    for name, values in expected.items():
        tag = f"cam/{name}"
        assert figures[0][tag] == pytest.approx(float(values.nanmean()), abs=1e-5, nan_ok=True)


def test_closed_form_and_autograd_measure_the_same() -> None:
    images, target = torch.rand(5, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1])
    maps = [forward_maps(arm(closed), images, target, CamVariant.gradcam).maps for closed in (True, False)]
    torch.testing.assert_close(maps[0], maps[1])
    assert not maps[1].requires_grad


def test_values_of_each_picture_are_means_over_its_maps() -> None:
    _, pictures = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    measured = torch.arange(12) % 3 != 0
    found = evaluate([arm(True, 8)], all_batches(pictures, 5, CPU), CamVariant.gradcam, measured)
    entropy, dead = (found.each["baseline"][f"cam/{name}"] for name in ("entropy", "dead_rate"))
    assert dead.isnan().tolist() == [not chosen for chosen in measured.tolist()]
    number = int((entropy.isfinite() & (pictures.targets.sum(1) > 1)).nonzero()[0])
    images, _ = pictures.gather([number])
    target = pictures.targets[number : number + 1]
    maps = forward_maps(arm(True, 8), images.float() / 255, target, CamVariant.gradcam).maps
    assert len(maps) > 1
    assert float(entropy[number]) == pytest.approx(float(indicators.entropy(maps).nanmean()), abs=1e-5)
    assert not found.each["baseline"]["confidence/top_probability"].isnan().any()


@pytest.mark.parametrize("objects", [1, 3])
def test_faithfulness_is_that_of_each_map(objects: int) -> None:
    _, pictures = build_data(ShapesConfig(image_size=32, train=8, val=10, objects=objects), 0)
    measured = torch.arange(10) >= 6
    of_arm = arm(True, 8)
    found = evaluate_faithfulness([of_arm], all_batches(pictures, 4, CPU), CamVariant.gradcam, measured)
    images, _ = pictures.gather([7])
    images, target = images.float() / 255, pictures.targets[7:8]
    _, of, maps = forward_maps(of_arm, images, target, CamVariant.gradcam)
    normalised = (images - of_arm.model.mean) / of_arm.model.std
    drops, deletions = [], []
    for kind, single in zip(of.classes, maps, strict=True):

        def probability(changed: torch.Tensor, kind: torch.Tensor = kind) -> torch.Tensor:
            logits = of_arm.model.of_normalised(changed).logits.detach()
            return (logits.sigmoid() if objects > 1 else logits.softmax(1))[:, kind]

        drops.append(faithfulness.confidence(normalised, single[None], probability).drop)
        curve = faithfulness.curves(normalised, single[None], probability).deletion
        deletions.append(faithfulness.area_under(curve))
    each = found.each["baseline"]
    assert float(each["faithfulness/drop"][7]) == pytest.approx(
        float(torch.cat(drops).nanmean()), abs=1e-5, nan_ok=True
    )
    expected = float(torch.cat(deletions).nanmean())
    assert float(each["faithfulness/deletion"][7]) == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert each["faithfulness/drop"][:6].isnan().all()


def test_nothing_defined_is_nan() -> None:
    regions = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert math.isnan(float(of_maps(torch.rand(2, 4, 4), regions)["energy_in_mask"].nanmean()))


@pytest.mark.parametrize("variant", list(CamVariant))
def test_every_map_is_measured_alone_as_with_the_trained_one(variant: CamVariant) -> None:
    _, pictures = build_data(FakeConfig(image_size=32, val=6), 0)
    measured = torch.tensor([True, False, True, True, False, False])
    alone = evaluate_maps([arm()], all_batches(pictures, 4, CPU), variant, measured).means["baseline"]
    assert {tag.split("/")[1] for tag in alone} == {variant.value}
    assert 0 <= alone[f"other_maps/{variant.value}/entropy"] <= math.log(16)
    if variant in TRAINABLE:
        whole = evaluate([arm()], all_batches(pictures, 4, CPU), variant, measured).means["baseline"]
        for tag, value in alone.items():
            assert value == pytest.approx(whole[f"cam/{tag.split('/')[2]}"], nan_ok=True)


@pytest.mark.parametrize("closed", [True, False])
def test_several_classes_have_a_map_and_a_region_each(closed: bool) -> None:
    _, pictures = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    images, regions = pictures.gather(range(12))
    mapped = forward_maps(arm(closed, 8), images.float() / 255, pictures.targets, CamVariant.gradcam)
    assert mapped.maps.shape == (int(pictures.targets.sum()), 4, 4)
    measured = torch.ones(12, dtype=torch.bool)
    figures = evaluate([arm(closed, 8)], all_batches(pictures, 5, CPU), CamVariant.gradcam, measured).means["baseline"]
    assert 0 <= figures["average_precision/val"] <= 1
    assert "accuracy/val" not in figures
    assert "confidence/margin" not in figures
    energy = []
    for row, kind, single in zip(mapped.of.rows, mapped.of.classes, mapped.maps, strict=True):
        own = (regions[row] == kind + 1).to(torch.uint8)
        assert bool(own.any())
        energy.append(float(of_maps(single[None], own[None])["energy_in_mask"]))
    assert figures["cam/energy_in_mask"] == pytest.approx(sum(energy) / len(energy), abs=1e-5)
