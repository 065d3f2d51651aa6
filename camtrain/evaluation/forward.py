"""Maps and logits of images from one forward pass in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.make import map_gradient
from camtrain.cam.methods import class_activation_map, eigencam, scorecam
from camtrain.cam.routes import GradientRoute
from camtrain.cam.targets import MapTargets, expand_to_maps, map_targets
from camtrain.config.options import EVALUATION_ONLY, CamVariant, Score
from camtrain.networks.classifier import Output
from camtrain.training.arm import Arm

# The map that is measured is that of the logit, as published, whatever score was trained.
EVALUATED_SCORE = Score.logit


class Mapped(NamedTuple):
    """A batch's output in evaluation mode, detached, and its maps."""

    output: Output
    of: MapTargets
    maps: Tensor  # (maps, height, width), before ReLU


def forward_maps(arm: Arm, images: Tensor, target: Tensor, variant: CamVariant) -> Mapped:
    """The map of the class, or of every positive class, of every image. Leaves the mode at evaluation.

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
) -> tuple[Output, MapTargets, dict[CamVariant, Tensor]]:
    """Several maps from one forward pass and one gradient; otherwise as :func:`forward_maps`."""
    model, path = arm.model.eval(), arm.paths.evaluation
    of = map_targets(target)
    by_gradient = any(variant not in EVALUATION_ONLY for variant in variants)
    gradient = None
    with torch.set_grad_enabled(by_gradient and path is not GradientRoute.closed):
        output = model(images)
        if by_gradient:
            gradient = map_gradient(model, output, target, of, EVALUATED_SCORE, path, train=False).detach()
    detached = Output(output.logits.detach(), output.activations.detach())
    activations = expand_to_maps(detached.activations, target, of)

    def score_of(masked: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            return model.of_normalised(masked).logits[:, of.classes[number]]

    maps: dict[CamVariant, Tensor] = {}
    for variant in variants:
        if variant is CamVariant.eigencam:
            maps[variant] = expand_to_maps(eigencam(detached.activations), target, of)
        elif variant is CamVariant.scorecam:
            normalised = expand_to_maps((images - model.mean) / model.std, target, of)
            maps[variant] = scorecam(normalised, activations, score_of)
        else:
            assert gradient is not None
            maps[variant] = class_activation_map(variant, activations, gradient)
    return detached, of, maps
