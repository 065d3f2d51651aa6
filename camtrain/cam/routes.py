r"""What lies between a layer and the logits, found by trying it on a batch.

Which gradient a map can be made from is not read off the network's description but measured: the closed form is
compared with autograd's gradient, and the gradient of one image's score is looked at in the other images' rows.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.gradients import head_gradient
from camtrain.cam.scores import score
from camtrain.cam.targets import MapTargets
from camtrain.config.options import Score


class GradientRoute(enum.Enum):
    """How the gradient of a score reaches a layer."""

    closed = "closed form"
    """Global average pooling and one linear layer follow: no second derivative is needed."""

    autograd = "autograd"
    """Anything else that keeps images apart."""

    mixed = "batch norm"
    r"""A batch norm that follows computes its statistics from the batch: each image's score depends on every image.

    The gradient of the sum of scores is then no image's own, :math:`\partial \sum_j s_j / \partial A_i \ne \partial
    s_i / \partial A_i`, and its own would take a backward pass per image. Such a map is not trained through.
    """

    unreached = "no gradient"
    """The score does not depend on the grid: the last block of a ViT, where only the class token goes on."""


class Routes(NamedTuple):
    """A layer's route in training and in evaluation mode, which dropout and batch norm make differ."""

    training: GradientRoute
    evaluation: GradientRoute


def probe(
    forward: Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]],
    images: Tensor,
    kind: Score,
    class_weights: Callable[[], Tensor | None],
) -> dict[str, GradientRoute]:
    """The route to every layer in the mode that the network is in.

    Args:
        forward: from images to logits (batch, classes) and the grid (batch, channels, height, width) of each layer.
        images: (batch, 3, size, size), two at least.
        kind: score whose gradient is looked at.
        class_weights: gives, after the pass, the weight of the last linear layer, (classes, features), or None.
    """
    with torch.enable_grad():
        logits, grids = forward(images)
        target = torch.arange(len(images), device=images.device) % logits.shape[1]
        targets = MapTargets.of(target)
        scores = score(logits, targets, kind)
        # For what does not matter at all, every class is asked: behind a ReLU (SqueezeNet) some have no gradient.
        every_class = (logits * torch.linspace(1, 2, logits.shape[1], device=logits.device)).sum()
        reach, whole, of_first = (
            torch.autograd.grad(value, list(grids.values()), retain_graph=True, allow_unused=True)
            for value in (every_class, scores.sum(), scores[0])
        )
        closed: dict[int, Tensor] = {}
        weights = class_weights()
        if weights is not None:
            for cells in {grid.shape[-2] * grid.shape[-1] for grid in grids.values()}:
                closed[cells] = head_gradient(logits, targets, kind, weights, cells)
    found = {}
    for name, any_class, exact, first in zip(grids, reach, whole, of_first, strict=True):
        if any_class is None or exact is None or not bool(any_class.any()):
            found[name] = GradientRoute.unreached
            continue
        largest = float(exact.abs().max())
        ours = closed.get(exact.shape[-2] * exact.shape[-1])
        if first is not None and float(first[1:].abs().max()) > 1e-6 * largest > 0:
            found[name] = GradientRoute.mixed
        elif (
            largest > 0
            and ours is not None
            and ours.shape[1] == exact.shape[1]
            and torch.allclose(ours.expand_as(exact), exact, rtol=1e-3, atol=1e-4 * largest)
        ):
            found[name] = GradientRoute.closed
        else:
            found[name] = GradientRoute.autograd
    return found
