"""Speed-and-safety switches: bfloat16, channels_last and compiled code give the same maps and gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from camtrain import device
from camtrain.cam.routes import Routes
from camtrain.config.options import Conflict, Precision
from camtrain.config.schema import CamConfig, ModelConfig, OptimConfig, TrainerConfig
from camtrain.data.batches import Batch
from camtrain.data.sources import shapes
from camtrain.loss.balance import Balance
from camtrain.loss.criterion import classification_loss
from camtrain.networks.build import build
from camtrain.networks.classifier import Classifier
from camtrain.networks.compile import compile_network
from camtrain.training.arm import make_arms
from camtrain.training.checks import probe_paths
from camtrain.training.step import term_of, train_step

Gradients = dict[str, Tensor]

NAMES = ["small_resnet", "squeezenet1_0", "mobilenet_v3_small"]


def made(count: int = 16) -> Batch:
    """Generated images: noise alone would make batch norm divide by next to nothing."""
    images, targets, regions = shapes.generate(count, 64, seed=0, split=0)
    return Batch(images.float() / 255, targets % 3, regions, torch.arange(count))


def classifier(name: str) -> Classifier:
    """In training mode, but without dropout, whose random numbers depend on memory layout and generated code."""
    return without_dropout(build(ModelConfig(name=name), 3, 64, 0).classifier.train())


def without_dropout(model: Classifier) -> Classifier:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def pass_through(
    model: Classifier, batch: Batch, paths: Routes | None = None, exponent: float = 0.0
) -> tuple[Tensor, Tensor, Gradients]:
    """Logits, term of each map and every weight's gradient of loss and term."""
    paths = paths or probe_paths(model, batch.images, CamConfig())
    output = model(batch.images)
    term = term_of(model, output, batch, CamConfig(confidence_exponent=exponent), paths.training, train=True)
    loss = classification_loss(output.logits, batch.targets).mean() + term.mean()
    names, weights = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights)
    return output.logits.detach(), term.value.detach(), dict(zip(names, gradients, strict=True))


def cosine(one: Gradients, other: Gradients) -> float:
    """Of the angle between two gradients, all weights together."""
    first, second = (torch.cat([part.double().flatten() for part in gradients.values()]) for gradients in (one, other))
    return float(first @ second / (first.norm() * second.norm()))


def largest_difference(one: Gradients, other: Gradients) -> float:
    """Norm of the difference of two gradients, all weights together, relative to that of the first."""
    squares = [((one[name] - other[name]).double().square().sum(), one[name].double().square().sum()) for name in one]
    difference, whole = (torch.stack(list(part)).sum().sqrt() for part in zip(*squares, strict=True))
    return float(difference / whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "of_gradients"), [(torch.float64, 1e-9), (torch.float32, 5e-3)])
def test_channels_last(name: str, precision: torch.dtype, of_gradients: float) -> None:
    """The same to float64's digits; in float32 a fresh network's batch norms enlarge the rounding of its kernels."""
    model = classifier(name).to(precision)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = made()
    batch = batch._replace(images=batch.images.to(precision))
    logits, term, gradients = pass_through(model, batch)
    last = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    logits_last, term_last, gradients_last = pass_through(other, last)
    torch.testing.assert_close(logits_last, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term_last, term, rtol=1e-4, atol=1e-4)
    assert largest_difference(gradients, gradients_last) < of_gradients


def in_bfloat16(model: Classifier, batch: Batch, exponent: float = 0.0) -> tuple[Gradients, Gradients]:
    """Gradients in float32 and with bfloat16 autocast; logits and terms are compared on the way."""
    lower = copy.deepcopy(model)
    lower.precision = torch.bfloat16
    logits, term, gradients = pass_through(model, batch, exponent=exponent)
    logits_lower, term_lower, gradients_lower = pass_through(lower, batch, exponent=exponent)
    assert logits_lower.dtype == term_lower.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in gradients_lower.values())
    torch.testing.assert_close(logits_lower, logits, rtol=0, atol=0.03 * float(logits.abs().max()))
    torch.testing.assert_close(term_lower, term, rtol=0, atol=0.1)
    assert float((term_lower - term).abs().mean()) < 0.02
    return gradients, gradients_lower


@pytest.mark.parametrize("name", [*NAMES, "vit_b_16"])
def test_bfloat16_of_a_fresh_network(name: str) -> None:
    """Eight bits of mantissa: a relative step of 0.4 % in every operation.

    Terms agree to 0.02 of their range on average, and to 0.1 for the one map that is nearly dead. Gradients agree in
    direction: such a map's is the largest of all, as T does not see the map's scale, and rounding changes it most.
    """
    if device.emulates_precision(TrainerConfig(precision=Precision.bfloat16), torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16 instructions: torch emulates them with sums in bfloat16, far less exact")
    gradients, lower = in_bfloat16(classifier(name), made(4 if name == "vit_b_16" else 16))
    assert cosine(gradients, lower) > 0.8


def pretrained(photographs: Path) -> Classifier:
    weights = photographs / "pretrained" / "squeezenet1_0_deepcompression.pth"
    return without_dropout(build(ModelConfig(name="squeezenet1_0", weights=str(weights)), 3, 64, 0).classifier)


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_bfloat16_of_a_trained_network(name: str, request: pytest.FixtureRequest) -> None:
    """After some training the gradients of the loss as it is trained agree in size as well."""
    fresh = name == "small_resnet"
    model = classifier(name) if fresh else pretrained(request.getfixturevalue("photographs"))
    paths = probe_paths(model, made(4).images, CamConfig())
    arm = make_arms(model, OptimConfig(), 2e-3 if fresh else 1e-4, paths, Balance(0.5))[1]
    images, targets, regions = shapes.generate(960, 64, seed=1, split=0)
    for rows in torch.arange(960).split(32):
        batch = Batch(images[rows].float() / 255, targets[rows] % 3, regions[rows], rows)
        train_step(arm, batch, CamConfig(), 1.0, observe=False)
    gradients, lower = in_bfloat16(arm.model, made(), CamConfig().confidence_exponent)
    assert cosine(gradients, lower) > 0.95
    assert largest_difference(gradients, lower) < 0.3


@pytest.mark.parametrize("conflict", list(Conflict))
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_a_compiled_step_has_the_gradients_and_the_share_of_a_plain_one(name: str, conflict: Conflict) -> None:
    """With a backend that captures the graphs and differentiates them, but generates no code, which takes a minute."""
    model, batch = classifier(name), made()
    paths = probe_paths(model, batch.images, CamConfig())
    cam = CamConfig(conflict=conflict, confidence_exponent=0.0)
    gradients, shares = [], []
    for compiled in (False, True):
        arm = make_arms(copy.deepcopy(model), OptimConfig(), 1e-3, paths, Balance(0.5))[1]
        if compiled:
            compile_network(arm.model, paths, backend="aot_eager")
        step = train_step(arm, batch, cam, 1.0, observe=True)
        gradients.append({key: weight.grad for key, weight in arm.model.named_parameters() if weight.grad is not None})
        shares.append(float(step.cam_share) if step.cam_share is not None else 0.0)
    assert largest_difference(*gradients) < 1e-3
    assert shares == pytest.approx([0.5, 0.5], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_compiled(name: str) -> None:
    model = classifier(name)
    paths = probe_paths(model, made().images, CamConfig())
    compiled = copy.deepcopy(model)
    compile_network(compiled, paths)
    assert compiled.state_dict().keys() == model.state_dict().keys()
    batch = made()
    (logits, term, gradients), (logits_, term_, gradients_) = (
        pass_through(which, batch, paths) for which in (model, compiled)
    )
    torch.testing.assert_close(logits_, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term_, term, rtol=1e-4, atol=1e-4)
    assert largest_difference(gradients, gradients_) < 5e-3
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(batch.images), model.eval()(batch.images), rtol=1e-4, atol=1e-4)
