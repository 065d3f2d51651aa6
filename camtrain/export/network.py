r"""A network with its class activation map as a second output, in one forward pass and without differentiation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from camtrain.cam.gradients import head_gradient
from camtrain.cam.methods import METHODS
from camtrain.cam.routes import GradientRoute
from camtrain.cam.scores import score_gradient
from camtrain.cam.targets import MapTargets
from camtrain.config.options import CamVariant, Score
from camtrain.export.head import written_out
from camtrain.networks.capture import Captured


class MapKind(NamedTuple):
    """Which maps are given."""

    method: CamVariant
    score: Score
    number: int | None  # of the class; None: the predicted one
    all_classes: bool  # a map of each class
    multilabel: bool  # probabilities are sigmoids


class WithMap(nn.Module):
    r"""From images to logits, probabilities and maps :math:`L^+`.

    Behind global average pooling and one linear layer the gradient has the closed form of
    :func:`camtrain.cam.gradients.head_gradient`; behind other heads it is written out
    (:mod:`camtrain.export.head`).

    Args:
        network: in evaluation mode, in float32.
        kind: which maps.
        scale: what images are divided by before they are normalised: 255 for bytes, 1 for 0..1.
        images: (batch, channels, height, width), 0..1, by which the head is found.

    Raises:
        UserError: the head's gradient cannot be written out.
    """

    def __init__(self, network: Captured, kind: MapKind, scale: float, images: Tensor) -> None:
        super().__init__()
        self.network, self.kind, self.scale = network, kind, scale
        self.chain = None if network.head().route is GradientRoute.closed else written_out(network, images)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and probabilities (batch, classes), and maps after ReLU (batch, height, width), or of all classes
        (batch, classes, height, width)."""
        kind = self.kind
        logits, grids = self.network.grids(self.network.normalised(images.float() / self.scale))
        activations = grids[self.network.layer]
        given: list[Tensor] = []
        if self.chain is not None:
            logits, given = self.chain(activations)
        probabilities = logits.sigmoid() if kind.multilabel else logits.softmax(1)
        batch, classes = logits.shape
        if kind.all_classes:
            numbers = torch.arange(classes, device=logits.device).repeat(batch)
        elif kind.number is None:
            numbers = logits.argmax(1)
        else:
            numbers = torch.full((batch,), kind.number, device=logits.device)
        activations, *given = (self._of_maps(part, classes) for part in (activations, *given))
        gradient = self._gradient(self._of_maps(logits, classes), numbers, activations, given)
        maps = METHODS[kind.method](activations, gradient).relu()
        return logits, probabilities, maps.reshape(batch, classes, *maps.shape[1:]) if kind.all_classes else maps

    def _of_maps(self, values: Tensor, classes: int) -> Tensor:
        """What belongs to images, for each of their maps."""
        if not self.kind.all_classes:
            return values
        return values[:, None].expand(-1, classes, *values.shape[1:]).flatten(0, 1)

    def _gradient(self, logits: Tensor, numbers: Tensor, activations: Tensor, given: list[Tensor]) -> Tensor:
        rows = torch.arange(logits.shape[0], device=logits.device)
        targets = MapTargets(rows, numbers, self.kind.multilabel, one_each=True)
        if self.chain is not None:
            gradient: Tensor = self.chain.back(score_gradient(logits, targets, self.kind.score), given)
            return gradient
        weights = self.network.class_weights()
        assert weights is not None
        cells = activations.shape[-2] * activations.shape[-1]
        return head_gradient(logits, targets, self.kind.score, weights, cells)
