"""What holds predictions to another network's, and each image's share of the term within limits."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from small import batch, classifier
from torch import Tensor

from camtrain import CamLoss, UserError, capture
from camtrain.config.options import CamConfig
from camtrain.loss.classification import Anchor, anchor_loss, classification_gradient, classification_loss
from camtrain.networks.classifier import Classifier


def probabilities(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_divergence_by_hand() -> None:
    first, second = probabilities(0.5, 0.25, 0.25), probabilities(0.2, 0.2, 0.6)
    expected = 0.5 * math.log(0.5 / 0.2) + 0.25 * math.log(0.25 / 0.2) + 0.25 * math.log(0.25 / 0.6)
    assert float(anchor_loss(second.log(), Anchor(first.log() + 3, 9.0), False)) == pytest.approx(expected)
    expected = sum(
        p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        for p, q in zip(first[0].tolist(), second[0].tolist(), strict=True)
    )
    found = anchor_loss(second.logit(), Anchor(first.logit(), 9.0), True)
    assert float(found) == pytest.approx(expected / 3)
    for several in (False, True):
        assert float(anchor_loss(first.logit(), Anchor(first.logit(), 1.0), several)) == 0.0
        sure = torch.tensor([[300.0, -300.0]], requires_grad=True)
        value = anchor_loss(sure, Anchor(-sure.detach(), 1.0), several)
        assert torch.isfinite(value)
        assert bool(torch.isfinite(torch.autograd.grad(value, sure)[0]).all())


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_gradient_in_closed_form_is_autograds(multilabel: bool) -> None:
    model = classifier("small_resnet").double().train()
    made = batch(multilabel=multilabel)
    logits, activations = model(made.images.double())
    weights = model.class_weights()
    assert weights is not None
    anchor = Anchor(logits.detach().flip(0), 0.7)
    closed = classification_gradient(logits, made.targets, weights, activations[0, 0].numel(), anchor)
    loss = classification_loss(logits, made.targets).mean() + 0.7 * anchor_loss(logits, anchor, multilabel).mean()
    (exact,) = torch.autograd.grad(loss, activations)
    torch.testing.assert_close(closed.expand_as(exact), exact, rtol=1e-9, atol=1e-15)


def gradients(model: Classifier, multilabel: bool = False, scale: float = 1.0, **settings: Any) -> dict[str, Tensor]:
    """Of the loss, by weight, in float64."""
    made = batch(multilabel=multilabel)
    net = capture(copy.deepcopy(model.backbone), "layer3").train()
    criterion = CamLoss(**settings)
    logits, activations = net(made.images.double())
    criterion.anchor = logits.detach().flip(0) / 2
    (scale * criterion(logits, activations, made.targets)).backward()
    criterion.observed()
    return {name: part.grad / scale for name, part in net.named_parameters() if part.grad is not None}


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    size = max(float(part.abs().max()) for part in one.values())
    assert one.keys() == other.keys()
    return all(bool(((part - other[name]).abs() <= 1e-9 * size).all()) for name, part in one.items())


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("weight", [30.0, "auto"])
@pytest.mark.parametrize(
    "settings", [{"anchor": 0.5}, {"balance": "image"}, {"anchor": 0.5, "balance": "image", "conflict": "keep"}]
)
def test_every_way_to_the_layer_gives_the_same(settings: dict[str, Any], weight: float | str, multilabel: bool) -> None:
    model = classifier("small_resnet").double()
    given = {"weight": weight, "confidence_exponent": 1.0, "share": 0.1, **settings}
    closed = gradients(model, multilabel, path="closed", only_loss=True, **given)
    for path in ("closed", "autograd"):
        for only_loss in (False, True):
            for scale in (1.0, 65536.0):
                assert alike(closed, gradients(model, multilabel, scale, path=path, only_loss=only_loss, **given))
    without = gradients(model, multilabel, weight=weight, confidence_exponent=1.0, share=0.1)
    assert not alike(closed, without)


def test_the_heads_own_weights_get_the_gradient_as_it_is() -> None:
    model = classifier("small_resnet").double()
    given = {"weight": 30.0, "confidence_exponent": 0.0}
    whole, limited = gradients(model, **given), gradients(model, **given, balance="image", share=0.1)
    assert torch.equal(whole["backbone.fc.weight"], limited["backbone.fc.weight"])
    trunk = [name for name in whole if "layer3" in name]
    assert not any(torch.equal(whole[name], limited[name]) for name in trunk)


def test_the_balance_and_the_share_count_the_anchor_as_classification() -> None:
    model, made = classifier("small_resnet").double().eval(), batch()
    criterion = CamLoss(anchor=2.0, share=0.3, confidence_exponent=0, only_loss=True)
    logits, activations = model(made.images.double())
    criterion.anchor = logits.detach().flip(0)
    criterion(logits, activations, made.targets).backward()
    seen = criterion.observed()
    assert float(seen.cam_share or 0) == pytest.approx(0.3)
    logits = logits.detach()
    assert float(seen.further["anchor"]) == pytest.approx(
        float(anchor_loss(logits, Anchor(logits.flip(0), 1), False).mean())
    )
    assert float(seen.classification) == pytest.approx(float(classification_loss(logits, made.targets).mean()))


def test_without_an_anchor_nothing_is_held() -> None:
    model, made = classifier("small_resnet"), batch()
    plain = CamLoss(weight=0, anchor=0.5)
    logits, activations = model(made.images)
    plain.anchor = logits.detach().flip(0)
    assert torch.equal(plain(logits, activations, made.targets), classification_loss(logits, made.targets).mean())
    criterion = CamLoss(anchor=0.5)
    criterion.anchor = logits.detach()
    criterion(logits, activations, made.targets)
    with pytest.raises(UserError, match="before each pass"):
        criterion(logits, activations, made.targets)
    assert CamConfig().anchor == 0
