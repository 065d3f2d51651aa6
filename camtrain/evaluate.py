"""Measure arms on the validation pictures: accuracy, confidence, and every indicator of the true class's logit map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from camtrain import indicators
from camtrain.arm import Arm, make_map
from camtrain.config import CamVariant, Score
from camtrain.data.pictures import Batch
from camtrain.model import Output

# The map that is measured is that of the logit, as published, whatever score was trained.
EVALUATED_SCORE = Score.logit


def forward_maps(arm: Arm, images: Tensor, target: Tensor, variant: CamVariant) -> tuple[Output, Tensor]:
    """Evaluation-mode output and maps (batch, height, width), before ReLU, detached. Leaves the mode at evaluation."""
    arm.model.eval()
    closed = arm.paths.evaluation
    with torch.set_grad_enabled(not closed):
        output = arm.model(images)
        maps = make_map(arm.model, output, target, variant, EVALUATED_SCORE, closed, train=False)
    return Output(output.logits.detach(), output.activations.detach()), maps.detach()


def evaluate(
    arms: Sequence[Arm], batches: Iterable[Batch], variant: CamVariant, measured: Tensor, device: torch.device
) -> dict[str, dict[str, float]]:
    """One pass over the validation pictures, each batch fed to every arm.

    Args:
        arms: what is measured.
        batches: the validation pictures.
        variant: which map.
        measured: (pictures,) bool, whose maps are measured; accuracy and confidence are of all.
        device: where the arms are.

    Returns:
        For each arm, the mean over pictures of every tag. Pictures for which a value is not defined (a dead map's
        entropy, energy in mask without a mask) are left out of its mean; nan if that leaves none.
    """
    values: dict[str, list[dict[str, Tensor]]] = {arm.name: [] for arm in arms}
    for batch in batches:
        chosen = measured[batch.indices].to(device)
        batch = batch.to(device)
        for arm in arms:
            output, maps = forward_maps(arm, batch.images, batch.targets, variant)
            of_batch = dict(of_logits(output.logits, batch.targets))
            of_batch |= of_maps(maps[chosen], batch.regions[chosen])
            values[arm.name].append(of_batch)
    return {
        name: {tag: float(torch.cat([row[tag] for row in rows]).double().nanmean()) for tag in rows[0]}
        for name, rows in values.items()
    }


def of_logits(logits: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(tag, value of each picture) from the logits alone."""
    top = logits.float().softmax(1).topk(2, dim=1).values
    yield "accuracy/val", (logits.argmax(1) == target).float()
    yield "confidence/top_probability", top[:, 0]
    yield "confidence/margin", top[:, 0] - top[:, 1]


def of_maps(maps: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Every indicator of each picture's map, by tag."""
    return {
        "cam/entropy": indicators.entropy(maps),
        "cam/area": indicators.area(maps),
        "cam/dispersion": indicators.dispersion(maps),
        "cam/contrast": indicators.contrast(maps),
        "cam/dead_rate": indicators.is_dead(maps).float(),
        "cam/energy_in_mask": indicators.energy_in_mask(maps, regions),
        "cam/pointing": indicators.pointing(maps, regions),
    }
