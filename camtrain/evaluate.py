"""Measure arms on the validation pictures: accuracy, confidence, and every indicator of the true class's logit map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain import faithfulness, indicators
from camtrain.arm import Arm, make_maps
from camtrain.cam import eigencam, scorecam
from camtrain.config import EVALUATION_ONLY, CamVariant, Score
from camtrain.data.batches import Batch
from camtrain.head import Path
from camtrain.model import Output
from camtrain.performance import ACCURACY, PRECISION, mean_average_precision, of_batch
from camtrain.score import Pairs, is_multilabel, of_pictures, pairs, probability, regions_of

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
    model, path = arm.model.eval(), arm.paths.evaluation
    of = pairs(target)
    by_gradient = variant not in EVALUATION_ONLY
    with torch.set_grad_enabled(by_gradient and path is not Path.closed):
        output = model(images)
    detached = Output(output.logits.detach(), output.activations.detach())
    if by_gradient:
        with torch.set_grad_enabled(path is not Path.closed):
            maps = make_maps(model, output, target, of, variant, EVALUATED_SCORE, path, train=False).detach()
    elif variant is CamVariant.eigencam:
        maps = of_pictures(eigencam(detached.activations), target, of)
    else:
        normalised = of_pictures((images - model.mean) / model.std, target, of)

        def score_of(masked: Tensor, number: int) -> Tensor:
            with torch.no_grad():
                return model.of_normalised(masked).logits[:, of.classes[number]]

        maps = scorecam(normalised, of_pictures(detached.activations, target, of), score_of)
    return Mapped(detached, of, maps)


class Measured(NamedTuple):
    """What was measured, by arm and tag."""

    means: dict[str, dict[str, float]]  # over maps or pictures; those that are not defined are left out, nan if all are
    each: dict[str, dict[str, Tensor]]  # (pictures,) float64, a picture's mean over its maps; nan where not defined


def evaluate(arms: Sequence[Arm], batches: Iterable[Batch], variant: CamVariant, measured: Tensor) -> Measured:
    """One pass over the validation pictures, each batch fed to every arm.

    Args:
        arms: what is measured.
        batches: the validation pictures.
        variant: which map.
        measured: (pictures,) bool, whose maps are measured; accuracy and confidence are of all.
    """
    values = _Values(arms, len(measured))
    peaks: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    cells = 0
    logits: dict[str, list[Tensor]] = {arm.name: [] for arm in arms}
    targets = []
    for batch in batches:
        chosen, numbers = (part.to(batch.images.device) for part in (measured[batch.indices], batch.indices))
        if is_multilabel(batch.targets):
            targets.append(batch.targets)
        for arm in arms:
            output, of, maps = forward_maps(arm, batch.images, batch.targets, variant)
            rows = of_pictures(chosen, batch.targets, of)
            regions = regions_of(batch.regions, batch.targets, of)
            values.add(arm, numbers, dict(of_logits(output.logits, batch.targets)))
            values.add(
                arm, of_pictures(numbers, batch.targets, of)[rows], _tagged("cam", of_maps(maps[rows], regions[rows]))
            )
            peaks[arm.name].append(indicators.peak(maps[rows]))
            cells = maps.shape[1] * maps.shape[2]
            if targets:
                logits[arm.name].append(output.logits)
    found = values.measured()
    for name, means in found.means.items():
        means["cam/peak_entropy"] = float(indicators.peak_entropy(torch.cat(peaks[name]), cells))
        if targets:
            means[f"{PRECISION}/val"] = mean_average_precision(torch.cat(logits[name]), torch.cat(targets))
    return found


def evaluate_maps(arms: Sequence[Arm], batches: Iterable[Batch], variant: CamVariant, measured: Tensor) -> Measured:
    """Indicators of another map than the trained one, with tags `other_maps/<map>/entropy` and so on.

    Arguments as for :func:`evaluate`.
    """
    values = _Values(arms, len(measured))
    for images, targets, regions, numbers in _only(batches, measured):
        for arm in arms:
            _, of, maps = forward_maps(arm, images, targets, variant)
            figures = of_maps(maps, regions_of(regions, targets, of))
            values.add(arm, of_pictures(numbers, targets, of), _tagged(f"other_maps/{variant.value}", figures))
    return values.measured()


def evaluate_faithfulness(
    arms: Sequence[Arm], batches: Iterable[Batch], variant: CamVariant, measured: Tensor
) -> Measured:
    """Whether each arm's network uses what its maps show, with tags `faithfulness/drop` and so on.

    Some 35 forward passes for each map. Arguments as for :func:`evaluate`.
    """
    values = _Values(arms, len(measured))
    for images, targets, _, numbers in _only(batches, measured):
        for arm in arms:
            _, of, maps = forward_maps(arm, images, targets, variant)
            figures = of_confidence(arm, images, targets, of, maps)
            values.add(arm, of_pictures(numbers, targets, of), _tagged("faithfulness", figures))
    return values.measured()


class _Values:
    """Figures of maps and pictures as they come in, batch by batch."""

    def __init__(self, arms: Sequence[Arm], pictures: int) -> None:
        self.pictures = pictures
        self.rows: dict[str, dict[str, list[tuple[Tensor, Tensor]]]] = {arm.name: {} for arm in arms}

    def add(self, arm: Arm, numbers: Tensor, figures: Mapping[str, Tensor]) -> None:
        """Values by tag, with the numbers of their pictures."""
        for tag, value in figures.items():
            self.rows[arm.name].setdefault(tag, []).append((numbers, value))

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


def _tagged(group: str, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{group}/{name}": value for name, value in figures.items()}


def of_confidence(arm: Arm, images: Tensor, targets: Tensor, of: Pairs, maps: Tensor) -> dict[str, Tensor]:
    """Every figure of :mod:`camtrain.faithfulness` of each map, by name."""
    model = arm.model
    rows = torch.arange(len(maps), device=images.device)
    own, of_own = of_pictures(targets, targets, of), Pairs(rows, of.classes)  # a picture for each map

    def of_class(changed: Tensor) -> Tensor:
        with torch.no_grad():
            return probability(model.of_normalised(changed).logits, own, of_own)

    normalised = of_pictures((images - model.mean) / model.std, targets, of)
    drop, increase = faithfulness.confidence(normalised, maps, of_class)
    deletion, insertion = map(faithfulness.area_under, faithfulness.curves(normalised, maps, of_class))
    return {"drop": drop, "increase": increase, "deletion": deletion, "insertion": insertion}


def _only(batches: Iterable[Batch], chosen: Tensor) -> Iterator[Batch]:
    """What is left of each batch if only the chosen pictures stay, (pictures,) bool."""
    for batch in batches:
        rows = chosen[batch.indices]
        if bool(rows.any()):
            here = rows.to(batch.images.device)
            yield Batch(
                batch.images[here], batch.targets[here], batch.regions[here], batch.indices[rows].to(here.device)
            )


def of_logits(logits: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(tag, value of each picture) from the logits alone. A margin is defined for one class per picture only."""
    if is_multilabel(target):
        yield "confidence/top_probability", logits.float().sigmoid().amax(1)
        return
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
