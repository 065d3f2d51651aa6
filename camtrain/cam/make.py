"""Maps of a batch from one forward pass."""

from __future__ import annotations

from torch import Tensor

from camtrain.cam.gradients import autograd_gradient, head_gradient
from camtrain.cam.methods import class_activation_map
from camtrain.cam.routes import GradientRoute
from camtrain.cam.targets import MapTargets, expand_to_maps
from camtrain.config.options import CamVariant, Score
from camtrain.networks.classifier import Classifier, Output


def make_maps(
    model: Classifier,
    output: Output,
    target: Tensor,
    of: MapTargets,
    cam: CamVariant,
    kind: Score,
    path: GradientRoute,
    train: bool,
) -> Tensor:
    """A map for the class, or every positive class, of every image, by closed form or autograd.

    Args:
        model: gives the class weights of the closed form.
        output: of the model's forward pass, with a graph unless the path is the closed form.
        target: (batch,) int64, or (batch, classes) of 0 and 1.
        of: whose maps.
        cam: which map.
        kind: which score.
        path: how the gradient is come by.
        train: keep the graph that a second derivative needs.

    Returns:
        (maps, height, width), before ReLU.
    """
    gradient = map_gradient(model, output, target, of, kind, path, train)
    return class_activation_map(cam, expand_to_maps(output.activations, target, of), gradient)


def map_gradient(
    model: Classifier, output: Output, target: Tensor, of: MapTargets, kind: Score, path: GradientRoute, train: bool
) -> Tensor:
    """Gradient of each map's score on the activations, (maps, channels, height, width), or (.., 1, 1) if closed.

    Arguments as for :func:`make_maps`.
    """
    logits, activations = output
    if path is GradientRoute.closed:
        weights = model.class_weights()
        assert weights is not None, "the closed form was chosen for a network without a linear head"
        cells = activations.shape[-2] * activations.shape[-1]
        return head_gradient(logits, target, kind, of, weights, cells)
    return autograd_gradient(logits, target, kind, of, activations, create_graph=train)
