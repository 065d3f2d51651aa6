"""Measure arms after an epoch: accuracy, confidence, and the indicators of the true class's logit map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain import indicators
from camtrain.arm import Arm, map_gradient
from camtrain.cam import class_activation_map, eigencam, scorecam
from camtrain.config import EVALUATION_ONLY, CamVariant, Score
from camtrain.data.batches import Batch
from camtrain.head import Path
from camtrain.model import Output
from camtrain.performance import (
    ACCURACY,
    PRECISION,
    calibration_error,
    mean_average_precision,
    of_batch,
    of_each_picture,
    prediction_entropy,
)
from camtrain.score import Pairs, is_multilabel, of_pictures, pairs, regions_of

# The map that is measured is that of the logit, as published, whatever score was trained.
EVALUATED_SCORE = Score.logit


class Mapped(NamedTuple):
    """A batch's output in evaluation mode, detached, and its maps."""

    output: Output
    of: Pairs
    maps: Tensor  # (maps, height, width), before ReLU


def forward_maps(arm: Arm, images: Tensor, target: Tensor, variant: CamVariant) -> Mapped:
    """The map of the class, or of every positive class, of every picture. Leaves the mode at evaluation.

    Args:
        arm: whose network.
        images: (batch, 3, height, width), 0..1.
        target: (batch,) int64, or (batch, classes) of 0 and 1.
        variant: which map.
    """
    output, of, maps = forward_several(arm, images, target, [variant])
    return Mapped(output, of, maps[variant])


def forward_several(
    arm: Arm, images: Tensor, target: Tensor, variants: Sequence[CamVariant]
) -> tuple[Output, Pairs, dict[CamVariant, Tensor]]:
    """Several maps from one forward pass and one gradient; otherwise as :func:`forward_maps`."""
    model, path = arm.model.eval(), arm.paths.evaluation
    of = pairs(target)
    by_gradient = any(variant not in EVALUATION_ONLY for variant in variants)
    gradient = None
    with torch.set_grad_enabled(by_gradient and path is not Path.closed):
        output = model(images)
        if by_gradient:
            gradient = map_gradient(model, output, target, of, EVALUATED_SCORE, path, train=False).detach()
    detached = Output(output.logits.detach(), output.activations.detach())
    activations = of_pictures(detached.activations, target, of)

    def score_of(masked: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            return model.of_normalised(masked).logits[:, of.classes[number]]

    maps: dict[CamVariant, Tensor] = {}
    for variant in variants:
        if variant is CamVariant.eigencam:
            maps[variant] = of_pictures(eigencam(detached.activations), target, of)
        elif variant is CamVariant.scorecam:
            normalised = of_pictures((images - model.mean) / model.std, target, of)
            maps[variant] = scorecam(normalised, activations, score_of)
        else:
            assert gradient is not None
            maps[variant] = class_activation_map(variant, activations, gradient)
    return detached, of, maps


class Measured(NamedTuple):
    """What was measured, by arm (or the control) and tag."""

    means: dict[str, dict[str, float]]  # over maps or pictures; those that are not defined are left out, nan if all are
    each: dict[str, dict[str, Tensor]]  # (pictures,) float64, a picture's mean over its maps; nan where not defined


class Evaluated(NamedTuple):
    measured: Measured
    maps: dict[str, Tensor]  # by arm: (maps, height, width) of the measured pictures, before ReLU
    numbers: Tensor  # (maps,) int64, on the CPU: of which picture each map is

    def of(self, name: str, batch: Batch) -> Tensor:
        """The arm's maps of some of these pictures; in both, pictures come in the same order."""
        chosen = torch.isin(self.numbers, batch.indices)
        assert torch.equal(self.numbers[chosen], _picture_of_each_map(batch))
        return self.maps[name][chosen.to(self.maps[name].device)]


def _picture_of_each_map(batch: Batch) -> Tensor:
    targets = batch.targets.cpu()
    return of_pictures(batch.indices, targets, pairs(targets))


def evaluate(arms: Sequence[Arm], batches: Iterable[Batch], variant: CamVariant, measured: Tensor) -> Evaluated:
    """One pass over the validation pictures, each batch fed to every arm.

    Args:
        arms: what is measured.
        batches: the validation pictures.
        variant: which map.
        measured: (pictures,) bool, whose maps are measured; accuracy and confidence are of all.
    """
    values = Values([arm.name for arm in arms], len(measured))
    kept: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    logits: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    targets, indices, pictures = [], [], []
    for batch in batches:
        chosen, numbers = (part.to(batch.images.device) for part in (measured[batch.indices], batch.indices))
        if is_multilabel(batch.targets):
            targets.append(batch.targets)
        indices.append(batch.indices)
        of_map = _picture_of_each_map(batch)
        pictures.append(of_map[measured[of_map]])
        for arm in arms:
            output, of, maps = forward_maps(arm, batch.images, batch.targets, variant)
            rows = of_pictures(chosen, batch.targets, of)
            regions = regions_of(batch.regions, batch.targets, of)
            values.add(arm.name, numbers, dict(of_logits(output.logits, batch.targets)))
            figures = tagged("cam", of_maps(maps[rows], regions[rows]))
            values.add(arm.name, of_pictures(numbers, batch.targets, of)[rows], figures)
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
            found.each[name][f"{PRECISION}/val"][torch.cat(indices)] = of_each_picture(*both).cpu()
        else:
            each = found.each[name]
            error = calibration_error(each["confidence/top_probability"], each[f"{ACCURACY}/val"])
            means["confidence/calibration_error"] = float(error)
    return Evaluated(found, maps_of, torch.cat(pictures))


def peak_entropy(maps: Tensor) -> float:
    """Entropy of where the maps peak, see :func:`camtrain.indicators.peak_entropy`."""
    return float(indicators.peak_entropy(indicators.peak(maps), maps.shape[1] * maps.shape[2]))


class Values:
    """Figures of maps and pictures as they come in, batch by batch."""

    def __init__(self, names: Iterable[str], pictures: int) -> None:
        self.pictures = pictures
        self.rows: dict[str, dict[str, list[tuple[Tensor, Tensor]]]] = {name: {} for name in names}

    def add(self, name: str, numbers: Tensor, figures: Mapping[str, Tensor]) -> None:
        """Values by tag, of an arm or a map of that name, with the numbers of their pictures."""
        for tag, value in figures.items():
            self.rows[name].setdefault(tag, []).append((numbers, value))

    def measured(self) -> Measured:
        joined = {
            name: {
                tag: tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True)) for tag, parts in of_arm.items()
            }
            for name, of_arm in self.rows.items()
        }
        means = {
            name: {tag: float(value.double().nanmean()) for tag, (_, value) in tags.items()}
            for name, tags in joined.items()
        }
        each = {
            name: {tag: self._each(numbers, value.double()) for tag, (numbers, value) in tags.items()}
            for name, tags in joined.items()
        }
        return Measured(means, each)

    def _each(self, numbers: Tensor, values: Tensor) -> Tensor:
        known = ~values.isnan()
        total, count = torch.zeros(2, self.pictures, dtype=torch.float64)
        total.index_add_(0, numbers[known], values[known])
        count.index_add_(0, numbers[known], torch.ones_like(values[known]))
        return torch.where(count > 0, total / count, torch.nan)


def tagged(group: str, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the group in front of each name."""
    return {f"{group}/{name}": value for name, value in figures.items()}


def of_logits(logits: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(tag, value of each picture) from the logits alone. A margin is defined for one class per picture only."""
    if is_multilabel(target):
        yield "confidence/top_probability", logits.float().sigmoid().amax(1)
        return
    yield "confidence/entropy", prediction_entropy(logits.float())
    top = logits.float().softmax(1).topk(2, dim=1).values
    yield f"{ACCURACY}/val", of_batch(logits, target)
    yield "confidence/top_probability", top[:, 0]
    yield "confidence/margin", top[:, 0] - top[:, 1]


def of_maps(maps: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Every indicator of each map, by name."""
    return {
        "entropy": indicators.entropy(maps),
        "area": indicators.area(maps),
        "dispersion": indicators.dispersion(maps),
        "contrast": indicators.contrast(maps),
        "gini": indicators.gini(maps),
        "top_tenth": indicators.top_tenth(maps),
        "border_mass": indicators.border_mass(maps),
        "dead_rate": indicators.is_dead(maps).float(),
        "energy_in_mask": indicators.energy_in_mask(maps, regions),
        "pointing": indicators.pointing(maps, regions),
    }
