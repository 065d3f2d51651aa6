"""Where maps lie, beside sharpened and trivial ones, and how stable they are."""

from __future__ import annotations

import math

import pytest
import torch
from measured import context_of, network

from camtrain.cam import distribution, stretch
from camtrain.config.options import CamVariant
from camtrain.config.schema import ShapesConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluation.equivariance import measure_equivariance
from camtrain.evaluation.every_epoch import evaluate
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.localisation import by_size, measure_localisation
from camtrain.evaluation.sharpened import HIGHEST, LOWEST, powers_for, sharpened
from camtrain.metrics import concentration, localisation


def test_place_is_that_of_each_map() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12), 0)
    measured = torch.ones(12, dtype=torch.bool)
    networks = {"baseline": network(True, 8), "regularised": network(True, 8, 1), "third": network(True, 8, 2)}
    context = context_of(networks, image_set, measured)
    evaluated = evaluate(networks, all_batches(image_set, Batching(5)), CamVariant.gradcam, measured)
    maps = evaluated.maps
    found = measure_localisation(context, evaluated, all_batches(image_set, Batching(5)))
    images, regions = image_set.gather(range(12))
    fold, placement = context.fold, networks["baseline"].placement(images)
    assert sorted(fold.tolist()) == [0] * 6 + [1] * 6
    controls, compared = {}, 0
    for contrast in context.contrasts:
        treatment = maps[contrast.treatment]
        for name, measure in ((contrast.control, concentration.entropy), (contrast.control_area, concentration.area)):
            controls[name] = sharpened(maps["baseline"], found.powers[name][fold])
            powers = powers_for(maps["baseline"], treatment, fold, measure)
            assert found.powers[name].tolist() == pytest.approx(powers.tolist())
        for half in (0, 1):  # the power of one half gives the maps of the other what they are to have
            power = float(found.powers[contrast.control][half])
            if not 1.01 * LOWEST < power < 0.99 * HIGHEST:  # no power gives them that
                continue
            other = sharpened(maps["baseline"][fold != half], power)
            wanted = float(concentration.entropy(treatment[fold != half]).nanmean())
            assert float(concentration.entropy(other).nanmean()) == pytest.approx(wanted, abs=1e-3)
            compared += 1
    assert compared >= 2
    assert list(controls) == ["control", "control_area", "control:third", "control_area:third"]
    for name, those in (*maps.items(), *controls.items()):
        means = found.measured.means[name]
        overlap, boxes = (
            measure(those, regions, placement) for measure in (localisation.overlap, localisation.box_overlap)
        )
        judged = [overlap[fold == half][:, overlap[fold != half].mean(0).argmax()] for half in (0, 1)]
        assert means["cam/iou"] == pytest.approx(float(torch.cat(judged).mean()), abs=1e-5)
        accuracy = []
        for level in localisation.LEVELS:
            correct = (boxes >= level).float()
            accuracy += [correct[fold == half][:, correct[fold != half].mean(0).argmax()] for half in (0, 1)]
        assert means["cam/box_accuracy"] == pytest.approx(float(torch.cat(accuracy).mean()), abs=1e-5)
        counts = localisation.pixel_counts(those, regions, placement)
        assert means["cam/pxap"] == pytest.approx(float(localisation.pixel_average_precision(counts)))
    mirrored = forward_maps(
        networks["baseline"], (images.float() / 255).flip(3), image_set.targets, CamVariant.gradcam
    ).maps
    drawn = [stretch.upsample(those, (32, 32), placement) for those in (maps["baseline"], mirrored)]
    alike = distribution.correlation(drawn[0].flip(2), drawn[1])
    stable = measure_equivariance(context, evaluated, context.batches(measured), found.powers)
    assert stable.means["baseline"]["stability/flip"] == pytest.approx(float(alike.nanmean()), abs=1e-4)
    powers = found.powers["control"][fold]
    drawn = [stretch.upsample(sharpened(those, powers), (32, 32), placement) for those in (maps["baseline"], mirrored)]
    alike = distribution.correlation(drawn[0].flip(2), drawn[1])
    assert stable.means["control"]["stability/flip"] == pytest.approx(float(alike.nanmean()), abs=1e-4)
    assert [group.size for group in found.by_size] == ["small", "middle", "large", "all"]
    assert [group.images for group in found.by_size] == [4, 4, 4, 12]
    everything = found.by_size[-1].figures["regularised"]
    assert everything["iou"] == pytest.approx(found.measured.means["regularised"]["cam/iou"])


def test_thirds_go_by_the_size_of_the_object() -> None:
    share = torch.tensor([0.5, 0.1, math.nan, 0.2, 0.9, 0.3, 0.6], dtype=torch.float64)
    values = torch.tensor([5.0, 1, 100, 2, 9, 3, 6], dtype=torch.float64)
    each = {"baseline": {f"cam/{tag}": values for tag in ("energy_in_mask", "pointing", "iou", "box_accuracy")}}
    groups = by_size(each, share)
    assert [(group.size, group.low, group.high) for group in groups] == [
        ("small", 0.1, 0.2),
        ("middle", 0.3, 0.5),
        ("large", 0.6, 0.9),
        ("all", 0.1, 0.9),
    ]
    assert [group.figures["baseline"]["iou"] for group in groups] == [1.5, 4.0, 7.5, pytest.approx(26 / 6)]
    assert by_size(each, torch.full((7,), math.nan)) == []
