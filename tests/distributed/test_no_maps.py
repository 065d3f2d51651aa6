"""A rank whose images have no class, and so no maps, takes part with nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from one_step import seen
from small import CLOSED, classifier

from camtrain.config.options import ViewKind
from camtrain.loss.criterion import CamLoss


@pytest.mark.parametrize(
    "settings",
    [{}, {"variant": "layercam", "path": "autograd"}, {"contrastive": 1.0}, {"balance": "image"}, {"term": "area"}],
    ids=str,
)
def test_images_without_a_class(settings: dict[str, Any]) -> None:
    made = seen(ViewKind.mirror, multilabel=True)
    network = classifier("small_resnet").double().train()
    network.routes = CLOSED
    criterion = CamLoss(only_loss=True, consistency=1.0, **settings)
    for targets in (torch.zeros_like(made.targets), made.targets):  # the first makes the second no worse
        output = network(made.images)
        loss = criterion(output.logits, output.activations, targets, made.regions, 9.0, made.views)
        torch.autograd.backward(loss)
        criterion.observed()
        assert bool(loss.isfinite())
        assert all(bool(part.grad.isfinite().all()) for part in network.parameters() if part.grad is not None)
