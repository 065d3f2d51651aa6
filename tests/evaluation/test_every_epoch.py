"""After every epoch: a fixed subset of maps, means over the images for which a value is defined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from measured import network

from camtrain.config.options import CamVariant
from camtrain.config.schema import FakeConfig, ShapesConfig
from camtrain.data.batches import Batch, Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluation.every_epoch import evaluate, map_metrics
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics import concentration
from camtrain.networks.classifier import Classifier


def networks(one: Classifier) -> dict[str, Classifier]:
    return {"baseline": one}


def test_subset_is_measured_whatever_the_batches_hold() -> None:
    _, image_set = build_data(FakeConfig(image_size=32, val=16), 0)
    measured = torch.zeros(16, dtype=torch.bool)
    measured[[2, 3, 11]] = True
    figures = [
        evaluate(
            networks(network()), all_batches(image_set, Batching(size)), CamVariant.gradcam, measured
        ).measured.means["baseline"]
        for size in (2, 16)  # most batches of two hold no measured image
    ]
    for tag, value in figures[0].items():
        assert value == pytest.approx(figures[1][tag], abs=1e-5, nan_ok=True)
    images, regions = image_set.gather([2, 3, 11])
    maps = forward_maps(network(), images.float() / 255, image_set.targets[[2, 3, 11]], CamVariant.gradcam).maps
    expected = map_metrics(maps, regions)
    for name, values in expected.items():
        tag = f"cam/{name}"
        assert figures[0][tag] == pytest.approx(float(values.nanmean()), abs=1e-5, nan_ok=True)


def test_what_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(one: Classifier, objects: int = 1, broken: Sequence[int] = ()) -> dict[str, str]:
        _, images = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=objects), 0)
        batches = list(all_batches(images, Batching(6)))
        batches[1].images[list(broken)] = math.inf
        measured = torch.arange(12) == 0  # the maps of the others are looked at all the same
        return evaluate({"baseline": one}, batches, CamVariant.gradcam, measured).not_finite

    trained = network(True, 8)
    assert found(trained) == {}
    assert found(trained, broken=[3]) == {
        "baseline": "the baseline arm's logits are not finite on 1 of 12 validation images"
    }
    with monkeypatch.context() as patch:
        patch.setattr(trained, "class_weights", lambda: torch.full((8, 64), math.nan))
        assert found(trained) == {"baseline": "the baseline arm's maps are not finite on 12 of 12 validation images"}
    norm = next(module for module in trained.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_var.fill_(-1.0)  # type: ignore[union-attr]
    assert trained.train()(torch.rand(2, 3, 32, 32)).logits.isfinite().all(), "training does not use it"
    for objects in (1, 3):
        assert "logits are not finite on 12" in found(trained, objects)["baseline"]


@pytest.mark.parametrize("count", [12, 16])  # of 8 classes, which take turns
def test_balanced_accuracy_has_a_value_of_each_image(count: int) -> None:
    _, images = build_data(ShapesConfig(image_size=32, train=8, val=count), 0)
    everything = torch.ones(count, dtype=torch.bool)
    trained = {"baseline": network(True, 8)}
    found = evaluate(trained, all_batches(images, Batching(5)), CamVariant.gradcam, everything).measured
    figure, each = found.means["baseline"]["accuracy/balanced"], found.each["baseline"]["accuracy/balanced"]
    right = found.each["baseline"]["accuracy/val"]
    recall = [float(right[images.targets == kind].mean()) for kind in images.targets.unique()]
    assert figure == float(each.mean()) == pytest.approx(sum(recall) / len(recall))
    if images.targets.bincount().unique().numel() == 1:
        assert figure == found.means["baseline"]["accuracy/val"]


def test_closed_form_and_autograd_measure_the_same() -> None:
    images, target = torch.rand(5, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1])
    maps = [forward_maps(network(closed), images, target, CamVariant.gradcam).maps for closed in (True, False)]
    torch.testing.assert_close(maps[0], maps[1])
    assert not maps[1].requires_grad


def test_values_of_each_image_are_means_over_its_maps() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    measured = torch.arange(12) % 3 != 0
    found = evaluate(
        networks(network(True, 8)), all_batches(image_set, Batching(5)), CamVariant.gradcam, measured
    ).measured
    entropy, dead = (found.each["baseline"][f"cam/{name}"] for name in ("entropy", "dead_rate"))
    assert dead.isnan().tolist() == [not chosen for chosen in measured.tolist()]
    number = int((entropy.isfinite() & (image_set.targets.sum(1) > 1)).nonzero()[0])
    images, _ = image_set.gather([number])
    target = image_set.targets[number : number + 1]
    maps = forward_maps(network(True, 8), images.float() / 255, target, CamVariant.gradcam).maps
    assert len(maps) > 1
    assert float(entropy[number]) == pytest.approx(float(concentration.entropy(maps).nanmean()), abs=1e-5)
    assert not found.each["baseline"]["confidence/top_probability"].isnan().any()


@pytest.mark.parametrize("objects", [1, 3])
def test_maps_of_some_images_are_found_again(objects: int) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=objects), 0)
    measured = torch.arange(12) % 4 != 1
    trained = network(True, 8)
    evaluated = evaluate(networks(trained), all_batches(image_set, Batching(5)), CamVariant.gradcam, measured)
    some = measured & (torch.arange(12) != 6)
    for batch in all_batches(image_set, Batching(4), some):
        logits, _, maps = forward_maps(trained, batch.images, batch.targets, CamVariant.gradcam)
        torch.testing.assert_close(evaluated.logits_of("baseline", batch), logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(evaluated.maps_of("baseline", batch), maps, atol=1e-5, rtol=1e-4)
    everything = next(all_batches(image_set, Batching(12)))
    with pytest.raises(AssertionError):  # some were not measured
        evaluated.maps_of("baseline", everything)
    backwards = Batch(*(part.flip(0) for part in next(all_batches(image_set, Batching(12), some))[:4]))
    with pytest.raises(AssertionError):
        evaluated.maps_of("baseline", backwards)


def test_what_each_image_adds_is_under_its_number() -> None:
    _, images = build_data(ShapesConfig(image_size=32, train=8, val=9, objects=3), 0)
    everything = torch.ones(9, dtype=torch.bool)
    batches = list(all_batches(images, Batching(2)))
    one, other = (
        evaluate(networks(network(True, 8)), order, CamVariant.gradcam, everything).measured
        for order in (batches, batches[::-1])
    )
    tag = "average_precision/val"
    assert float(one.each["baseline"][tag].mean()) == pytest.approx(one.means["baseline"][tag])
    torch.testing.assert_close(one.each["baseline"][tag], other.each["baseline"][tag])


def test_nothing_defined_is_nan() -> None:
    regions = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert math.isnan(float(map_metrics(torch.rand(2, 4, 4), regions)["energy_in_mask"].nanmean()))


@pytest.mark.parametrize("closed", [True, False])
def test_several_classes_have_a_map_and_a_region_each(closed: bool) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    images, regions = image_set.gather(range(12))
    mapped = forward_maps(network(closed, 8), images.float() / 255, image_set.targets, CamVariant.gradcam)
    assert mapped.maps.shape == (int(image_set.targets.sum()), 4, 4)
    measured = torch.ones(12, dtype=torch.bool)
    figures = evaluate(
        networks(network(closed, 8)), all_batches(image_set, Batching(5)), CamVariant.gradcam, measured
    ).measured.means["baseline"]
    assert 0 <= figures["average_precision/val"] <= 1
    assert "accuracy/val" not in figures
    assert "confidence/margin" not in figures
    energy = []
    for row, kind, single in zip(mapped.targets.rows, mapped.targets.classes, mapped.maps, strict=True):
        own = (regions[row] == kind + 1).to(torch.uint8)
        assert bool(own.any())
        energy.append(float(map_metrics(single[None], own[None])["energy_in_mask"]))
    assert figures["cam/energy_in_mask"] == pytest.approx(sum(energy) / len(energy), abs=1e-5)
