"""Measure arms after an epoch: accuracy, confidence, and the indicators of the true class's logit map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam import distribution
from camtrain.cam.targets import expand_to_maps, is_multilabel, map_targets, regions_of_maps
from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics import concentration, pointing
from camtrain.metrics.classification import (
    ACCURACY,
    PRECISION,
    average_precision_per_image,
    calibration_error,
    is_correct,
    mean_average_precision,
    prediction_entropy,
)
from camtrain.training.arm import Arm


class Evaluated(NamedTuple):
    measured: Measured
    maps: dict[str, Tensor]  # by arm: (maps, height, width) of the measured images, before ReLU
    numbers: Tensor  # (maps,) int64, on the CPU: of which image each map is

    def of(self, name: str, batch: Batch) -> Tensor:
        """The arm's maps of some of these images; in both, images come in the same order."""
        chosen = torch.isin(self.numbers, batch.indices)
        assert torch.equal(self.numbers[chosen], _image_of_each_map(batch))
        return self.maps[name][chosen.to(self.maps[name].device)]


def _image_of_each_map(batch: Batch) -> Tensor:
    targets = batch.targets.cpu()
    return expand_to_maps(batch.indices, targets, map_targets(targets))


def evaluate(arms: Sequence[Arm], batches: Iterable[Batch], variant: CamVariant, measured: Tensor) -> Evaluated:
    """One pass over the validation images, each batch fed to every arm.

    Args:
        arms: what is measured.
        batches: the validation images.
        variant: which map.
        measured: (images,) bool, whose maps are measured; accuracy and confidence are of all.
    """
    values = Values([arm.name for arm in arms], len(measured))
    kept: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    logits: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    targets, indices, image_set = [], [], []
    for batch in batches:
        chosen, numbers = (part.to(batch.images.device) for part in (measured[batch.indices], batch.indices))
        if is_multilabel(batch.targets):
            targets.append(batch.targets)
        indices.append(batch.indices)
        of_map = _image_of_each_map(batch)
        image_set.append(of_map[measured[of_map]])
        for arm in arms:
            output, of, maps = forward_maps(arm, batch.images, batch.targets, variant)
            rows = expand_to_maps(chosen, batch.targets, of)
            regions = regions_of_maps(batch.regions, batch.targets, of)
            values.add(arm.name, numbers, dict(classification_metrics(output.logits, batch.targets)))
            figures = tagged("cam", map_metrics(maps[rows], regions[rows]))
            values.add(arm.name, expand_to_maps(numbers, batch.targets, of)[rows], figures)
            kept[arm.name].append(maps[rows])
            if targets:
                logits[arm.name].append(output.logits)
    found = values.measured()
    maps_of = {name: torch.cat(parts) for name, parts in kept.items()}
    for name, means in found.means.items():
        means["cam/peak_entropy"] = peak_entropy(maps_of[name])
        if targets:
            both = torch.cat(logits[name]), torch.cat(targets)
            means[f"{PRECISION}/val"] = mean_average_precision(*both)
            found.each[name][f"{PRECISION}/val"] = torch.full((len(measured),), torch.nan, dtype=torch.float64)
            found.each[name][f"{PRECISION}/val"][torch.cat(indices)] = average_precision_per_image(*both).cpu()
        else:
            each = found.each[name]
            error = calibration_error(each["confidence/top_probability"], each[f"{ACCURACY}/val"])
            means["confidence/calibration_error"] = float(error)
    return Evaluated(found, maps_of, torch.cat(image_set))


def peak_entropy(maps: Tensor) -> float:
    """Entropy of where the maps peak, see :func:`camtrain.metrics.concentration.peak_entropy`."""
    return float(concentration.peak_entropy(concentration.peak(maps), maps.shape[1] * maps.shape[2]))


def classification_metrics(logits: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(tag, value of each image) from the logits alone. A margin is defined for one class per image only."""
    if is_multilabel(target):
        yield "confidence/top_probability", logits.float().sigmoid().amax(1)
        return
    yield "confidence/entropy", prediction_entropy(logits.float())
    top = logits.float().softmax(1).topk(2, dim=1).values
    yield f"{ACCURACY}/val", is_correct(logits, target)
    yield "confidence/top_probability", top[:, 0]
    yield "confidence/margin", top[:, 0] - top[:, 1]


def map_metrics(maps: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Every indicator of each map, by name."""
    return {
        "entropy": concentration.entropy(maps),
        "area": concentration.area(maps),
        "dispersion": concentration.dispersion(maps),
        "contrast": concentration.contrast(maps),
        "gini": concentration.gini(maps),
        "top_tenth": concentration.top_tenth(maps),
        "border_mass": concentration.border_mass(maps),
        "dead_rate": distribution.is_dead(maps).float(),
        "energy_in_mask": pointing.energy_in_mask(maps, regions),
        "pointing": pointing.pointing(maps, regions),
    }
