"""One arm of the experiment: a network, its optimiser and the step that trains it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from camtrain.cam import autograd_gradient, class_activation_map, head_gradient, score
from camtrain.config import CamConfig, CamVariant, GradientPath, LrSchedule, OptimConfig, Optimiser, Score
from camtrain.errors import UserError
from camtrain.loss import MapEntropy, map_entropy, total_loss
from camtrain.model import Classifier, Output

BASELINE, REGULARISED = "baseline", "regularised"


class Paths(NamedTuple):
    """Whether the closed form of the head's gradient holds, found by :func:`probe`."""

    training: bool
    evaluation: bool


@dataclass
class Arm:
    """A network in training. `regularised` says whether the CAM term is in its loss."""

    name: str
    model: Classifier
    optimiser: torch.optim.Optimizer
    regularised: bool
    paths: Paths


class Step(NamedTuple):
    """What one training step measured; nothing here needs a copy from the device until it is read."""

    loss: Tensor  # scalar
    classification: Tensor  # scalar
    cam_entropy: Tensor | None  # scalar, None where it was not observed
    correct: Tensor  # scalar, number of pictures classified rightly


def make_arms(model: Classifier, optim: OptimConfig, peak: float, paths: Paths) -> list[Arm]:
    """Both arms with the same initial weights, trained at the `peak` rate. The model itself becomes the baseline's."""
    models = {BASELINE: model, REGULARISED: copy.deepcopy(model)}
    return [
        Arm(name, network, make_optimiser(network, optim, peak), name == REGULARISED, paths)
        for name, network in models.items()
    ]


def make_optimiser(model: Classifier, config: OptimConfig, rate: float) -> torch.optim.Optimizer:
    """The optimiser; weight decay on matrices and kernels only, not on biases and normalisation."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    match config.name:
        case Optimiser.adamw:
            return torch.optim.AdamW(groups, lr=rate)
        case Optimiser.adam:
            return torch.optim.Adam(groups, lr=rate)
        case Optimiser.sgd:
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0)


def default_learning_rate(optimiser: Optimiser, pretrained: bool, model: nn.Module) -> float:
    """The rate where `optim.lr` is null: 2e-3 for Adam and AdamW, 0.05 for SGD.

    A tenth of that for pretrained weights, and for networks without normalisation layers (VGG, SqueezeNet, AlexNet),
    which diverge or die at the full rate.
    """
    rate = 0.05 if optimiser is Optimiser.sgd else 2e-3
    normalised = any("Norm" in type(module).__name__ for module in model.modules())
    return rate if normalised and not pretrained else rate / 10


def learning_rate(config: OptimConfig, peak: float, epochs_done: float, epochs: float) -> float:
    """Learning rate after `epochs_done` of `epochs`: linear warm-up, then constant or half a cosine to zero."""
    rate = peak
    if config.schedule is LrSchedule.cosine:
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, epochs_done / epochs)))
    if epochs_done < config.warmup:
        rate *= max(epochs_done, 1e-3 * config.warmup) / config.warmup
    return rate


def make_map(
    model: Classifier, output: Output, target: Tensor, variant: CamVariant, kind: Score, closed: bool, train: bool
) -> Tensor:
    """The target class's map, (batch, height, width) before ReLU, by closed form or autograd.

    Args:
        model: gives the class weights of the closed form.
        output: of the model's forward pass, with a graph unless `closed`.
        target: (batch,) int64.
        variant: which map.
        kind: which score.
        closed: use the closed form.
        train: keep the graph that a second derivative needs.
    """
    logits, activations = output
    if closed:
        weights = model.class_weights()
        assert weights is not None, "the closed form was chosen for a network without a linear head"
        cells = activations.shape[-2] * activations.shape[-1]
        gradient = head_gradient(logits, target, kind, weights, cells)
    else:
        gradient = autograd_gradient(score(logits, target, kind), activations, create_graph=train)
    return class_activation_map(variant, activations, gradient)


def train_step(arm: Arm, images: Tensor, target: Tensor, cam: CamConfig, weight: float, observe: bool) -> Step:
    """One step: forward, loss, backward, update.

    Args:
        arm: what is trained, in place.
        images: (batch, 3, height, width), 0..1.
        target: (batch,) int64.
        cam: the CAM term.
        weight: its scheduled weight; ignored for an arm that is not regularised.
        observe: report the map's entropy, also where it does not enter the loss.
    """
    output = arm.model(images)
    classification = cross_entropy(output.logits, target, reduction="none")
    term: MapEntropy | None = None
    active = arm.regularised and weight > 0
    if active or observe:
        maps = make_map(arm.model, output, target, cam.variant, cam.score, arm.paths.training, train=active)
        term = map_entropy(maps if active else maps.detach(), output.logits, target, cam)
    loss = total_loss(classification, term, weight if active else 0.0)
    arm.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    arm.optimiser.step()
    with torch.no_grad():
        return Step(
            loss.detach(),
            classification.detach().mean(),
            term.mean().detach() if term is not None and observe else None,
            (output.logits.argmax(1) == target).sum(),
        )


def probe(model: Classifier, images: Tensor, target: Tensor, cam: CamConfig) -> Paths:
    """Find out, in training and in evaluation mode, whether the closed form equals autograd's gradient on this batch.

    Raises:
        UserError: `cam.variant=cam` or `cam.path=closed` for a network whose head has no closed form.
    """
    model = copy.deepcopy(model)  # training mode would move batch norm's statistics
    training, evaluation = (_closed_form_holds(model.train(mode), images, target, cam.score) for mode in (True, False))
    linear_head = "global average pooling followed by one linear layer"
    if cam.variant is CamVariant.cam and not (training and evaluation):
        raise UserError(f"cam.variant=cam needs {linear_head}, which this network has not; use cam=gradcam")
    match cam.path:
        case GradientPath.closed if not (training and evaluation):
            raise UserError(f"cam.path=closed needs {linear_head}, which this network has not; use cam.path=auto")
        case GradientPath.autograd:
            return Paths(False, False)
    return Paths(training, evaluation)


def _closed_form_holds(model: Classifier, images: Tensor, target: Tensor, kind: Score) -> bool:
    with torch.enable_grad():
        logits, activations = model(images)
        weights = model.class_weights()
        if weights is None or weights.shape[1] != activations.shape[1]:
            return False
        exact = autograd_gradient(score(logits, target, kind), activations, create_graph=False)
        cells = activations.shape[-2] * activations.shape[-1]
        closed = head_gradient(logits, target, kind, weights, cells).expand_as(exact)
    return bool(torch.allclose(closed, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max())))


def check_alive(model: Classifier, batches: Iterable[tuple[Tensor, Tensor]], cam: CamConfig, paths: Paths) -> float:
    """Norm of the CAM term's gradient on the weights below the target layer, which has to be above zero.

    A map that was detached somewhere would train nothing and be noticed by nobody. The first of the batches (pictures,
    targets) that has a gradient is enough: a fresh network may well have no map at all in a small one.

    Raises:
        UserError: the gradient is zero or not finite in every batch.
    """
    model = copy.deepcopy(model).train()
    unweighted = dataclasses.replace(cam, confidence_exponent=0.0)
    norm, dead, count = 0.0, 0, 0
    for images, target in batches:
        output = model(images)
        maps = make_map(model, output, target, cam.variant, cam.score, paths.training, train=True)
        term = map_entropy(maps, output.logits, target, unweighted)
        (at_layer,) = torch.autograd.grad(term.mean(), output.activations, retain_graph=True)
        below = torch.autograd.grad(output.activations, list(model.parameters()), at_layer, allow_unused=True)
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in below if gradient is not None))
        if 0 < norm < math.inf:
            return norm
        dead, count = dead + int(term.dead.sum()), count + len(target)
    raise UserError(
        f"the CAM term has a gradient of {norm:g} below the target layer ({dead} of {count} maps are dead):"
        " it would train nothing; choose another model.layer or cam.score=log_prob"
    )
