"""Trained or untrained networks in front of generated images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import CamVariant
from camtrain.config.schema import EvaluateConfig, ModelConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.images import ImageSet
from camtrain.evaluation.context import EvaluationContext
from camtrain.networks.build import build
from camtrain.networks.classifier import Classifier

CPU = torch.device("cpu")


def network(closed: bool = True, classes: int = 3, seed: int = 0) -> Classifier:
    """The default network at 32 pixels: a grid of 4 x 4 cells."""
    made = build(ModelConfig(name="small_resnet"), classes, (3, 32, 32), seed).classifier
    route = GradientRoute.closed if closed else GradientRoute.autograd
    made.routes = Routes(route, route)
    return made


def context_of(
    networks: Mapping[str, Classifier], images: ImageSet, measured: Tensor, method: CamVariant = CamVariant.gradcam
) -> EvaluationContext:
    """These networks in front of these images, of which those given are measured, (images,) bool."""
    weights = network(True, len(images.classes), seed=5).backbone.state_dict()
    context = EvaluationContext(
        networks,
        images.targets,
        lambda chosen: all_batches(images, Batching(4), chosen),
        method,
        EvaluateConfig(),
        0,
        lambda _: weights,
    )
    context.measured = measured
    return context
