"""Speed-and-safety switches: bfloat16, channels_last and compiled code give the same maps and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from camtrain.arm import make_arms, term_of, train_step
from camtrain.balance import Balance
from camtrain.compiled import compile_network
from camtrain.config import CamConfig, Conflict, ModelConfig, OptimConfig
from camtrain.data import shapes
from camtrain.data.pictures import Batch
from camtrain.head import Paths
from camtrain.loss import classification_loss
from camtrain.model import Classifier, build
from camtrain.preconditions import probe_paths

Gradients = dict[str, Tensor]

NAMES = ["small_resnet", "squeezenet1_0", "mobilenet_v3_small"]


def made(count: int = 16) -> Batch:
    """Generated pictures: noise alone would make batch norm divide by next to nothing."""
    images, targets, regions = shapes.generate(count, 64, seed=0, split=0)
    return Batch(images.float() / 255, targets % 3, regions, torch.arange(count))


def classifier(name: str) -> Classifier:
    """In training mode, but without dropout, whose random numbers depend on memory layout and generated code."""
    model = build(ModelConfig(name=name), 3, 64, 0).classifier.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def pass_through(model: Classifier, batch: Batch, paths: Paths | None = None) -> tuple[Tensor, Tensor, Gradients]:
    """Logits, term of each map and every weight's gradient of loss and term."""
    paths = paths or probe_paths(model, batch.images, CamConfig())
    output = model(batch.images)
    term = term_of(model, output, batch, CamConfig(confidence_exponent=0.0), paths.training, train=True)
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
def test_channels_last(name: str) -> None:
    model = classifier(name)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = made()
    logits, term, gradients = pass_through(model, batch)
    last = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    logits_last, term_last, gradients_last = pass_through(other, last)
    torch.testing.assert_close(logits_last, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term_last, term, rtol=1e-4, atol=1e-4)
    assert largest_difference(gradients, gradients_last) < 5e-3


@pytest.mark.parametrize("name", [*NAMES, "vit_b_16"])
def test_bfloat16(name: str) -> None:
    """Eight bits of mantissa: a relative step of 0.4 % in every operation.

    Logits agree to 3 % of the largest and terms to 0.1 of their range. Gradients through a fresh network with batch
    norm agree in direction; their size is not what rounding leaves alone.
    """
    model = classifier(name)
    lower = copy.deepcopy(model)
    lower.precision = torch.bfloat16
    batch = made(4 if name == "vit_b_16" else 16)
    logits, term, gradients = pass_through(model, batch)
    logits_lower, term_lower, gradients_lower = pass_through(lower, batch)
    assert logits_lower.dtype == term_lower.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in gradients_lower.values())
    torch.testing.assert_close(logits_lower, logits, rtol=0, atol=0.03 * float(logits.abs().max()))
    torch.testing.assert_close(term_lower, term, rtol=0, atol=0.1)
    assert cosine(gradients, gradients_lower) > 0.8


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
