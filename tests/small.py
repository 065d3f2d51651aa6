"""A small network and batches of noise, for tests of single steps."""

from __future__ import annotations

import torch

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.schema import ModelConfig
from camtrain.data.batches import Batch
from camtrain.networks.build import build
from camtrain.networks.classifier import Classifier

CLOSED = Routes(GradientRoute.closed, GradientRoute.closed)


def classifier(name: str) -> Classifier:
    return build(ModelConfig(name=name), classes=3, shape=(3, 64, 64), seed=0).classifier


def batch(step: int = 0, count: int = 4, multilabel: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(count, 3, 64, 64, generator=generator)
    targets = torch.arange(count) % 3
    regions = torch.zeros(count, 64, 64, dtype=torch.uint8)
    regions[:, 8:40, 16:48] = 1
    if multilabel:
        targets = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]])[torch.arange(count) % 4]
        regions[:, :30] *= 2
    return Batch(images, targets, regions, torch.arange(count))
