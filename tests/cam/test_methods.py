"""Maps by hand; closed form against autograd; derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from camtrain.cam import methods
from camtrain.cam.distribution import distribution
from camtrain.cam.gradients import autograd_gradient, head_gradient
from camtrain.cam.head import Head
from camtrain.cam.make import ClassMaps
from camtrain.cam.routes import GradientRoute
from camtrain.cam.scores import score
from camtrain.cam.targets import MapTargets
from camtrain.config.options import TRAINABLE, CamConfig, CamVariant, Score, Stem
from camtrain.config.schema import ModelConfig
from camtrain.loss.classification import classification_loss
from camtrain.loss.criterion import cam_term
from camtrain.networks.build import Built, build
from camtrain.networks.classifier import Classifier, Output

CLASSES = 5


def network(name: str, size: int = 64) -> Built:
    return build(ModelConfig(name=name, stem=Stem.auto), CLASSES, (3, size, size), seed=0)


def batch(size: int = 64, count: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.arange(count) % CLASSES


def test_cam_is_the_class_weights_times_the_activations() -> None:
    built = network("small_resnet")
    images, target = batch()
    output = built.classifier.eval()(images)
    weights = built.classifier.class_weights()
    assert weights is not None
    expected = torch.stack([torch.tensordot(weights[c], output.activations[i], 1) for i, c in enumerate(target)])
    ours, gradcam = (
        ClassMaps(*output, target, Score.logit, Head(GradientRoute.closed, weights)).map(variant)
        for variant in (CamVariant.cam, CamVariant.gradcam)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, 64 * gradcam)


def losses_of(model: Classifier, output: Output, target: Tensor, config: CamConfig) -> tuple[Tensor, Tensor]:
    """The loss of one forward pass with maps in closed form, and by autograd."""
    classification = classification_loss(output.logits, target).mean()
    closed, exact = (
        ClassMaps(*output, target, config.score, Head(route, model.class_weights()), create_graph=True)
        for route in (GradientRoute.closed, GradientRoute.autograd)
    )
    terms = (cam_term(made.map(config.variant), made.confidence(), config).mean() for made in (closed, exact))
    ours, autograds = (classification + float(config.weight) * term for term in terms)
    return ours, autograds


def assert_same_gradients(losses: tuple[Tensor, Tensor], inputs: list[Tensor]) -> None:
    ours, exact = (torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) for loss in losses)
    assert abs(float((losses[0] - losses[1]).detach())) < 1e-10
    largest = max(float(gradient.abs().max()) for gradient in exact if gradient is not None)
    assert largest > 1e-4
    for one, other in zip(ours, exact, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * max(1.0, largest))


# Every network of torchvision's families that ends in global average pooling and one linear layer, dropout apart.
POOLED = [
    *("small_resnet", "resnet18", "resnet50", "regnet_y_400mf", "shufflenet_v2_x0_5", "googlenet", "mobilenet_v2"),
    *("mnasnet0_5", "efficientnet_b0", "swin_t"),
]
SEVERAL = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("name", POOLED)
def test_closed_form_gives_autograds_loss_and_gradients_in_float64(name: str) -> None:
    built = network(name, 128 if name == "swin_t" else 64)
    model = built.classifier.double().train()
    for module in model.modules():  # what is random, and behind a layer not closed
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.p = 0.0  # type: ignore[assignment]
    images, target = batch(128 if name == "swin_t" else 64, dtype=torch.float64)
    output = model(images)
    head = [output.activations, *(p for p in model.parameters() if p.dim() < 3 and p.shape[0] == CLASSES)]
    assert len(head) == 3
    # Below the layer a gradient depends on the loss through the activations' alone.
    for variant in TRAINABLE:
        for kind, targets in (*((kind, target) for kind in Score), (Score.log_prob, SEVERAL)):
            config = CamConfig(variant=variant, score=kind, weight=2.0)
            assert_same_gradients(losses_of(model, output, targets, config), head)
    config = CamConfig(variant=CamVariant.layercam, score=Score.log_prob, weight=2.0)
    assert_same_gradients(losses_of(model, output, target, config), list(model.parameters()))


def gradient_of(logits: Tensor, target: Tensor, kind: Score, activations: Tensor) -> Tensor:
    return autograd_gradient(logits, MapTargets.of(target), kind, activations, create_graph=True)


def test_log_prob_score_gives_the_distribution_of_the_log_probabilitys_map() -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.rand(3, 6, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(CLASSES, 6, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 1, 2])
    logits = activations.mean((2, 3)) @ weight.T
    log_prob = log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
    (whole,) = torch.autograd.grad(log_prob.sum(), activations, create_graph=True)
    published = methods.gradcam(activations, whole)
    ours = methods.gradcam(activations, gradient_of(logits, target, Score.log_prob, activations))
    torch.testing.assert_close(distribution(ours)[0], distribution(published)[0])
    # The positive factor between them is 1 - p, and gradients of what is made from P do not see it either.
    torch.testing.assert_close(ours * (1 - log_prob.exp())[:, None, None], published)
    entropy = [-(p * (p + 1e-300).log()).sum() for p in (distribution(ours)[0], distribution(published)[0])]
    first, second = (torch.autograd.grad(value, activations, retain_graph=True)[0] for value in entropy)
    torch.testing.assert_close(first, second)


def test_a_constant_added_to_all_logits_changes_neither_centred_score_nor_its_map() -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.rand(3, 6, 4, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(CLASSES, 6, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 1, 2])
    targets = MapTargets.of(target)
    for kind, same in ((Score.logit, False), (Score.centred, True)):
        scores, maps = [], []
        for classes in (weight, weight - torch.linspace(1, 3, 6, dtype=torch.float64)):
            logits = activations.mean((2, 3)) @ classes.T
            scores.append(score(logits, targets, kind))
            maps.append(methods.gradcam(activations, head_gradient(logits, targets, kind, classes, 16)))
        assert torch.allclose(*scores) == torch.allclose(*maps) == same
    # Their softmax is the same, and their sum is zero.
    logits = torch.randn(1, CLASSES, generator=generator, dtype=torch.float64).expand(CLASSES, -1)
    every = torch.arange(CLASSES)
    centred = score(logits, MapTargets.of(every), Score.centred)
    torch.testing.assert_close(centred.softmax(0), logits[0].softmax(0))
    assert float(centred.sum()) == pytest.approx(0, abs=1e-12)


def test_log_prob_map_of_a_certain_image_is_alive() -> None:
    weight = torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(3))
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0, 0.0]])  # probability 1 in any precision
    target = torch.tensor([0])
    gradient = head_gradient(logits, MapTargets.of(target), Score.log_prob, weight, 16)
    assert float(gradient.abs().sum()) > 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("variant", TRAINABLE)
def test_broadcast_gradient_is_the_full_one(variant: CamVariant) -> None:
    activations, gradient = torch.rand(2, 3, 4, 5), torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(
        methods.METHODS[variant](activations, gradient),
        methods.METHODS[variant](activations, gradient.expand(2, 3, 4, 5)),
    )


def test_maps_by_hand() -> None:
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    gradients = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 2.0], [1.0, 0.0]]]])
    by_hand = {
        CamVariant.gradcam: 0.5 * activations[0, 0] + 0.5 * activations[0, 1],
        CamVariant.hirescam: torch.tensor([[0.0, 0.0], [0.0, 4.0]]),
        CamVariant.layercam: torch.tensor([[1.0, 0.0], [0.0, 4.0]]),
        # (1 + 4) / 10 and (-1) / 2
        CamVariant.xgradcam: 0.5 * activations[0, 0] - 0.5 * activations[0, 1],
        # alpha = 1 / (2 + 10 g), 1 / (2 + 2 g): 2 / 12, and 2 / 6 + 1 / 4
        CamVariant.gradcampp: 2 / 12 * activations[0, 0] + (2 / 6 + 1 / 4) * activations[0, 1],
    }
    for variant, expected in by_hand.items():
        torch.testing.assert_close(methods.METHODS[variant](activations, gradients)[0], expected)


def test_eigencam_of_one_direction_is_that_direction() -> None:
    pattern = torch.tensor([[0.0, 0.0, 3.0], [0.0, 1.0, 0.0]])
    activations = pattern * torch.tensor([1.0, 2.0])[:, None, None]
    ours = methods.eigencam(activations[None])[0]
    torch.testing.assert_close(ours, 5**0.5 * (pattern - pattern.mean()))
    assert not bool(methods.eigencam(torch.ones(1, 3, 2, 2)).any())


def test_scorecam_weighs_channels_by_what_their_mask_leaves() -> None:
    images = torch.rand(2, 3, 16, 16)
    activations = torch.rand(2, 4, 4, 4)
    seen = []

    def score_of(masked: Tensor, number: int) -> Tensor:
        seen.append((len(masked), number))
        return torch.tensor([0.0, 50.0, 0.0, 0.0])[len(seen) % 2 * 2 :][: len(masked)] if len(masked) < 4 else masked

    methods.scorecam(images, activations, lambda masked, _: masked.mean((1, 2, 3)))
    maps = methods.scorecam(images, activations, score_of, batch_size=2)
    assert seen == [(2, 0), (2, 0), (2, 1), (2, 1)]
    torch.testing.assert_close(maps, activations[:, 3], rtol=1e-4, atol=1e-4)


def test_score_of_logits_that_are_far_apart() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    target = torch.tensor([0])
    value = score(logits, MapTargets.of(target), Score.log_prob)
    assert math.isclose(float(value.detach()), 1e4)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(gradient).all()


def test_output_names() -> None:
    images, _ = batch()
    output = network("small_resnet").classifier(images)
    assert isinstance(output, Output)
    assert output.logits.shape == (4, CLASSES)
    assert output.activations.shape == (4, 64, 8, 8)


def test_eigencam_of_what_is_not_finite_is_not_defined() -> None:
    activations = torch.rand(3, 4, 5, 5)
    activations[1, 2, 3, 3] = torch.nan
    found = methods.eigencam(activations)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], methods.eigencam(activations[[0, 2]]))
