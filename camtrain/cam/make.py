"""Class activation maps of a batch from one forward pass: which maps, their scores and gradients, made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from camtrain.cam.gradients import autograd_gradient, head_gradient
from camtrain.cam.head import Head
from camtrain.cam.methods import METHODS
from camtrain.cam.routes import GradientRoute
from camtrain.cam.scores import probability
from camtrain.cam.targets import MapTargets
from camtrain.config.options import CamVariant, Score


@dataclass
class ClassMaps:
    """The maps of one batch: one for the class, or for every positive class, of every image.

    The gradient is found once, when it is first asked for, and serves every method.

    Args:
        logits: (batch, classes).
        activations: (batch, channels, height, width), of the pass that gave the logits; with a graph unless the route
            is the closed form.
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        score: whose gradient makes the maps.
        head: how the gradient is obtained.
        create_graph: keep what a second derivative needs, so that the maps can be trained through.
    """

    logits: Tensor
    activations: Tensor
    target: Tensor
    score: Score
    head: Head
    create_graph: bool = False

    @cached_property
    def targets(self) -> MapTargets:
        """Which maps of which images."""
        return MapTargets.of(self.target)

    @cached_property
    def gradient(self) -> Tensor:
        """Of each map's score on the activations, (maps, channels, height, width), or (..., 1, 1) in closed form."""
        if self.head.route is GradientRoute.closed:
            assert self.head.weights is not None, "the closed form was chosen for a network without a linear head"
            cells = self.activations.shape[-2] * self.activations.shape[-1]
            return head_gradient(self.logits, self.targets, self.score, self.head.weights, cells)
        return autograd_gradient(self.logits, self.targets, self.score, self.activations, self.create_graph)

    def map(self, method: CamVariant) -> Tensor:
        """(maps, height, width), before ReLU."""
        return METHODS[method](self.targets.expand(self.activations), self.gradient)

    def confidence(self) -> Tensor:
        """Probability of each map's class, detached, (maps,)."""
        return probability(self.logits.detach(), self.targets)
