"""Maps and logits of images from one forward pass in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.distribution import magnitude
from camtrain.cam.head import LINEAR_HEAD, head_behind
from camtrain.cam.make import ClassMaps
from camtrain.cam.methods import eigencam, scorecam
from camtrain.cam.routes import GradientRoute
from camtrain.cam.targets import MapTargets
from camtrain.config.options import EVALUATION_ONLY, CamVariant, Score
from camtrain.errors import UserError
from camtrain.networks.capture import Captured

# The map that is measured is that of the logit, as published, whatever score was trained.
EVALUATED_SCORE = Score.logit


class Mapped(NamedTuple):
    """What a network makes of a batch in evaluation mode, detached."""

    logits: Tensor  # (batch, classes)
    targets: MapTargets
    maps: Tensor  # (maps, height, width), before ReLU

    def faults(self) -> Tensor:
        """Which images have logits, and maps, that are not finite: (2, batch) bool."""
        logits, maps = (~magnitude(values).isfinite() for values in (self.logits, self.maps))
        per_image = torch.zeros_like(logits, dtype=torch.int64).index_add(0, self.targets.rows, maps.long())
        return torch.stack([logits, per_image > 0])


def forward_maps(
    network: Captured, images: Tensor, target: Tensor, method: CamVariant, normalised: bool = False
) -> Mapped:
    """The map of the class, or of every positive class, of every image. Leaves the network in evaluation mode.

    Args:
        network: with its routes.
        images: (batch, 3, height, width), 0..1.
        target: (batch,) int64, or (batch, classes) of 0 and 1.
        method: which map, if the network has no method of its own.
        normalised: the images are so already; then this may not be the network's first pass.
    """
    own = network.method or method
    logits, targets, maps = forward_several(network, images, target, [own], normalised)
    return Mapped(logits, targets, maps[own])


def forward_several(
    network: Captured, images: Tensor, target: Tensor, methods: Sequence[CamVariant], normalised: bool = False
) -> tuple[Tensor, MapTargets, dict[CamVariant, Tensor]]:
    """Maps by several methods from one forward pass and one gradient; otherwise as :func:`forward_maps`."""
    network.eval()
    if not normalised:
        network.prepare(images)
        images = network.normalised(images)
    route = network.head().route
    by_gradient = any(method not in EVALUATION_ONLY for method in methods)
    with torch.set_grad_enabled(by_gradient and route is not GradientRoute.closed):
        logits, activations = network.forward_normalised(images)
        if CamVariant.cam in methods and route is not GradientRoute.closed:
            raise UserError(f"method=cam needs {LINEAR_HEAD}, which is not what follows the layer; use gradcam")
        made = ClassMaps(logits, activations, target, EVALUATED_SCORE, head_behind(activations))
        if by_gradient:
            made.gradient = made.gradient.detach()
    made.logits, made.activations = logits.detach(), activations.detach()
    targets = made.targets

    def score_of(masked: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            return network.forward_normalised(masked).logits[:, targets.classes[number]]

    maps: dict[CamVariant, Tensor] = {}
    for method in methods:
        if method is CamVariant.eigencam:
            maps[method] = targets.expand(eigencam(made.activations))
        elif method is CamVariant.scorecam:
            maps[method] = scorecam(targets.expand(images), targets.expand(made.activations), score_of)
        else:
            maps[method] = made.map(method)
    return made.logits, targets, {method: network.laid_out(those, images) for method, those in maps.items()}
