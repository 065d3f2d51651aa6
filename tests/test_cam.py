"""Maps against the grad-cam package; closed form against autograd; derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from torchvision.models import get_model

from camtrain import cam
from camtrain.arm import make_map, probe
from camtrain.config import CamConfig, CamVariant, ModelConfig, Score, Stem
from camtrain.indicators import distribution
from camtrain.loss import map_entropy, total_loss
from camtrain.model import Built, Output, build
from camtrain.residual import SmallResNet

CLASSES = 5


def network(name: str, size: int = 64) -> Built:
    return build(ModelConfig(name=name, stem=Stem.auto), CLASSES, size, seed=0)


def batch(size: int = 64, count: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.arange(count) % CLASSES


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "squeezenet1_0", "vgg11", "mobilenet_v3_small"])
def test_gradcam_equals_the_grad_cam_package(name: str) -> None:
    built = network(name)
    model = built.classifier.eval()
    images, target = batch()
    plain = SmallResNet(CLASSES) if name == "small_resnet" else get_model(name, num_classes=CLASSES)
    plain.load_state_dict(model.backbone.state_dict())
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    for stem in built.stem:
        plain.get_submodule(stem).stride = (1, 1)
    plain.eval()
    layer = plain.get_submodule(built.layer)
    with GradCAM(plain, [layer]) as method:
        normalised = (images - model.mean) / model.std
        method(normalised, [ClassifierOutputTarget(int(number)) for number in target])
        theirs = method.get_cam_image(
            normalised,
            layer,
            None,
            method.activations_and_grads.activations[0].cpu().numpy(),
            method.activations_and_grads.gradients[0].cpu().numpy(),
            False,
        )
    closed = probe(model, images, target, CamConfig()).evaluation
    ours = make_map(model.eval(), model(images), target, CamVariant.gradcam, Score.logit, closed, train=False)
    scale = np.abs(theirs).max()
    assert scale > 0
    np.testing.assert_allclose(ours.detach().numpy() / scale, theirs / scale, atol=1e-5)


def test_cam_is_the_class_weights_times_the_activations() -> None:
    built = network("small_resnet")
    images, target = batch()
    output = built.classifier.eval()(images)
    weights = built.classifier.class_weights()
    assert weights is not None
    expected = torch.stack([torch.tensordot(weights[c], output.activations[i], 1) for i, c in enumerate(target)])
    ours = make_map(built.classifier, output, target, CamVariant.cam, Score.logit, closed=True, train=False)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    gradcam = make_map(built.classifier, output, target, CamVariant.gradcam, Score.logit, closed=True, train=False)
    torch.testing.assert_close(ours, 64 * gradcam)


def loss_and_gradients(
    built: Built, images: Tensor, target: Tensor, config: CamConfig, closed: bool
) -> tuple[Tensor, list[Tensor]]:
    model = built.classifier
    output = model(images)
    maps = make_map(model, output, target, config.variant, config.score, closed, train=True)
    term = map_entropy(maps, output.logits, target, config)
    loss = total_loss(cross_entropy(output.logits, target, reduction="none"), term, config.weight)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "resnet50"])
@pytest.mark.parametrize("kind", list(Score))
def test_closed_form_gives_autograds_loss_and_gradients_in_float64(name: str, kind: Score) -> None:
    built = network(name)
    built.classifier.double().train()
    images, target = batch(dtype=torch.float64)
    config = CamConfig(score=kind, weight=2.0)
    loss, gradients = loss_and_gradients(built, images, target, config, closed=True)
    exact_loss, exact_gradients = loss_and_gradients(built, images, target, config, closed=False)
    assert abs(float(loss - exact_loss)) < 1e-10
    largest = max(float(gradient.abs().max()) for gradient in exact_gradients)
    assert largest > 1e-3
    for ours, exact in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=1e-10 * max(1.0, largest))


def test_log_prob_score_gives_the_distribution_of_the_log_probabilitys_map() -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.rand(3, 6, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(CLASSES, 6, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 1, 2])
    logits = activations.mean((2, 3)) @ weight.T
    log_prob = log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
    published = cam.gradcam(activations, cam.autograd_gradient(log_prob, activations, create_graph=True))
    ours = cam.gradcam(
        activations, cam.autograd_gradient(cam.score(logits, target, Score.log_prob), activations, create_graph=True)
    )
    torch.testing.assert_close(distribution(ours)[0], distribution(published)[0])
    # The positive factor between them is 1 - p, and gradients of what is made from P do not see it either.
    torch.testing.assert_close(ours * (1 - log_prob.exp())[:, None, None], published)
    entropy = [-(p * (p + 1e-300).log()).sum() for p in (distribution(ours)[0], distribution(published)[0])]
    first, second = (torch.autograd.grad(value, activations, retain_graph=True)[0] for value in entropy)
    torch.testing.assert_close(first, second)


def test_log_prob_map_of_a_certain_picture_is_alive() -> None:
    weight = torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(3))
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0, 0.0]])  # probability 1 in any precision
    gradient = cam.head_gradient(logits, torch.tensor([0]), Score.log_prob, weight, 16)
    assert float(gradient.abs().sum()) > 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", list(Score))
def test_first_and_second_derivatives_in_float64(kind: Score) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    hidden = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 2])

    def entropy_through_a_head_that_is_not_linear(activations: Tensor) -> Tensor:
        logits = torch.tanh(activations.mean((2, 3)) @ hidden.T) @ weight.T
        gradient = cam.autograd_gradient(cam.score(logits, target, kind), activations, create_graph=True)
        return map_entropy(cam.gradcam(activations, gradient), logits, target, CamConfig()).entropy

    activations = (torch.rand(2, 4, 3, 3, generator=generator, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(entropy_through_a_head_that_is_not_linear, (activations,))
    assert torch.autograd.gradgradcheck(entropy_through_a_head_that_is_not_linear, (activations,))


def test_broadcast_gradient_is_the_full_one() -> None:
    activations, gradient = torch.rand(2, 3, 4, 5), torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(
        cam.gradcam(activations, gradient), cam.gradcam(activations, gradient.expand(2, 3, 4, 5))
    )


def test_score_of_logits_that_are_far_apart() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = cam.score(logits, torch.tensor([0]), Score.log_prob)
    assert math.isclose(float(value.detach()), 1e4)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(gradient).all()


def test_output_names() -> None:
    images, _ = batch()
    output = network("small_resnet").classifier(images)
    assert isinstance(output, Output)
    assert output.logits.shape == (4, CLASSES)
    assert output.activations.shape == (4, 64, 8, 8)
