"""Arms: bit-for-bit equality at weight 0, a step that trains what it says, effort and balance."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from small import CLOSED, batch, classifier
from torch import Tensor

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import TRAINABLE, CamConfig, CamVariant, Conflict, Score, Term
from camtrain.config.schema import ModelConfig, OptimConfig
from camtrain.data.batches import Batch
from camtrain.loss.classification import classification_gradient, classification_loss
from camtrain.loss.criterion import CamLoss, CamTerm
from camtrain.loss.layer_gradient import gradient_at
from camtrain.networks.build import build
from camtrain.networks.capture import probe_routes
from camtrain.networks.classifier import Classifier, Output
from camtrain.training.arm import Arm, make_arms
from camtrain.training.step import train_step


def two_arms(network: Classifier, cam: CamConfig, routes: Routes, rate: float = 1e-3) -> list[Arm]:
    """The baseline, and an arm of these settings."""
    cams = {BASELINE: dataclasses.replace(cam, weight=0), REGULARISED: cam}
    return make_arms(network, cams, routes, OptimConfig(), rate, pretrained=False)


def trained(name: str, cam: CamConfig, done: float, steps: int = 3, multilabel: bool = False) -> list[Arm]:
    network = classifier(name)
    arms = two_arms(network, cam, probe_routes(network, batch().images, cam.score))
    for step in range(steps):
        for arm in arms:
            torch.manual_seed(step)
            arm.network.train()
            train_step(arm, batch(step, multilabel=multilabel), done, observe=step == 1)
    return arms


def cam_term_of(output: Output, made: Batch, cam: CamConfig) -> CamTerm:
    return CamLoss(**vars(cam)).term(output.logits, output.activations, made.targets, made.regions, train=True)


def without_dropout(network: Classifier) -> Classifier:
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0", "mobilenet_v3_small"])
def test_weight_zero_equals_the_baseline_bit_for_bit(name: str, multilabel: bool) -> None:
    for cam, done in ((CamConfig(weight=0), 1.0), (CamConfig(weight=1.0, start=1), 0.0), (CamConfig(start=1), 0.0)):
        arms = trained(name, cam, done, multilabel=multilabel)
        baseline, regularised = (arm.network.state_dict() for arm in arms)
        assert baseline.keys() == regularised.keys()
        assert all(torch.equal(baseline[key], regularised[key]) for key in baseline)


@pytest.mark.parametrize("weight", [1.0, "auto"])
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_weight_changes_only_the_regularised_arm(name: str, weight: float | str) -> None:
    plain = trained(name, CamConfig(weight=weight, start=1), done=0.0)
    weighted = trained(name, CamConfig(weight=weight), done=1.0)
    before, after = (arms[0].network.state_dict() for arms in (plain, weighted))
    assert all(torch.equal(before[key], after[key]) for key in before)
    first, second = (arm.network.state_dict() for arm in weighted)
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_arms_start_equal_and_apart() -> None:
    arms = two_arms(classifier("resnet18"), CamConfig(), CLOSED)
    assert [arm.name for arm in arms] == [BASELINE, REGULARISED]
    assert [arm.criterion.strength for arm in arms] == [None, "cam.share"]
    assert [arm.network.routes for arm in arms] == [CLOSED, CLOSED]
    first, second = (dict(arm.network.named_parameters()) for arm in arms)
    assert all(torch.equal(first[key], second[key]) and first[key] is not second[key] for key in first)


def trunk_gradient(model: Classifier, routes: Routes, cam: CamConfig, made: Batch) -> Tensor:
    """Gradient of a step's whole loss on the first kernel; the network keeps its weights, and not its gradients and
    statistics of batch norm."""
    kernel = next(p for p in model.parameters() if p.dim() == 4)
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0, fused=True)
    model.train().routes = routes
    kernel.grad = None
    torch.manual_seed(0)
    train_step(Arm(REGULARISED, model, nothing, CamLoss(**vars(cam))), made, 1.0, observe=False)
    assert kernel.grad is not None
    return kernel.grad


BACKBONES = [
    *("small_resnet", "resnet18", "resnet50", "squeezenet1_0", "vgg11", "mobilenet_v2", "mobilenet_v3_small"),
    *("efficientnet_b0", "densenet121", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t", "vit_b_16", "googlenet"),
]


@pytest.mark.parametrize("name", BACKBONES)
def test_cam_terms_gradient_on_the_trunk_is_live_and_scales_with_the_weight(name: str) -> None:
    size = 128 if name == "swin_t" else 64
    model = build(ModelConfig(name=name), classes=3, shape=(3, size, size), seed=0).classifier
    small = batch()
    images = torch.nn.functional.interpolate(small.images, (size, size))
    made = Batch(images, small.targets, torch.zeros(4, size, size, dtype=torch.uint8), small.indices)
    torch.manual_seed(0)
    routes = probe_routes(model, images, Score.centred)
    first = next(p for p in model.parameters() if p.dim() == 4)
    model.requires_grad_(False)  # the gradients of all the others are most of the work
    first.requires_grad_()
    weights = (CamConfig(weight=weight, confidence_exponent=0.0) for weight in (0, 1.0, 2.0))
    plain, once, twice = (trunk_gradient(model, routes, cam, made) for cam in weights)
    assert float((once - plain).norm()) > 1e-5 * float(plain.norm())
    torch.testing.assert_close(
        twice - plain, 2 * (once - plain), rtol=2e-2, atol=1e-3 * float((once - plain).abs().max())
    )
    output = model(images)
    for variant in TRAINABLE:
        if variant is not CamVariant.cam or routes.training is GradientRoute.closed:
            cam = CamConfig(variant=variant, confidence_exponent=0.0)
            term = cam_term_of(output, made, cam).mean()
            (gradient,) = torch.autograd.grad(term, first, retain_graph=True)
            assert float(gradient.norm()) > 0, variant
            assert bool(torch.isfinite(gradient).all()), variant


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_several_classes_per_image_train_every_class_map(name: str) -> None:
    model = classifier(name)
    cam = CamConfig(weight=1.0, confidence_exponent=0.0)
    made = batch(multilabel=True)
    output = model.train()(made.images)
    term = cam_term_of(output, made, cam)
    assert term.value.shape == (7,)  # 1 + 2 + 3 + 1 positive classes
    for row, kind, value in zip(*made.targets.nonzero(as_tuple=True), term.value, strict=True):
        (gradient,) = torch.autograd.grad(output.logits[row, kind], output.activations, retain_graph=True)
        positive = (gradient.mean((2, 3), keepdim=True) * output.activations).sum(1)[row].relu()
        shares = positive / positive.sum()
        expected = -(shares * (shares + 1e-30).log()).sum() / torch.tensor(shares.numel()).log()
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in Term if kind is not Term.none])
def test_every_term_trains_the_trunk(kind: Term) -> None:
    model = classifier("small_resnet")
    cam = CamConfig(term=kind, weight=1.0, confidence_exponent=0.0)
    for multilabel in (False, True):
        made = batch(multilabel=multilabel)
        plain, trained = (trunk_gradient(model, CLOSED, one, made) for one in (CamConfig(weight=0), cam))
        assert float((trained - plain).norm()) > 1e-3 * float(plain.norm())


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
@pytest.mark.parametrize(("weight", "exponent"), [(2.0, 0.0), ("auto", 0.0), ("auto", 2.0)])
def test_observed_share_is_that_of_the_gradients_at_the_layer(name: str, weight: float | str, exponent: float) -> None:
    model = classifier(name)
    cam = CamConfig(weight=weight, share=0.3, confidence_exponent=exponent)
    routes = probe_routes(model, batch().images, Score.centred)
    arm = two_arms(model, cam, routes)[1]
    without_dropout(arm.network)
    output = arm.network.train()(batch().images)
    term = cam_term_of(output, batch(), cam).mean()
    classification = classification_loss(output.logits, batch().targets).mean()
    share = 0.3 * float((output.logits.detach().softmax(1).gather(1, batch().targets[:, None]) ** exponent).mean())
    norms = [float(gradient_at(output.activations, loss).norm()) for loss in (classification, term)]
    seen = train_step(arm, batch(), 1.0, observe=True).observed
    assert seen.cam_share is not None
    assert seen.cam_weight is not None
    used = float(seen.cam_weight)
    assert used == pytest.approx(2.0 if weight == 2.0 else share / (1 - share) * norms[0] / norms[1], rel=1e-3)
    assert float(seen.cam_share) == pytest.approx(used * norms[1] / (norms[0] + used * norms[1]), rel=1e-3)


def test_batch_norm_behind_the_layer_leaves_the_baseline_unobserved() -> None:
    model = build(ModelConfig(name="resnet18", layer="layer3"), classes=3, shape=(3, 64, 64), seed=0).classifier
    routes = probe_routes(model, batch().images, Score.centred)
    assert routes == Routes(GradientRoute.mixed, GradientRoute.autograd)
    arm = two_arms(model, CamConfig(weight=0), routes)[0]
    assert train_step(arm, batch(), 1.0, observe=True).observed.cam_term is None


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_conflict_is_taken_out_of_the_gradient_that_reaches_the_trunk(name: str) -> None:
    model = classifier(name)
    made = batch()
    weighted = CamConfig(weight=5.0, confidence_exponent=0.0)
    routes = probe_routes(model, made.images, Score.centred)
    without_dropout(model)
    output = model.train()(made.images)
    classification = classification_loss(output.logits, made.targets).mean()
    term = 5.0 * cam_term_of(output, made, weighted).mean()
    of_classification, of_term = (gradient_at(output.activations, loss) for loss in (classification, term))
    assert bool(((of_classification * of_term).sum((1, 2, 3)) < 0).any()), "nothing to take out"
    against = (of_classification * of_term).sum((1, 2, 3), keepdim=True).clamp_max(0)
    taken = against / of_classification.square().sum((1, 2, 3), keepdim=True) * of_classification
    kernel = next(p for p in model.parameters() if p.dim() == 4)
    for conflict, at_layer in (
        (Conflict.keep, of_classification + of_term),
        (Conflict.project, of_classification + of_term - taken),
    ):
        (expected,) = torch.autograd.grad(output.activations, kernel, at_layer, retain_graph=True)
        cam = dataclasses.replace(weighted, conflict=conflict)
        found = trunk_gradient(copy.deepcopy(model), routes, cam, made)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("multilabel", [False, True])
def test_classification_gradient_in_closed_form_is_autograds(multilabel: bool) -> None:
    model = classifier("small_resnet").double().train()
    made = batch(multilabel=multilabel)
    logits, activations = model(made.images.double())
    weights = model.class_weights()
    assert weights is not None
    closed = classification_gradient(logits, made.targets, weights, activations.shape[2] * activations.shape[3])
    (exact,) = torch.autograd.grad(classification_loss(logits, made.targets).mean(), activations)
    assert closed.shape[-2:] == (1, 1)
    torch.testing.assert_close(closed.expand_as(exact), exact, rtol=1e-10, atol=1e-15)


def weights_over(arm: Arm, batches: list[Batch]) -> list[float]:
    seen = [train_step(arm, made, 1.0, observe=True).observed for made in batches]
    return [float(each.cam_weight) for each in seen if each.cam_weight is not None]


def test_automatic_weight_begins_with_the_first_batch_that_has_a_term() -> None:
    model = classifier("small_resnet")
    cam = CamConfig(term=Term.energy_outside)
    arm = two_arms(model, cam, CLOSED)[1]
    bare = batch()._replace(regions=torch.zeros(4, 64, 64, dtype=torch.uint8))
    weights = weights_over(arm, [bare, bare, batch(1), batch(2)])
    assert weights[:2] == [0.0, 0.0]
    assert min(weights[2:]) > 0


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_share_too_small_to_show_in_the_gradient_is_held_nevertheless(name: str, precision: torch.dtype) -> None:
    """A fresh network of many classes is sure of nothing; its weight must not stay what it was at the first step."""
    model = classifier(name)
    model.precision = precision
    without_dropout(model)
    for exponent in (4.0, 16.0):
        cam = CamConfig(confidence_exponent=exponent)
        routes = probe_routes(model, batch().images, Score.centred)
        nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0, fused=True)
        model.routes = routes
        criterion = CamLoss(**vars(cam))
        arm = Arm(REGULARISED, model, nothing, criterion)
        weights = weights_over(arm, [batch()] * 6)
        assert weights == pytest.approx([weights[0]] * 6, rel=0.03)  # found as a difference or apart
        assert criterion.balance is not None
        assert float(criterion.balance.means[3]) == pytest.approx(1 - 0.98**6)
        assert exponent < 16 or criterion.balance.needs_own_backward


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_automatic_weight_does_not_move_while_there_is_no_term(name: str, precision: torch.dtype) -> None:
    model = classifier(name)
    model.precision = precision
    cam = CamConfig(term=Term.energy_outside, confidence_exponent=0.0)
    routes = probe_routes(model, batch().images, Score.centred)
    arm = two_arms(model, cam, routes, rate=1e-4)[1]
    bare = batch()._replace(regions=torch.zeros(4, 64, 64, dtype=torch.uint8))
    weights = weights_over(arm, [batch(0), *[bare] * 12])
    assert weights[0] > 0
    assert max(weights[2:]) == min(weights[2:])
