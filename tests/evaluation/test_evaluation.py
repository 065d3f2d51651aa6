"""Evaluation: a fixed subset of maps, means over the images for which a value is defined."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from camtrain.cam import distribution
from camtrain.cam.routes import GradientRoute as Way
from camtrain.cam.routes import Routes
from camtrain.cam.targets import regions_of_maps
from camtrain.config.options import TRAINABLE, CamVariant
from camtrain.config.schema import CamConfig, FakeConfig, ModelConfig, OptimConfig, ShapesConfig
from camtrain.data.batches import Batch, all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluation.after_training import (
    by_size,
    confidence_metrics,
    measure_faithfulness,
    measure_localisation,
    measure_other_maps,
    randomisation_test,
)
from camtrain.evaluation.every_epoch import evaluate, map_metrics
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.sharpened import sharpened
from camtrain.evaluation.subset import evenly_spaced
from camtrain.metrics import concentration, faithfulness, localisation
from camtrain.metrics.randomisation import STAGES, cascade
from camtrain.networks.build import build as build_model
from camtrain.networks.classifier import Output
from camtrain.report.build import gallery
from camtrain.training.arm import Arm
from camtrain.training.optim import make_optimiser

CPU = torch.device("cpu")


def arm(closed: bool = True, classes: int = 3, name: str = "baseline", seed: int = 0) -> Arm:
    model = build_model(ModelConfig(name="small_resnet"), classes, 32, seed).classifier
    way = Way.closed if closed else Way.autograd
    return Arm(name, model, make_optimiser(model, OptimConfig(), 1e-3), False, Routes(way, way))


def test_subset_is_measured_whatever_the_batches_hold() -> None:
    _, image_set = build_data(FakeConfig(image_size=32, val=16), 0)
    measured = torch.zeros(16, dtype=torch.bool)
    measured[[2, 3, 11]] = True
    figures = [
        evaluate([arm()], all_batches(image_set, size, CPU), CamVariant.gradcam, measured).measured.means["baseline"]
        for size in (2, 16)  # most batches of two hold no measured image
    ]
    for tag, value in figures[0].items():
        assert value == pytest.approx(figures[1][tag], abs=1e-5, nan_ok=True)
    images, regions = image_set.gather([2, 3, 11])
    maps = forward_maps(arm(), images.float() / 255, image_set.targets[[2, 3, 11]], CamVariant.gradcam).maps
    expected = map_metrics(maps, regions)
    for name, values in expected.items():
        tag = f"cam/{name}"
        assert figures[0][tag] == pytest.approx(float(values.nanmean()), abs=1e-5, nan_ok=True)


def test_closed_form_and_autograd_measure_the_same() -> None:
    images, target = torch.rand(5, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1])
    maps = [forward_maps(arm(closed), images, target, CamVariant.gradcam).maps for closed in (True, False)]
    torch.testing.assert_close(maps[0], maps[1])
    assert not maps[1].requires_grad


def test_values_of_each_image_are_means_over_its_maps() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    measured = torch.arange(12) % 3 != 0
    found = evaluate([arm(True, 8)], all_batches(image_set, 5, CPU), CamVariant.gradcam, measured).measured
    entropy, dead = (found.each["baseline"][f"cam/{name}"] for name in ("entropy", "dead_rate"))
    assert dead.isnan().tolist() == [not chosen for chosen in measured.tolist()]
    number = int((entropy.isfinite() & (image_set.targets.sum(1) > 1)).nonzero()[0])
    images, _ = image_set.gather([number])
    target = image_set.targets[number : number + 1]
    maps = forward_maps(arm(True, 8), images.float() / 255, target, CamVariant.gradcam).maps
    assert len(maps) > 1
    assert float(entropy[number]) == pytest.approx(float(concentration.entropy(maps).nanmean()), abs=1e-5)
    assert not found.each["baseline"]["confidence/top_probability"].isnan().any()


@pytest.mark.parametrize("by", [gallery.ENERGY, gallery.ENTROPY])
def test_of_several_classes_the_one_that_gained_or_lost_most_is_drawn(by: str, tmp_path: Path) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    arms = [arm(True, 8), arm(True, 8, "regularised", seed=1)]
    shown = list(range(12))
    chosen = gallery.Chosen(shown, shown, shown, by)
    drawn = gallery.write_gallery(tmp_path, arms, image_set, chosen, CamConfig(), CPU)
    images, regions = image_set.gather(shown)
    assert regions is not None
    mapped = [forward_maps(each, images.float() / 255, image_set.targets, CamVariant.gradcam) for each in arms]
    of = mapped[0].of
    own = regions_of_maps(regions, image_set.targets, of)
    before, after = (map_metrics(part.maps, own) for part in mapped)
    energy, entropy = (after[name] - before[name] for name in ("energy_in_mask", "entropy"))
    gain = energy if by == gallery.ENERGY else -entropy
    assert of.occurrence.max() > 0
    for number in shown:
        here = (of.rows == number).nonzero().flatten()
        best, worst = (here[(sign * gain[here]).nan_to_num(nan=-torch.inf).argmax()] for sign in (1, -1))
        for why, which in (("best", best), ("worst", worst), ("random", here[0])):
            (entry,) = (entry for entry in drawn if entry["file"] == f"pictures/{why}-{number}.png")
            assert entry["truth"] == image_set.classes[int(of.classes[which])]
            for name, figures in (("baseline", before), ("regularised", after)):
                assert entry[name]["energy_in_mask"] == pytest.approx(float(figures["energy_in_mask"][which]), abs=1e-4)
                assert entry[name]["entropy"] == pytest.approx(float(figures["entropy"][which]), abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("objects", [1, 3])
def test_faithfulness_is_that_of_each_map(objects: int) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=10, objects=objects), 0)
    measured = torch.arange(10) >= 6
    of_arm = arm(True, 8)
    nothing = torch.zeros(10, dtype=torch.bool)
    batches = all_batches(image_set, 4, CPU, chosen=measured)
    evaluated = evaluate([of_arm], all_batches(image_set, 3, CPU), CamVariant.gradcam, measured)
    found = measure_faithfulness([of_arm], evaluated, batches, 2.0, nothing, 0)
    images, _ = image_set.gather([7])
    images, target = images.float() / 255, image_set.targets[7:8]
    _, of, maps = forward_maps(of_arm, images, target, CamVariant.gradcam)
    normalised = (images - of_arm.model.mean) / of_arm.model.std
    drops, deletions = [], []
    for kind, single in zip(of.classes, maps, strict=True):

        def probability(changed: torch.Tensor, kind: torch.Tensor = kind) -> torch.Tensor:
            logits = of_arm.model.of_normalised(changed).logits.detach()
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


@pytest.mark.parametrize("objects", [1, 3])
def test_maps_of_some_images_are_found_again(objects: int) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=objects), 0)
    measured = torch.arange(12) % 4 != 1
    of_arm = arm(True, 8)
    evaluated = evaluate([of_arm], all_batches(image_set, 5, CPU), CamVariant.gradcam, measured)
    some = measured & (torch.arange(12) != 6)
    for batch in all_batches(image_set, 4, CPU, chosen=some):
        maps = forward_maps(of_arm, batch.images, batch.targets, CamVariant.gradcam).maps
        torch.testing.assert_close(evaluated.of("baseline", batch), maps, atol=1e-5, rtol=1e-4)
    everything = next(all_batches(image_set, 12, CPU))
    with pytest.raises(AssertionError):  # some were not measured
        evaluated.of("baseline", everything)
    backwards = Batch(*(part.flip(0) for part in next(all_batches(image_set, 12, CPU, chosen=some))))
    with pytest.raises(AssertionError):
        evaluated.of("baseline", backwards)


def test_several_kinds_of_maps_are_measured_as_one() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=4), 0)
    of_arm, batch = arm(True, 8), next(all_batches(image_set, 4, CPU))
    _, of, maps = forward_maps(of_arm, batch.images, batch.targets, CamVariant.gradcam)
    kinds = [maps, maps.flip(2)]
    counted = []
    passes = of_arm.model.of_normalised

    def counting(images: torch.Tensor) -> Output:
        counted.append(len(images))
        return passes(images)

    of_arm.model.of_normalised = counting  # type: ignore[method-assign]
    together = confidence_metrics(of_arm, batch.images, batch.targets, of, kinds)
    assert counted == [4] * (3 + 2 * (1 + 2 * 15))
    for kind, found in zip(kinds, together, strict=True):
        (alone,) = confidence_metrics(of_arm, batch.images, batch.targets, of, [kind])
        for name, values in found.items():
            torch.testing.assert_close(values, alone[name], equal_nan=True)


def test_what_each_image_adds_is_under_its_number() -> None:
    _, images = build_data(ShapesConfig(image_size=32, train=8, val=9, objects=3), 0)
    everything = torch.ones(9, dtype=torch.bool)
    batches = list(all_batches(images, 2, CPU))
    one, other = (
        evaluate([arm(True, 8)], order, CamVariant.gradcam, everything).measured for order in (batches, batches[::-1])
    )
    tag = "average_precision/val"
    assert float(one.each["baseline"][tag].mean()) == pytest.approx(one.means["baseline"][tag])
    torch.testing.assert_close(one.each["baseline"][tag], other.each["baseline"][tag])


def test_nothing_defined_is_nan() -> None:
    regions = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert math.isnan(float(map_metrics(torch.rand(2, 4, 4), regions)["energy_in_mask"].nanmean()))


@pytest.mark.parametrize("variant", list(CamVariant))
def test_every_map_is_measured_alone_as_with_the_trained_one(variant: CamVariant) -> None:
    _, images = build_data(FakeConfig(image_size=32, val=6), 0)
    measured = torch.tensor([True, False, True, True, False, False])
    trained = CamVariant.gradcam
    nothing = torch.zeros(6, dtype=torch.bool)
    found = measure_other_maps([arm()], all_batches(images, 4, CPU, chosen=measured), [variant], trained, nothing)
    alone = found.means["baseline"]
    assert {tag.split("/")[1] for tag in alone} == {variant.value}
    alike = alone.pop(f"other_maps/{variant.value}/with_trained")
    same = variant in (trained, CamVariant.cam, CamVariant.hirescam, CamVariant.xgradcam)
    assert (alike == pytest.approx(1, abs=1e-4)) == same
    assert 0 <= alone[f"other_maps/{variant.value}/entropy"] <= math.log(16)
    if variant in TRAINABLE:
        whole = evaluate([arm()], all_batches(images, 4, CPU), variant, measured).measured.means["baseline"]
        for tag, value in alone.items():
            assert value == pytest.approx(whole[f"cam/{tag.split('/')[2]}"], nan_ok=True)


@pytest.mark.parametrize("closed", [True, False])
def test_several_classes_have_a_map_and_a_region_each(closed: bool) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    images, regions = image_set.gather(range(12))
    mapped = forward_maps(arm(closed, 8), images.float() / 255, image_set.targets, CamVariant.gradcam)
    assert mapped.maps.shape == (int(image_set.targets.sum()), 4, 4)
    measured = torch.ones(12, dtype=torch.bool)
    figures = evaluate([arm(closed, 8)], all_batches(image_set, 5, CPU), CamVariant.gradcam, measured).measured.means[
        "baseline"
    ]
    assert 0 <= figures["average_precision/val"] <= 1
    assert "accuracy/val" not in figures
    assert "confidence/margin" not in figures
    energy = []
    for row, kind, single in zip(mapped.of.rows, mapped.of.classes, mapped.maps, strict=True):
        own = (regions[row] == kind + 1).to(torch.uint8)
        assert bool(own.any())
        energy.append(float(map_metrics(single[None], own[None])["energy_in_mask"]))
    assert figures["cam/energy_in_mask"] == pytest.approx(sum(energy) / len(energy), abs=1e-5)


def test_place_is_that_of_each_map() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12), 0)
    measured = torch.ones(12, dtype=torch.bool)
    arms = [arm(True, 8), arm(True, 8, "regularised", 1)]
    evaluated = evaluate(arms, all_batches(image_set, 5, CPU), CamVariant.gradcam, measured)
    maps = evaluated.maps
    found = measure_localisation(arms, evaluated, all_batches(image_set, 5, CPU), CamVariant.gradcam)
    images, regions = image_set.gather(range(12))
    control = sharpened(maps["baseline"], found.power)
    entropy = concentration.entropy(maps["regularised"]).nanmean()
    assert float(concentration.entropy(control).nanmean()) == pytest.approx(float(entropy), abs=1e-3)
    for name, those in (*maps.items(), ("control", control)):
        means = found.measured.means[name]
        overlap, boxes = localisation.overlap(those, regions), localisation.box_overlap(those, regions)
        assert means["cam/iou"] == pytest.approx(float(overlap.nanmean(0).max()), abs=1e-5)
        accuracy = [float((boxes >= level).float().mean(0).max()) for level in localisation.LEVELS]
        assert means["cam/box_accuracy"] == pytest.approx(sum(accuracy) / 3, abs=1e-5)
        counts = localisation.pixel_counts(those, regions)
        assert means["cam/pxap"] == pytest.approx(float(localisation.pixel_average_precision(counts)))
    mirrored = forward_maps(arms[0], (images.float() / 255).flip(3), image_set.targets, CamVariant.gradcam).maps
    alike = distribution.correlation(maps["baseline"].flip(2), mirrored)
    assert found.measured.means["baseline"]["stability/flip"] == pytest.approx(float(alike.nanmean()), abs=1e-4)
    assert [line["size"] for line in found.by_size] == ["small", "middle", "large", "all"]
    assert [line["pictures"] for line in found.by_size] == [4, 4, 4, 12]
    everything = found.by_size[-1]["regularised"]
    assert isinstance(everything, dict)
    assert everything["iou"] == pytest.approx(found.measured.means["regularised"]["cam/iou"])


def test_thirds_go_by_the_size_of_the_object() -> None:
    share = torch.tensor([0.5, 0.1, math.nan, 0.2, 0.9, 0.3, 0.6], dtype=torch.float64)
    values = torch.tensor([5.0, 1, 100, 2, 9, 3, 6], dtype=torch.float64)
    each = {"baseline": {f"cam/{tag}": values for tag in ("energy_in_mask", "pointing", "iou", "box_accuracy")}}
    lines = by_size(each, share)
    assert [(line["size"], line["from"], line["to"]) for line in lines] == [
        ("small", 0.1, 0.2),
        ("middle", 0.3, 0.5),
        ("large", 0.6, 0.9),
        ("all", 0.1, 0.9),
    ]
    assert [line["baseline"]["iou"] for line in lines] == [1.5, 4.0, 7.5, pytest.approx(26 / 6)]  # type: ignore[index]
    assert by_size(each, torch.full((7,), math.nan)) == []


def test_road_is_measured_on_its_own_subset_whatever_the_batches() -> None:
    _, images = build_data(ShapesConfig(image_size=32, train=8, val=8), 0)
    measured = torch.arange(8) < 6
    imputed = torch.arange(8) < 3
    one = arm(True, 8)
    evaluated = evaluate([one], all_batches(images, 3, CPU), CamVariant.gradcam, measured)
    found = [
        measure_faithfulness([one], evaluated, all_batches(images, size, CPU, chosen=measured), 2.0, imputed, 0)
        for size in (2, 8)
    ]
    roads = [part.each["baseline"]["faithfulness/road"] for part in found]
    torch.testing.assert_close(roads[0], roads[1], equal_nan=True, atol=1e-4, rtol=0)
    assert roads[0][3:].isnan().all()
    assert found[0].each["baseline"]["faithfulness/drop"][:6].isfinite().any()


def test_randomising_ends_in_the_fresh_network() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=8), 0)
    trained, other = arm(True, 8), arm(True, 8, seed=5)

    batches = list(all_batches(image_set, 4, CPU))
    evaluated = evaluate([trained], batches, CamVariant.gradcam, torch.ones(8, dtype=torch.bool))
    found = randomisation_test([trained], evaluated, batches, CamVariant.gradcam, 8, other.model.backbone.state_dict())
    curve = found.curves["baseline"]
    assert len(curve) == STAGES + 1
    assert curve[0] == pytest.approx(1, abs=1e-5)
    images, _ = image_set.gather(range(8))
    maps = [
        forward_maps(one, images.float() / 255, image_set.targets, CamVariant.gradcam).maps for one in (trained, other)
    ]
    alike = distribution.correlation(*maps)
    gone = distribution.is_dead(maps[1]) & ~distribution.is_dead(maps[0])
    expected = alike.masked_fill(gone, 0).nanmean()
    assert curve[-1] == pytest.approx(float(expected), abs=1e-4)
    assert found.measured.means["baseline"]["sanity/all"] == pytest.approx(curve[-1], abs=1e-6)
    assert found.measured.means["baseline"]["sanity/head"] == pytest.approx(curve[1], abs=1e-6)


def test_cascade_replaces_everything_from_the_last_to_the_first() -> None:
    trained, network = arm(True, 8).model.backbone, arm(True, 8, seed=5).model.backbone
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    state = trained.state_dict()
    differ = [name for name in state if not torch.equal(state[name], fresh[name])]
    left = []
    for _ in cascade(network, state):
        now = network.state_dict()
        left.append({name for name in differ if torch.equal(now[name], state[name])})
        assert all(torch.equal(now[name], state[name]) or torch.equal(now[name], fresh[name]) for name in now)
    assert left[0] == set(differ)
    assert left[-1] == set()
    assert all(later < earlier for earlier, later in itertools.pairwise(left))
    assert left[0] - left[1] <= {"fc.weight", "fc.bias"}


def test_a_part_of_the_images_is_spread_over_all_of_them() -> None:
    chosen = torch.arange(100) % 2 == 0
    some = evenly_spaced(chosen, 10)
    assert some.nonzero().flatten().tolist() == list(range(0, 100, 10))
    assert bool((chosen | ~some).all())
    assert int(evenly_spaced(chosen, 60).sum()) == 50
    assert int(evenly_spaced(chosen, 0).sum()) == 0
    nested = evenly_spaced(some, 3)
    assert int(nested.sum()) == 3
    assert bool((some | ~nested).all())
