"""One training step of one arm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.make import make_maps
from camtrain.cam.routes import GradientRoute
from camtrain.cam.targets import map_targets, regions_of_maps
from camtrain.config.options import Conflict, Term
from camtrain.config.schema import CamConfig
from camtrain.data.batches import Batch
from camtrain.loss.balance import gradient_share
from camtrain.loss.criterion import CamTerm, cam_term, classification_loss, total_loss
from camtrain.loss.layer_gradient import LayerGradient, classification_gradient
from camtrain.networks.classifier import Classifier, Output
from camtrain.training.arm import Arm


class Step(NamedTuple):
    """What one training step measured; nothing here needs a copy from the device until it is read."""

    loss: Tensor  # scalar
    classification: Tensor  # scalar
    cam_term: Tensor | None  # scalar, like the next two None where it was not observed
    cam_share: Tensor | None  # scalar, the CAM term's share of the learning effort
    cam_weight: Tensor | None  # scalar
    logits: Tensor  # (batch, classes)


def train_step(arm: Arm, batch: Batch, cam: CamConfig, schedule: float, observe: bool) -> Step:
    """One step: forward, loss, backward, update.

    Args:
        arm: what is trained, in place.
        batch: images, targets and regions.
        cam: the CAM term.
        schedule: share of its full weight, 0..1; ignored for an arm that is not regularised.
        observe: measure the CAM term and its part of the learning effort, also where it does not enter the loss.
    """
    output = arm.model(batch.images)
    activations, path = output.activations, arm.paths.training
    active = arm.regularised and cam.weight != 0 and schedule > 0
    classification = classification_loss(output.logits, batch.targets)
    term = None
    if active or (observe and path is not GradientRoute.mixed):
        term = term_of(arm.model, output, batch, cam, path, train=active)
    weight, at_layer, balance = 0.0, None, arm.balance
    measure = observe or balance is not None
    if active and term is not None:
        if measure or cam.conflict is Conflict.project:
            at_layer = LayerGradient(
                *layer_gradient(arm, output, batch.targets, classification), cam.conflict is Conflict.project, measure
            )
            if balance is not None and balance.apart:
                apart = gradient_at(activations, term.mean()).norm()
                balance.update(*as_numbers(at_layer.square.sum().sqrt(), apart, term.mean_confidence()))
            activations.register_hook(at_layer)
        weight = schedule * (float(cam.weight) if balance is None else balance.weight())
    loss = total_loss(classification, term if active else None, weight)
    arm.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    arm.optimiser.step()
    with torch.no_grad():
        share = torch.zeros_like(loss)
        if at_layer is not None and term is not None and measure:
            norms = at_layer.norms()
            share = gradient_share(*norms)
            if balance is not None:
                of_classification, of_term, confidence = as_numbers(*norms, term.mean_confidence())
                balance.take_in(of_classification, of_term, confidence, weight, at_layer.floor)
        return Step(
            loss.detach(),
            classification.detach().mean(),
            term.mean().detach() if term is not None and observe else None,
            share if observe else None,
            torch.as_tensor(weight, device=loss.device) if observe else None,
            output.logits.detach(),
        )


def layer_gradient(arm: Arm, output: Output, target: Tensor, classification: Tensor) -> tuple[Tensor, int]:
    """Gradient of the mean classification loss on the activations, as :class:`AtLayer` wants it, and their cells."""
    weights = arm.model.class_weights()
    cells = output.activations.shape[2] * output.activations.shape[3]
    if arm.paths.training is GradientRoute.closed and weights is not None:
        return classification_gradient(output.logits, target, weights, cells), cells
    return gradient_at(output.activations, classification.mean()), cells


def term_of(
    model: Classifier, output: Output, batch: Batch, cam: CamConfig, path: GradientRoute, train: bool
) -> CamTerm:
    """The CAM term of a batch from the network's output, which is detached from it unless it is to be trained."""
    target = batch.targets
    of = map_targets(target)
    maps = make_maps(model, output, target, of, cam.variant, cam.score, path, train)
    regions = regions_of_maps(batch.regions, target, of) if cam.term is Term.energy_outside else None
    return cam_term(maps if train else maps.detach(), output.logits, target, of, cam, regions)


def as_numbers(*scalars: Tensor) -> list[float]:
    """By one copy from the device."""
    return torch.stack([scalar.detach().float() for scalar in scalars]).tolist()


def gradient_at(activations: Tensor, loss: Tensor) -> Tensor:
    """Gradient of a scalar loss on activations of its own graph, which is kept; in float32."""
    (gradient,) = torch.autograd.grad(loss, activations, retain_graph=True)
    return gradient.float()
