"""The CAM term: by hand, at the extremes, and its schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from camtrain import cam
from camtrain.config import CamConfig, EntropyUnit, Score
from camtrain.loss import map_entropy, scheduled_weight, total_loss


def test_mean_is_over_live_maps_and_weighted_by_confidence() -> None:
    maps = torch.stack([torch.ones(2, 2), -torch.ones(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])])
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3.0), 0.0]])
    term = map_entropy(maps, logits, torch.tensor([0, 0, 0]), CamConfig(confidence_exponent=2.0))
    assert term.dead.tolist() == [False, True, False]
    assert term.entropy.tolist() == pytest.approx([1.0, 0.0, 0.5])
    assert term.confidence.tolist() == pytest.approx([0.25, 0.25, 9 / 16])
    assert term.mean().item() == pytest.approx((0.25 * 1.0 + 9 / 16 * 0.5) / 2)


def test_the_papers_term_is_in_nats_and_unweighted() -> None:
    config = CamConfig(unit=EntropyUnit.nats, confidence_exponent=0.0)
    term = map_entropy(torch.ones(1, 4, 4), torch.tensor([[-3.0, 3.0]]), torch.tensor([0]), config)
    assert term.mean().item() == pytest.approx(math.log(16))


def test_confidence_is_detached() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    term = map_entropy(torch.rand(1, 3, 3).requires_grad_(), logits, torch.tensor([0]), CamConfig())
    assert torch.autograd.grad(term.mean(), logits, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("done", "weight"),
    [(0.0, 0.0), (1.99, 0.0), (2.0, 0.0), (3.0, 1.0), (4.0, 2.0), (4.5, 2.5), (5.0, 3.0), (9.0, 3.0)],
)
def test_schedule(done: float, weight: float) -> None:
    assert scheduled_weight(CamConfig(weight=3.0, start=2.0, ramp=3.0), done) == pytest.approx(weight)


def test_weight_is_constant_without_a_schedule() -> None:
    assert scheduled_weight(CamConfig(weight=0.7), 0.0) == 0.7


def test_weight_zero_adds_nothing() -> None:
    classification = torch.rand(3)
    term = map_entropy(
        torch.full((3, 2, 2), torch.nan), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), CamConfig()
    )
    assert torch.equal(total_loss(classification, term, 0.0), classification.mean())


EXTREMES = {
    "dead": -torch.ones(2, 3, 4, 4),
    "zero": torch.zeros(2, 3, 4, 4),
    "constant": torch.ones(2, 3, 4, 4),
    "one live cell": torch.nn.functional.one_hot(torch.tensor(5), 16).float().view(1, 1, 4, 4).expand(2, 3, 4, 4),
    "one cell": torch.ones(2, 3, 1, 1),
    "tiny": torch.full((2, 3, 4, 4), 1e-30),
    "huge": torch.full((2, 3, 4, 4), 1e30),
}


@pytest.mark.parametrize("kind", list(Score))
@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_extremes_have_finite_losses_and_gradients(kind: Score, name: str, size: float) -> None:
    activations = EXTREMES[name].clone().requires_grad_()
    weight = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = (size * torch.tensor([[1.0, -1.0, 0.0, 0.5], [-1.0, 1.0, 0.5, 0.0]])).requires_grad_()
    target = torch.tensor([0, 0])
    gradient = cam.head_gradient(logits, target, kind, weight, 16)
    term = map_entropy(cam.gradcam(activations, gradient), logits, target, CamConfig(confidence_exponent=0.0))
    value = term.mean()
    assert torch.isfinite(value)
    gradients = torch.autograd.grad(value, [activations, weight, logits], allow_unused=True)
    assert all(g is None or bool(torch.isfinite(g).all()) for g in gradients)


def test_half_precision_maps_give_float32_terms() -> None:
    maps = torch.rand(2, 4, 4, dtype=torch.float16).requires_grad_()
    term = map_entropy(maps, torch.zeros(2, 3, dtype=torch.float16), torch.tensor([0, 1]), CamConfig())
    assert term.mean().dtype == torch.float32
    (gradient,) = torch.autograd.grad(term.mean(), maps)
    assert torch.isfinite(gradient).all()


def test_entropy_gradient_against_finite_differences() -> None:
    maps: Tensor = torch.rand(2, 3, 3, dtype=torch.float64).add(0.05).requires_grad_()
    logits, target = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 1])
    assert torch.autograd.gradcheck(lambda m: map_entropy(m, logits, target, CamConfig()).mean(), (maps,))
