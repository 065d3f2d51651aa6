"""Arms: bit-for-bit equality at weight 0, a live gradient, the probe."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from camtrain.arm import (
    BASELINE,
    REGULARISED,
    Arm,
    Paths,
    check_alive,
    default_learning_rate,
    learning_rate,
    make_arms,
    make_optimiser,
    probe,
    train_step,
)
from camtrain.config import CamConfig, CamVariant, GradientPath, LrSchedule, ModelConfig, OptimConfig, Optimiser, Score
from camtrain.errors import UserError
from camtrain.model import Classifier, build


def classifier(name: str) -> Classifier:
    return build(ModelConfig(name=name), classes=3, image_size=64, seed=0).classifier


def batch(step: int = 0, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(count, 3, 64, 64, generator=generator), torch.arange(count) % 3


def trained(name: str, cam: CamConfig, weight: float, steps: int = 3) -> list[Arm]:
    model = classifier(name)
    paths = probe(model, *batch(), cam)
    arms = make_arms(model, OptimConfig(), 1e-3, paths)
    for step in range(steps):
        for arm in arms:
            torch.manual_seed(step)
            arm.model.train()
            train_step(arm, *batch(step), cam, weight, observe=step == 1)
    return arms


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0", "mobilenet_v3_small"])
def test_weight_zero_equals_the_baseline_bit_for_bit(name: str) -> None:
    baseline, regularised = (arm.model.state_dict() for arm in trained(name, CamConfig(), weight=0.0))
    assert baseline.keys() == regularised.keys()
    assert all(torch.equal(baseline[key], regularised[key]) for key in baseline)


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_weight_changes_only_the_regularised_arm(name: str) -> None:
    plain = trained(name, CamConfig(), weight=0.0)
    weighted = trained(name, CamConfig(), weight=1.0)
    before, after = (arms[0].model.state_dict() for arms in (plain, weighted))
    assert all(torch.equal(before[key], after[key]) for key in before)
    first, second = (arm.model.state_dict() for arm in weighted)
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_arms_start_equal_and_apart() -> None:
    arms = make_arms(classifier("resnet18"), OptimConfig(), 1e-3, Paths(True, True))
    assert [arm.name for arm in arms] == [BASELINE, REGULARISED]
    first, second = (dict(arm.model.named_parameters()) for arm in arms)
    assert all(torch.equal(first[key], second[key]) and first[key] is not second[key] for key in first)


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "squeezenet1_0", "vgg11", "efficientnet_b0"])
def test_cam_terms_gradient_on_the_trunk_is_live_and_scales_with_the_weight(name: str) -> None:
    model = classifier(name)
    cam = CamConfig(confidence_exponent=0.0)
    paths = probe(model, *batch(), cam)
    torch.manual_seed(0)
    assert check_alive(model, [batch()], cam, paths) > 0

    def gradient(weight: float) -> Tensor:
        arm = Arm(
            REGULARISED,
            copy.deepcopy(model).train(),
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0),
            True,
            paths,
        )
        torch.manual_seed(0)
        train_step(arm, *batch(), cam, weight, observe=False)
        first = next(p for p in arm.model.parameters() if p.dim() == 4)
        assert first.grad is not None
        return first.grad

    plain, once, twice = gradient(0.0), gradient(1.0), gradient(2.0)
    assert float((once - plain).norm()) > 0
    torch.testing.assert_close(
        twice - plain, 2 * (once - plain), rtol=2e-2, atol=1e-3 * float((once - plain).abs().max())
    )


def test_a_term_that_cannot_train_is_refused() -> None:
    model = classifier("small_resnet")
    with torch.no_grad():
        model.backbone.get_submodule("fc").weight.fill_(-1.0)  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match="8 of 8 maps are dead"):
        check_alive(model, [batch(0), batch(1)], CamConfig(score=Score.logit), Paths(True, True))


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("small_resnet", Paths(True, True)),
        ("resnet18", Paths(True, True)),
        ("efficientnet_b0", Paths(False, True)),  # dropout before the linear layer, in training only
        ("mobilenet_v3_small", Paths(False, False)),
        ("squeezenet1_0", Paths(False, False)),
        ("vgg11", Paths(False, False)),
    ],
)
def test_probe(name: str, paths: Paths) -> None:
    torch.manual_seed(0)
    assert probe(classifier(name), *batch(), CamConfig()) == paths


def test_probe_leaves_the_model_as_it_was() -> None:
    model = classifier("small_resnet")
    before = copy.deepcopy(model.state_dict())
    probe(model, *batch(), CamConfig())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training


def test_cam_and_closed_path_are_refused_where_the_head_has_none() -> None:
    with pytest.raises(UserError, match="cam=gradcam"):
        probe(classifier("vgg11"), *batch(), CamConfig(variant=CamVariant.cam))
    with pytest.raises(UserError, match=r"cam\.path=auto"):
        probe(classifier("squeezenet1_0"), *batch(), CamConfig(path=GradientPath.closed))
    assert probe(classifier("small_resnet"), *batch(), CamConfig(path=GradientPath.autograd)) == Paths(False, False)


def test_learning_rate() -> None:
    config = OptimConfig(schedule=LrSchedule.cosine, warmup=2.0)
    rates = [learning_rate(config, 1.0, done, 10.0) for done in (0.0, 1.0, 2.0, 5.0, 10.0)]
    assert rates[0] < 0.01
    assert rates[1] == pytest.approx(0.5 * 0.9755, abs=1e-3)
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] == pytest.approx(0.0)
    assert learning_rate(OptimConfig(schedule=LrSchedule.constant), 0.3, 7.0, 10.0) == 0.3


def test_default_learning_rate() -> None:
    assert default_learning_rate(Optimiser.adamw, False, classifier("resnet18")) == 2e-3
    assert default_learning_rate(Optimiser.adamw, True, classifier("resnet18")) == pytest.approx(2e-4)
    assert default_learning_rate(Optimiser.sgd, False, classifier("squeezenet1_0")) == pytest.approx(5e-3)


def test_weight_decay_leaves_biases_and_norms_alone() -> None:
    model = classifier("small_resnet")
    decayed, spared = make_optimiser(model, OptimConfig(weight_decay=0.3), 1e-3).param_groups
    assert decayed["weight_decay"] == 0.3
    assert spared["weight_decay"] == 0.0
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in spared["params"]} == {1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
