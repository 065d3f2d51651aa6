"""Memory layout and bfloat16 change what rounding changes, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from passes import (
    NAMES,
    Gradients,
    classifier,
    cosine,
    pass_through,
    regularised_arm,
    relative_difference,
    shapes_batch,
)
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from camtrain.config.options import CamConfig, Score
from camtrain.data.batches import Batch
from camtrain.data.sources import shapes
from camtrain.networks.capture import probe_routes
from camtrain.networks.classifier import Classifier
from camtrain.training.step import train_step


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "of_gradients"), [(torch.float64, 1e-9), (torch.float32, 5e-3)])
def test_channels_last(name: str, precision: torch.dtype, of_gradients: float) -> None:
    """The same to float64's digits; in float32 an untrained network's batch norms enlarge its kernels' rounding."""
    model = classifier(name).to(precision)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = shapes_batch()
    batch = batch._replace(images=batch.images.to(precision))
    logits, term, gradients = pass_through(model, batch)
    last = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    logits_last, term_last, gradients_last = pass_through(other, last)
    torch.testing.assert_close(logits_last, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term_last, term, rtol=1e-4, atol=1e-4)
    assert relative_difference(gradients, gradients_last) < of_gradients


# ---- bfloat16, without the kernels of this CPU, whose sums are its own


def rounded(value: Any, dtype: torch.dtype) -> Any:
    """A tensor of real numbers rounded to bfloat16, in `dtype`; anything else as it is. So is its gradient rounded."""
    return value.bfloat16().to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class SumsInFloat32(TorchDispatchMode):
    """Computes every operation on bfloat16 in float32 and rounds its result, as bfloat16 is defined, on any CPU.

    Whether a CPU has instructions for it, and in which order and precision those add up, then does not matter.
    """

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        dtypes = [argument.dtype if isinstance(argument, Tensor) else None for argument in args]
        cast, changes = func is torch.ops.aten._to_copy.default, func.is_view or func._schema.is_mutable
        if torch.bfloat16 not in dtypes or cast or changes:
            return func(*args, **(kwargs or {}))
        wide = [part.float() if dtype is torch.bfloat16 else part for part, dtype in zip(args, dtypes, strict=True)]
        result = func(*wide, **(kwargs or {}))
        if not isinstance(result, tuple):
            return rounded(result, torch.bfloat16)
        # Beside float32 weights (batch norm's) only the first result, the activations or their gradient, is bfloat16.
        count = 1 if torch.float32 in dtypes else len(result)
        return tuple(rounded(part, torch.bfloat16) if at < count else part for at, part in enumerate(result))


class Rounding(TorchFunctionMode):
    """Rounds what products take and what every function returns to bfloat16, and, going back, all their gradients."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.conv2d, linear):
            args = tuple(rounded(argument, torch.float32) for argument in args)
        return rounded(func(*args, **(kwargs or {})), torch.float32)


def with_rounding(model: Classifier) -> Classifier:
    """A copy that computes in float32 and rounds what its layers take and return, without autocast."""
    copied = copy.deepcopy(model)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        with Rounding():
            logits, grids = copied.grids(images)
        return logits, grids[copied.layer]

    copied.runs = {True: run, False: run}
    return copied


def in_bfloat16(model: Classifier) -> Classifier:
    lower = copy.deepcopy(model)
    lower.precision = torch.bfloat16
    return lower


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_of_an_untrained_network_is_float32_rounded_at_every_layer(name: str) -> None:
    """That maps and terms stay in float32, and that nothing is computed in bfloat16 but the layers.

    The rounded gradient itself is another one than float32's, at no fixed distance: rounding switches units of a ReLU
    on and off, and it decides over a map that is nearly dead, whose gradient is the largest of all as T does not see
    the map's scale. (Images that differ by 3e-7, the rounding of float32, turn the cosine between the two from 0.85 to
    0.30 for SqueezeNet and from 0.23 to 0.89 for MobileNet.) With the same rounding in the forward pass both are the
    same, and the gradients differ by the rounding of their own sums, 2^-8 a layer: some 2^-8 sqrt(50) in all.
    """
    model, batch = classifier(name), shapes_batch()
    routes = probe_routes(model, batch.images, Score.centred)
    logits, term, gradients = pass_through(with_rounding(model), batch, routes)
    with SumsInFloat32():
        logits_lower, term_lower, gradients_lower = pass_through(in_bfloat16(model), batch, routes)
    assert logits_lower.dtype == term_lower.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in gradients_lower.values())
    torch.testing.assert_close(logits_lower, logits, rtol=0, atol=1e-3 * float(logits.abs().max()))
    torch.testing.assert_close(term_lower, term, rtol=0, atol=1e-3)
    assert relative_difference(gradients, gradients_lower) < 0.03


def compare_with_float32(model: Classifier, batch: Batch, exponent: float) -> tuple[Gradients, Gradients]:
    """Gradients in float32 and in bfloat16; logits and terms are compared on the way."""
    logits, term, gradients = pass_through(model, batch, exponent=exponent)
    with SumsInFloat32():
        logits_lower, term_lower, gradients_lower = pass_through(in_bfloat16(model), batch, exponent=exponent)
    torch.testing.assert_close(logits_lower, logits, rtol=0, atol=0.03 * float(logits.abs().max()))
    torch.testing.assert_close(term_lower, term, rtol=0, atol=0.1)
    assert float((term_lower - term).abs().mean()) < 0.02
    return gradients, gradients_lower


def test_bfloat16_of_a_transformer_is_near_float32() -> None:
    """Without batch norm and ReLU its gradient is smooth, so that rounding moves it little even before training."""
    gradients, lower = compare_with_float32(classifier("vit_b_16"), shapes_batch(4), 0.0)
    assert cosine(gradients, lower) > 0.8


def after_some_training(model: Classifier, rate: float) -> Classifier:
    """After 30 steps on generated images."""
    arm = regularised_arm(model, CamConfig(), shapes_batch(4).images, rate)
    images, targets, regions = shapes.generate(960, (3, 64, 64), seed=1, split=0)
    for rows in torch.arange(960).split(32):
        batch = Batch(images[rows].float() / 255, targets[rows] % 3, regions[rows], rows)
        train_step(arm, batch, 1.0, observe=False)
    return arm.network


def from_scratch(_: pytest.FixtureRequest) -> Classifier:
    return after_some_training(classifier("small_resnet"), 2e-3)


def pretrained(request: pytest.FixtureRequest) -> Classifier:
    photographs: Path = request.getfixturevalue("photographs")
    weights = str(photographs / "pretrained" / "squeezenet1_0_deepcompression.pth")
    return after_some_training(classifier("squeezenet1_0", weights), 1e-4)


@pytest.mark.parametrize("make", [from_scratch, pretrained])
def test_bfloat16_of_a_trained_network_is_near_float32(
    make: Callable[[pytest.FixtureRequest], Classifier], request: pytest.FixtureRequest
) -> None:
    """No map is nearly dead: logits, terms and the gradient of the loss as it is trained agree in size as well."""
    gradients, lower = compare_with_float32(make(request), shapes_batch(), CamConfig().confidence_exponent)
    assert cosine(gradients, lower) > 0.95
    assert relative_difference(gradients, lower) < 0.3
