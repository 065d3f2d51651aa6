"""Whether networks use what their maps show."""

from __future__ import annotations

import pytest
import torch
from measured import context_of, network

from camtrain.config.options import CamVariant
from camtrain.config.schema import ShapesConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluation.every_epoch import evaluate
from camtrain.evaluation.faithfulness import confidence_metrics, measure_faithfulness
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics import faithfulness
from camtrain.networks.classifier import Classifier, Output


def networks(one: Classifier) -> dict[str, Classifier]:
    return {"baseline": one}


@pytest.mark.parametrize("objects", [1, 3])
def test_faithfulness_is_that_of_each_map(objects: int) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=10, objects=objects), 0)
    measured = torch.arange(10) >= 6
    trained = network(True, 8)
    nothing = torch.zeros(10, dtype=torch.bool)
    batches = all_batches(image_set, Batching(4), measured)
    context = context_of({"baseline": trained, "other": network(True, 8, seed=1)}, image_set, measured)
    evaluated = evaluate(context.networks, all_batches(image_set, Batching(3)), CamVariant.gradcam, measured)
    found = measure_faithfulness(context, evaluated, batches, {"control": torch.tensor([2.0, 2.0])}, nothing)
    images, _ = image_set.gather([7])
    images, target = images.float() / 255, image_set.targets[7:8]
    _, targets, maps = forward_maps(trained, images, target, CamVariant.gradcam)
    normalised = (images - trained.mean) / trained.std
    drops, deletions = [], []
    for kind, single in zip(targets.classes, maps, strict=True):

        def probability(changed: torch.Tensor, kind: torch.Tensor = kind) -> torch.Tensor:
            logits = trained.forward_normalised(changed).logits.detach()
            return (logits.sigmoid() if objects > 1 else logits.softmax(1))[:, kind]

        ends = faithfulness.ends(normalised, probability)
        drops.append(faithfulness.confidence(normalised, single[None], probability, ends.whole).drop)
        curve = faithfulness.curves(normalised, single[None], probability, ends).deletion
        deletions.append(faithfulness.area_under(curve))
    each = found.each["baseline"]
    assert float(each["faithfulness/drop"][7]) == pytest.approx(
        float(torch.cat(drops).nanmean()), abs=1e-5, nan_ok=True
    )
    expected = float(torch.cat(deletions).nanmean())
    assert float(each["faithfulness/deletion"][7]) == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert each["faithfulness/drop"][:6].isnan().all()
    assert "faithfulness/road" not in each
    # The control's maps are sharper, and so leave less to see; the order of its pixels hardly differs.
    control = found.each["control"]
    assert control["faithfulness/drop"].nansum() >= each["faithfulness/drop"].nansum()


def test_several_kinds_of_maps_are_measured_as_one() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=4), 0)
    trained, batch = network(True, 8), next(all_batches(image_set, Batching(4)))
    _, targets, maps = forward_maps(trained, batch.images, batch.targets, CamVariant.gradcam)
    kinds = [maps, maps.flip(2)]
    counted = []
    passes = trained.forward_normalised

    def counting(images: torch.Tensor) -> Output:
        counted.append(len(images))
        return passes(images)

    trained.forward_normalised = counting  # type: ignore[method-assign]
    together = confidence_metrics(trained, batch.images, targets, kinds)
    assert counted == [4] * (3 + 2 * (1 + 2 * 15))
    for kind, found in zip(kinds, together, strict=True):
        (alone,) = confidence_metrics(trained, batch.images, targets, [kind])
        for name, values in found.items():
            torch.testing.assert_close(values, alone[name], equal_nan=True)


def test_road_is_measured_on_its_own_subset_whatever_the_batches() -> None:
    _, images = build_data(ShapesConfig(image_size=32, train=8, val=8), 0)
    measured = torch.arange(8) < 6
    imputed = torch.arange(8) < 3
    one = network(True, 8)
    context = context_of(networks(one), images, measured)
    evaluated = evaluate(context.networks, all_batches(images, Batching(3)), CamVariant.gradcam, measured)
    found = [
        measure_faithfulness(context, evaluated, all_batches(images, Batching(size), measured), {}, imputed)
        for size in (2, 8)
    ]
    roads = [part.each["baseline"]["faithfulness/road"] for part in found]
    torch.testing.assert_close(roads[0], roads[1], equal_nan=True, atol=1e-4, rtol=0)
    assert roads[0][3:].isnan().all()
    assert found[0].each["baseline"]["faithfulness/drop"][:6].isfinite().any()
