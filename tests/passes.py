"""One pass of loss and CAM term through a network, and how far apart the gradients of two passes are."""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.routes import Routes
from camtrain.config.options import CamConfig, Score
from camtrain.config.schema import ModelConfig, OptimConfig
from camtrain.data.batches import Batch
from camtrain.data.sources import shapes
from camtrain.loss.classification import classification_loss
from camtrain.loss.criterion import CamLoss
from camtrain.networks.build import build
from camtrain.networks.capture import probe_routes
from camtrain.networks.classifier import Classifier
from camtrain.training.arm import Arm, make_arms

Gradients = dict[str, Tensor]

NAMES = ["small_resnet", "squeezenet1_0", "mobilenet_v3_small"]


def shapes_batch(count: int = 16) -> Batch:
    """Generated images: noise alone would make batch norm divide by next to nothing."""
    images, targets, regions = shapes.generate(count, 64, seed=0, split=0)
    return Batch(images.float() / 255, targets % 3, regions, torch.arange(count))


def classifier(name: str, weights: str | None = None) -> Classifier:
    """In training mode, but without dropout, whose random numbers depend on memory layout and generated code."""
    model = build(ModelConfig(name=name, weights=weights), 3, (3, 64, 64), 0).classifier.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def pass_through(
    model: Classifier, batch: Batch, routes: Routes | None = None, exponent: float = 0.0
) -> tuple[Tensor, Tensor, Gradients]:
    """Logits, term of each map, and every weight's gradient of the sum of loss and term."""
    model.routes = routes or probe_routes(model, batch.images, Score.centred)
    output = model(batch.images)
    criterion = CamLoss(confidence_exponent=exponent)
    term = criterion.term(output.logits, output.activations, batch.targets, None, train=True)
    loss = classification_loss(output.logits, batch.targets).mean() + term.mean()
    names, weights = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights)
    return output.logits.detach(), term.value.detach(), dict(zip(names, gradients, strict=True))


def regularised_arm(model: Classifier, cam: CamConfig, images: Tensor, rate: float) -> Arm:
    """An arm that trains the model itself."""
    routes = probe_routes(model, images, cam.score)
    (arm,) = make_arms(model, {"regularised": cam}, routes, OptimConfig(), rate, pretrained=False)
    return arm


def cosine(one: Gradients, other: Gradients) -> float:
    """Of the angle between two gradients, all weights together."""
    first, second = (torch.cat([part.double().flatten() for part in gradients.values()]) for gradients in (one, other))
    return float(first @ second / (first.norm() * second.norm()))


def relative_difference(one: Gradients, other: Gradients) -> float:
    """Norm of the difference of two gradients, all weights together, relative to that of the first."""
    squares = [((one[name] - other[name]).double().square().sum(), one[name].double().square().sum()) for name in one]
    difference, whole = (torch.stack(list(part)).sum().sqrt() for part in zip(*squares, strict=True))
    return float(difference / whole)
