"""One step of a small network in float64 on a batch with views, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from small import batch, classifier
from torch import Tensor

from camtrain import CamLoss
from camtrain.config.options import ViewKind
from camtrain.data.batches import Batch
from camtrain.data.views import Views, draw_views, with_views
from camtrain.training.arm import Arm
from camtrain.training.step import train_step

SIZE = (64, 64)


def views_of(kind: ViewKind, count: int = 8, seed: int = 0, size: tuple[int, int] = SIZE) -> Views:
    return draw_views(kind, 1.0, torch.arange(count) % 3, size, np.random.default_rng(seed))


def seen(kind: ViewKind, multilabel: bool = False, count: int = 4) -> Batch:
    """A small batch in float64 with views behind it."""
    images, targets, regions, indices, *_ = batch(count=count, multilabel=multilabel)
    images[:, :, 8:40, 16:48] += 0.5  # something that maps of the image and of its view have in common
    views = draw_views(kind, 0.5, targets, (images.shape[2], images.shape[3]), np.random.default_rng(3))
    together, regions = with_views(images.double(), regions, views)
    return Batch(together, torch.cat([targets, targets[views.rows]]), regions, indices, views)


def gradients(name: str, made: Batch, views: bool = True, **settings: Any) -> tuple[dict[str, Tensor], CamLoss]:
    """Of one step, in float64 and evaluation mode."""
    torch.manual_seed(0)
    model = classifier(name).double().eval()
    only_loss = settings.pop("only_loss", True)
    criterion = CamLoss(only_loss=only_loss, **settings)
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0, fused=True)
    anchor = classifier("small_resnet").double().eval() if criterion.cam.anchor else None
    if anchor is not None:
        with torch.no_grad():
            anchor.class_weights().mul_(-3)  # type: ignore[union-attr]
    train_step(Arm("regularised", model, nothing, criterion, views, anchor), made, 1.0, observe=True)
    criterion.observed()
    return {key: part.grad for key, part in model.named_parameters() if part.grad is not None}, criterion


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    scale = max(float(part.abs().max()) for part in one.values())
    assert one.keys() == other.keys()
    for key, part in one.items():
        torch.testing.assert_close(part, other[key], rtol=tolerance, atol=tolerance * scale)
