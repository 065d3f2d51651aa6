"""The CAM term: by hand, at the extremes, and its schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small import batch, classifier
from torch import Tensor

from camtrain.cam import methods
from camtrain.cam.gradients import head_gradient
from camtrain.cam.head import Head, hand_on
from camtrain.cam.routes import GradientRoute
from camtrain.cam.scores import probability
from camtrain.cam.targets import MapTargets
from camtrain.config.options import TRAINABLE, CamConfig, EntropyUnit, Score, Term
from camtrain.loss.classification import classification_loss
from camtrain.loss.criterion import CamLoss, CamTerm, cam_term, schedule
from camtrain.training.arm import Arm
from camtrain.training.step import train_step


def term_of(maps: Tensor, logits: Tensor, target: Tensor, config: CamConfig, region: Tensor | None = None) -> CamTerm:
    return cam_term(maps, probability(logits.detach(), MapTargets.of(target)), config, region)


def test_mean_is_over_live_maps_and_weighted_by_confidence() -> None:
    maps = torch.stack([torch.ones(2, 2), -torch.ones(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])])
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3.0), 0.0]])
    term = term_of(maps, logits, torch.tensor([0, 0, 0]), CamConfig(confidence_exponent=2.0))
    assert term.counts.tolist() == [True, False, True]
    assert term.value.tolist() == pytest.approx([1.0, 0.0, 0.5])
    assert term.confidence.tolist() == pytest.approx([0.25, 0.25, 9 / 16])
    assert term.mean().item() == pytest.approx((0.25 * 1.0 + 9 / 16 * 0.5) / 2)
    assert term.mean_confidence().item() == pytest.approx((0.25 + 9 / 16) / 2)  # the dead one does not count


def test_the_papers_term_is_in_nats_and_unweighted() -> None:
    config = CamConfig(unit=EntropyUnit.nats, confidence_exponent=0.0)
    term = term_of(torch.ones(1, 4, 4), torch.tensor([[-3.0, 3.0]]), torch.tensor([0]), config)
    assert term.mean().item() == pytest.approx(math.log(16))


def test_confidence_is_detached() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    term = term_of(torch.rand(1, 3, 3).requires_grad_(), logits, torch.tensor([0]), CamConfig())
    assert torch.autograd.grad(term.mean(), logits, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("done", "weight"),
    [(0.0, 0.0), (1.99, 0.0), (2.0, 0.0), (3.0, 1 / 3), (4.0, 2 / 3), (4.5, 2.5 / 3), (5.0, 1.0), (9.0, 1.0)],
)
def test_schedule(done: float, weight: float) -> None:
    assert schedule(CamConfig(start=2.0, ramp=3.0), done) == pytest.approx(weight)


def test_weight_is_constant_without_a_schedule() -> None:
    assert schedule(CamConfig(weight=0.7), 0.0) == 1.0


def test_without_a_term_nothing_is_added() -> None:
    logits, activations, target = torch.randn(3, 4), torch.rand(3, 2, 4, 4), torch.tensor([0, 3, 1])
    expected = classification_loss(logits, target).mean()
    for cam, done in ((CamConfig(weight=0), 9.0), (CamConfig(start=2.0), 1.0)):
        hand_on(logits, activations, Head(GradientRoute.closed, torch.rand(4, 2)))
        assert torch.equal(CamLoss(**vars(cam))(logits, activations, target, epochs_done=done), expected)


def test_a_criterion_may_ask_for_further_passes_over_transformed_views() -> None:
    """A term of two views: the mirrored images' maps mirrored back, in one backward pass with the classification."""
    network = classifier("small_resnet").train()

    class Mirrored(CamLoss):
        def forward(self, logits: Tensor, activations: Tensor, *others: Any) -> Tensor:
            loss = super().forward(logits, activations, *others)
            _, seen = others[-1](lambda images: images.flip(3))
            return loss + (seen.flip(3) - activations).square().mean()

    optimiser = torch.optim.SGD(network.parameters(), lr=0.0, fused=True)
    plain, mirrored = CamLoss(weight=0), Mirrored(weight=0)
    losses = [train_step(Arm("any", network, optimiser, each), batch(), 1.0, False).loss for each in (plain, mirrored)]
    images = batch().images
    network.train()
    with torch.no_grad():
        expected = (network(images.flip(3)).activations.flip(3) - network(images).activations).square().mean()
    assert float(losses[1] - losses[0]) == pytest.approx(float(expected), rel=1e-4)
    assert float(expected) > 0


def test_several_classes_count_map_by_map() -> None:
    target = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    maps = torch.stack([torch.ones(2, 2), -torch.ones(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])])
    logits = torch.tensor([[0.0, 9.0, 9.0], [9.0, 9.0, 9.0], [9.0, math.log(3.0), 9.0]])
    term = term_of(maps, logits, target, CamConfig(confidence_exponent=1.0))
    assert term.counts.tolist() == [True, False, True]
    assert term.confidence.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-9.0)), 0.75])
    assert term.mean().item() == pytest.approx((0.5 * 1.0 + 0.75 * 0.5) / 2)
    nobody = term_of(maps[:0], logits, torch.zeros_like(target), CamConfig())
    assert nobody.mean().item() == 0.0
    binary = classification_loss(logits, target)
    assert binary.shape == (3,)
    assert binary[1].item() == pytest.approx(math.log1p(math.exp(9.0)))


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extremes_have_finite_losses_and_gradients(kind: Score, name: str, size: float, dtype: torch.dtype) -> None:
    # float16 holds nothing below 6e-8 or above 65504: the tiny map is then dead, the huge one infinite, which no
    # network's activations are.
    activations = EXTREMES[name].clamp_max(6e4 if dtype is torch.float16 else torch.inf).to(dtype).requires_grad_()
    weight = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = (size * torch.tensor([[1.0, -1.0, 0.0, 0.5], [-1.0, 1.0, 0.5, 0.0]])).requires_grad_()
    target = torch.tensor([0, 0])
    region = torch.zeros(2, 8, 8, dtype=torch.uint8).index_fill(1, torch.arange(4), 1)
    constant = head_gradient(logits, MapTargets.of(target), kind, weight, 16)
    for full in (False, True):
        gradient = constant.expand_as(activations) if full else constant
        for variant in TRAINABLE:
            maps = methods.METHODS[variant](activations, gradient)
            assert maps.dtype == torch.float32
            for term in [term for term in Term if term is not Term.none]:
                config = CamConfig(confidence_exponent=0.0, term=term)
                value = term_of(maps, logits, target, config, region).mean()
                assert torch.isfinite(value), (variant, term)
                gradients = torch.autograd.grad(
                    value, [activations, weight, logits], allow_unused=True, retain_graph=True
                )
                assert all(g is None or bool(torch.isfinite(g).all()) for g in gradients), (variant, term)


def test_half_precision_maps_give_float32_terms() -> None:
    maps = torch.rand(2, 4, 4, dtype=torch.float16).requires_grad_()
    term = term_of(maps, torch.zeros(2, 3, dtype=torch.float16), torch.tensor([0, 1]), CamConfig())
    assert term.mean().dtype == torch.float32
    (gradient,) = torch.autograd.grad(term.mean(), maps)
    assert torch.isfinite(gradient).all()


def test_entropy_gradient_against_finite_differences() -> None:
    maps: Tensor = torch.rand(2, 3, 3, dtype=torch.float64).add(0.05).requires_grad_()
    logits, target = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 1])
    assert torch.autograd.gradcheck(lambda m: term_of(m, logits, target, CamConfig()).mean(), (maps,))
