"""Whether networks use what their maps show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from measured import context_of, network
from torch import Tensor, nn

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import rank, upsample
from camtrain.config.options import CamVariant
from camtrain.config.schema import FakeConfig, ShapesConfig
from camtrain.data.batches import Batch, Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.data.images import ImageSet
from camtrain.evaluation.accumulate import Measured
from camtrain.evaluation.every_epoch import evaluate
from camtrain.evaluation.faithfulness import Seen, fixed_orders, measure_faithfulness
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.other_maps import measure_other_maps
from camtrain.metrics import faithfulness
from camtrain.networks.capture import Captured, capture
from camtrain.networks.classifier import Classifier, Output


def shapes(val: int, objects: int = 1, size: int = 32) -> ImageSet:
    return build_data(ShapesConfig(image_size=size, train=8, val=val, objects=objects), 0)[1]


def measured_of(
    networks: dict[str, Any],
    images: ImageSet,
    which: Tensor,
    *,
    imputed: Tensor | None = None,
    methods: Sequence[CamVariant] = (),
    size: int | None = None,
) -> Measured:
    context = context_of(networks, images, which)
    if size is not None:
        context.batches = lambda chosen: all_batches(images, Batching(size), chosen)
    evaluated = evaluate(context.networks, all_batches(images, Batching(3)), CamVariant.gradcam, which)
    others = [measure_other_maps(context, context.batches(which), methods)] if methods else []
    powers = {contrast.control: torch.tensor([2.0, 2.0]) for contrast in context.contrasts}
    imputed = torch.zeros_like(which) if imputed is None else imputed
    return measure_faithfulness(context, evaluated, which, powers, imputed, others)


@pytest.mark.parametrize("objects", [1, 3])
def test_faithfulness_is_that_of_each_map(objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # At every 64th: where a curve is looked at otherwise hangs on its last digit, and so on the batch.
    monkeypatch.setattr(faithfulness, "curve_areas", partial(faithfulness.curve_areas, tolerance=-1.0))
    image_set, which = shapes(10, objects), torch.arange(10) >= 6
    trained = network(True, 8)
    found = measured_of({"baseline": trained, "other": network(True, 8, seed=1)}, image_set, which)
    images, _ = image_set.gather([7])
    images, target = images.float() / 255, image_set.targets[7:8]
    _, targets, maps = forward_maps(trained, images, target, CamVariant.gradcam)
    normalised = (images - trained.mean) / trained.std
    drops, deletions = [], []
    for kind, single in zip(targets.classes, maps, strict=True):

        def probability(changed: Tensor, _of: Tensor | None = None, kind: Tensor = kind) -> Tensor:
            logits = trained.forward_normalised(changed).logits.detach()
            return (logits.sigmoid() if objects > 1 else logits.softmax(1))[:, kind]

        ends = faithfulness.ends(normalised, probability)
        placement = trained.placement(images)
        left = probability(normalised * faithfulness.shown(single[None], (32, 32), placement))
        drops.append(faithfulness.confidence(ends.whole, left, single[None]).drop)
        order = rank(upsample(single[None], (32, 32), placement))[None]
        areas = faithfulness.curve_areas(normalised, order, ~is_dead(single[None])[None], probability, ends)
        deletions.append(areas.deletion[0])
    each = found.each["baseline"]
    for name, values in (("drop", drops), ("deletion", deletions)):
        expected = float(torch.cat(values).nanmean())
        assert math.isfinite(expected)
        assert float(each[f"faithfulness/{name}"][7]) == pytest.approx(expected, abs=1e-5)
    assert each["faithfulness/drop"][:6].isnan().all()
    assert "faithfulness/road" not in each
    # The control's maps are sharper, and so leave less to see.
    control = found.each["control"]
    assert control["faithfulness/drop"].nansum() >= each["faithfulness/drop"].nansum()
    assert control["faithfulness/complexity"].nansum() < each["faithfulness/complexity"].nansum()


def test_all_orders_of_a_network_share_its_ends_and_its_fixed_orders() -> None:
    """Passes are counted in images: nothing is computed twice."""
    image_set, which = shapes(4), torch.ones(4, dtype=torch.bool)
    trained = network(True, 8)
    context = context_of({"baseline": trained}, image_set, which)
    evaluated = evaluate(context.networks, context.batches(None), CamVariant.gradcam, which)
    methods = [CamVariant.layercam, CamVariant.gradcam]
    others = [measure_other_maps(context, context.batches(which), methods)]
    counted: list[int] = []
    passes = trained.forward_normalised

    def counting(images: Tensor) -> Output:
        counted.append(len(images))
        return passes(images)

    trained.forward_normalised = counting  # type: ignore[method-assign]
    Seen.of(trained, next(iter(context.batches(which))), evaluated.logits["baseline"])
    assert counted == [4, 4]  # the mean colour and the blurred images
    counted.clear()
    nothing = torch.zeros(4, dtype=torch.bool)
    measure_faithfulness(context, evaluated, which, {}, nothing, others)
    # An untrained network's probability hardly changes: three points of each curve, in the orders of its map, which is
    # that of Grad-CAM, and of LayerCAM, and in the three fixed ones.
    made = [evaluated.maps["baseline"], others[0].of("baseline", next(iter(context.batches(which))))[1][methods[0]]]
    alive = sum(int((~is_dead(maps)).sum()) for maps in made)
    assert alive >= 7
    assert sum(counted) == 4 * (2 + 1) + (alive + 3 * 4) * 2 * 3


class OfPixels(nn.Module):
    """A network whose probability depends on the share of the pixels that are as in the images, or on which these are.

    Args:
        images: (images, 3, height, width), which it knows by their first pixel that differs from 0.
        weights: (images, height, width), of the pixels.
    """

    def __init__(self, images: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.images, self.weights = images, weights / weights.sum((1, 2), keepdim=True)
        self.layer = nn.Conv2d(3, 2, 8, stride=8)
        self.steepness = 8.0

    def forward(self, images: Tensor) -> Tensor:
        cells = self.layer(images)
        same = (images[:, None] == self.images).all(2).double()
        share = (same * self.weights).sum((2, 3)).amax(1).float()
        score = self.steepness * (share - 0.5) + 0 * cells.mean((1, 2, 3))
        # Their sum depends on the layer, so that there is a map.
        return torch.stack([score, -score], 1) + cells.relu().mean((1, 2, 3))[:, None]


def of_pixels(steepness: float, by_object: bool) -> tuple[Captured, ImageSet]:
    made, images = OfPixels(torch.zeros(1), torch.ones(1, 1, 1)), shapes(6)
    pixels, regions = images.gather(list(range(6)))
    values = pixels.float() / 255
    # Every image is told by its number in each pixel, so that no changed pixel looks like one of another image.
    values = values + torch.arange(1.0, 7)[:, None, None, None]
    made.images, weights = (
        values,
        (regions > 0).double() if by_object else torch.ones_like(regions, dtype=torch.float64),
    )
    made.weights, made.steepness = weights / weights.sum((1, 2), keepdim=True), steepness
    return capture(made, "layer"), images


def batch_of(network: Captured, images: ImageSet) -> Batch:
    made = next(all_batches(images, Batching(6)))
    backbone: Any = network.backbone
    return made._replace(images=backbone.images, targets=torch.zeros(6, dtype=torch.int64))


def gains(network: Captured, batch: Batch, orders: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
    network.prepare(batch.images)
    every = torch.ones(len(batch.images), dtype=torch.bool)
    named = {str(number): (every, order) for number, order in enumerate(orders)}
    seen = Seen.of(network, batch)
    return seen.curves(named, fixed_orders(batch, 0), faithfulness.Falls.of([seen.known]))


def test_a_network_that_only_counts_pixels_has_no_gain() -> None:
    one, images = of_pixels(8, by_object=False)
    batch = batch_of(one, images)
    drawn = torch.rand(2, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    for figures in gains(one, batch, [rank(drawn[0]), rank(drawn[1])]).values():
        for name in ("gain", "gain_centre", "gain_object"):
            torch.testing.assert_close(figures[name], torch.zeros(6), atol=1e-5, rtol=0)


def test_a_network_that_ignores_the_image_has_no_gain_that_is_defined() -> None:
    one, images = of_pixels(0, by_object=False)
    figures = gains(one, batch_of(one, images), [rank(torch.rand(6, 32, 32))])["0"]
    assert figures["gain"].isnan().all()
    torch.testing.assert_close(figures["deletion"], torch.full((6,), 0.5))


def test_the_better_the_order_the_higher_the_gain() -> None:
    one, images = of_pixels(8, by_object=True)
    batch = batch_of(one, images)
    inside = (batch.regions > 0).float()
    chance = torch.rand(6, 32, 32, generator=torch.Generator().manual_seed(0))
    orders = [rank(inside * share + chance) for share in (1, 0.3, 0, -0.3, -1)]
    found = gains(one, batch, orders)
    course = torch.stack([found[str(number)]["gain"] for number in range(5)])
    assert bool((course.diff(dim=0) < 0).all())
    assert bool((course[0] > 0.3).all())
    assert float(course[4].mean()) < 0
    torch.testing.assert_close(found["0"]["gain_object"], torch.zeros(6), atol=0.02, rtol=0)


def test_fixed_orders_are_those_of_the_image_whatever_the_batch() -> None:
    images = shapes(4)
    whole, parts = next(all_batches(images, Batching(4))), list(all_batches(images, Batching(2)))
    for name, (there, order) in fixed_orders(whole, 3).items():
        pairs = [fixed_orders(part, 3)[name] for part in parts]
        assert torch.equal(there, torch.cat([pair[0] for pair in pairs]))
        assert torch.equal(order, torch.cat([pair[1] for pair in pairs]))
        assert torch.equal(order.flatten(1).sort().values[0], torch.arange(32 * 32, dtype=torch.int32))
    blocks, object_ = fixed_orders(whole, 3)["gain"][1], fixed_orders(whole, 3)["gain_object"][1]
    assert not torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks, fixed_orders(whole, 4)["gain"][1])
    inside = whole.regions > 0
    assert torch.equal(inside, object_ < inside.sum((1, 2), keepdim=True))
    # Blocks of 4 pixels hold 16 places in a row.
    assert set((blocks[0, :4, :4] // 16).flatten().tolist()) == {int(blocks[0, 0, 0]) // 16}


def test_no_object_no_gain_over_it() -> None:
    images = build_data(FakeConfig(image_size=32, val=3), 0)[1]
    batch = next(all_batches(images, Batching(3)))
    there, _ = fixed_orders(batch._replace(regions=torch.zeros_like(batch.regions)), 0)["gain_object"]
    assert not there.any()


def test_maps_of_some_images_have_figures_for_these() -> None:
    images, which = shapes(6), torch.ones(6, dtype=torch.bool)
    one = network(True, 8)
    context = context_of({"baseline": one}, images, which)
    evaluated = evaluate(context.networks, context.batches(None), CamVariant.gradcam, which)
    others = [
        measure_other_maps(context, context.batches(which), [CamVariant.gradcam]),
        measure_other_maps(context, context.batches(torch.arange(6) % 2 == 0), [CamVariant.eigencam]),
    ]
    nothing = torch.zeros(6, dtype=torch.bool)
    each = measure_faithfulness(context, evaluated, which, {}, nothing, others).each["baseline"]
    for name in ("deletion", "insertion"):
        own = each[f"faithfulness/{name}"]
        torch.testing.assert_close(each[f"other_maps/gradcam/{name}"], own, equal_nan=True)
        known = each[f"other_maps/eigencam/{name}"].isfinite()
        assert not known[1::2].any()
        assert known[::2].any()


def test_coherency_looks_at_the_map_of_what_is_shown() -> None:
    images, which = shapes(3), torch.ones(3, dtype=torch.bool)
    one = network(True, 8)
    found = measured_of({"baseline": one}, images, which).each["baseline"]
    pixels, _ = images.gather([1])
    batch = pixels.float() / 255
    target = images.targets[1:2]
    before = forward_maps(one, batch, target, CamVariant.gradcam).maps
    mask = faithfulness.shown(before, (32, 32), one.placement(batch))
    # The image multiplied by its map, in colours: the mean colour where nothing is shown.
    left = batch * mask[:, None] + one.mean * (1 - mask[:, None])
    after = forward_maps(one, left, target, CamVariant.gradcam).maps
    terms = faithfulness.adcc(before, after, found["faithfulness/drop"][1:2], (32, 32), one.placement(batch))
    for name, value in terms._asdict().items():
        assert float(found[f"faithfulness/{name}"][1]) == pytest.approx(float(value), abs=1e-4, nan_ok=True)


def test_road_is_measured_on_its_own_subset_whatever_the_batches() -> None:
    images, which, imputed = shapes(8), torch.arange(8) < 6, torch.arange(8) < 3
    one: Classifier = network(True, 8)
    found = [measured_of({"baseline": one}, images, which, imputed=imputed, size=size) for size in (2, 8)]
    roads = [part.each["baseline"]["faithfulness/road"] for part in found]
    torch.testing.assert_close(roads[0], roads[1], equal_nan=True, atol=1e-4, rtol=0)
    assert roads[0][3:].isnan().all()
    assert found[0].each["baseline"]["faithfulness/drop"][:6].isfinite().any()
