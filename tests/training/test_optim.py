"""Optimisers and learning rates."""

from __future__ import annotations

import pytest
from torchvision.models import get_model

from camtrain.config.options import LrSchedule, Optimiser
from camtrain.config.schema import OptimConfig
from camtrain.networks.small_resnet import SmallResNet
from camtrain.training.optim import default_learning_rate, learning_rate, make_optimiser


def test_learning_rate() -> None:
    config = OptimConfig(schedule=LrSchedule.cosine, warmup=2.0)
    rates = [learning_rate(config, 1.0, done, 10.0) for done in (0.0, 1.0, 2.0, 5.0, 10.0)]
    assert rates[0] < 0.01
    assert rates[1] == pytest.approx(0.5 * 0.9755, abs=1e-3)
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] == pytest.approx(0.0)
    assert learning_rate(OptimConfig(schedule=LrSchedule.constant), 0.3, 7.0, 10.0) == 0.3


def test_default_learning_rate() -> None:
    resnet = SmallResNet(3)
    assert default_learning_rate(Optimiser.adamw, False, resnet) == 2e-3
    assert default_learning_rate(Optimiser.adamw, True, resnet) == pytest.approx(1e-4)
    assert default_learning_rate(Optimiser.sgd, False, get_model("squeezenet1_0")) == pytest.approx(5e-3)
    assert default_learning_rate(Optimiser.adamw, False, get_model("swin_t")) == pytest.approx(2e-4)


def test_the_last_layer_learns_at_its_own_rate() -> None:
    model, whole = SmallResNet(3), OptimConfig(weight_decay=0.3)
    for config, factor in ((whole, 10.0), (OptimConfig(weight_decay=0.3, head_lr_factor=4.0), 4.0)):
        groups = make_optimiser(model, config, 1e-3, head="fc").param_groups
        rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert len(rates) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            assert rates[id(parameter)] == pytest.approx(1e-3 * (factor if name.startswith("fc.") else 1.0))
        assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.3, 0.0]


def test_weight_decay_leaves_biases_and_norms_alone() -> None:
    model = SmallResNet(3)
    decayed, spared = make_optimiser(model, OptimConfig(weight_decay=0.3), 1e-3).param_groups
    assert decayed["weight_decay"] == 0.3
    assert spared["weight_decay"] == 0.0
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in spared["params"]} == {1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
