"""The automatic weight and the removal of conflict, by hand and as properties."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrain.loss.balance import MEMORY, Balance, default_share, gradient_share, limit_of
from camtrain.loss.layer_gradient import LayerGradient


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def take_in(balance: Balance, *step: float) -> None:
    balance.update(*map(scalar, step))


def test_share_of_the_effort() -> None:
    assert float(gradient_share(scalar(3.0), scalar(1.0))) == pytest.approx(0.25)
    assert float(gradient_share(scalar(0.0), scalar(1.0))) == 1.0
    assert float(gradient_share(scalar(0.0), scalar(0.0))) == 0.0


def test_weight_holds_the_share_from_the_first_step_on() -> None:
    balance = Balance(share=0.6)
    assert float(balance.weight()) == 0.0
    take_in(balance, 2.0, 0.5, 1.0)
    assert float(balance.weight()) == pytest.approx(0.6 / 0.4 * 4.0)
    assert float(gradient_share(scalar(2.0), scalar(float(balance.weight()) * 0.5))) == pytest.approx(0.6)


def test_share_grows_with_mean_confidence() -> None:
    balance = Balance(share=0.8)
    take_in(balance, 1.0, 1.0, 0.25)
    assert float(balance.weight()) == pytest.approx(0.2 / 0.8)
    for _ in range(1000):
        take_in(balance, 1.0, 1.0, 0.75)
    assert float(balance.weight()) == pytest.approx(0.6 / 0.4)


def test_pretrained_weights_are_pressed_less() -> None:
    assert 0 < default_share(pretrained=True) < default_share(pretrained=False) < 1


def test_means_are_exponential() -> None:
    balance = Balance(share=0.5)
    for classification in (1.0, 3.0):
        take_in(balance, classification, 1.0, 1.0)
    expected = (MEMORY * 1.0 + 3.0) / (MEMORY + 1.0)
    assert float(balance.weight()) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [(1.0, 0.0), (float("nan"), 1.0), (1.0, float("inf")), (1.0, float("nan"))])
def test_a_step_of_dead_maps_or_without_sense_does_not_count(bad: tuple[float, float]) -> None:
    balance = Balance(share=0.5)
    take_in(balance, *bad, 1.0)
    assert float(balance.weight()) == 0.0
    take_in(balance, 2.0, 1.0, 1.0)
    for _ in range(100):
        take_in(balance, *bad, 1.0)
    assert float(balance.weight()) == pytest.approx(2.0)


def test_the_weight_fades_with_the_classification_gradient() -> None:
    balance = Balance(share=0.5)
    weights = []
    for step in range(300):
        take_in(balance, 0.98**step, 1.0, 1.0)
        weights.append(float(balance.weight()))
    assert all(later < earlier for earlier, later in itertools.pairwise(weights))
    assert weights[-1] < 0.1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.booleans())
def test_what_is_left_of_a_term_does_not_oppose_classification(seed: int, size: float, constant: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    term = size * torch.randn(6, 3, 2, 2, generator=generator)
    classification = torch.randn(6, 3, *((1, 1) if constant else (2, 2)), generator=generator)
    classification[0] = 0  # an image that is learnt
    full = classification.expand_as(term)
    kept = LayerGradient(classification, 4, project=False)
    assert torch.equal(kept(full + term), full + term)
    hook = LayerGradient(classification, 4, project=True)
    left = hook(full + term) - full
    before, after, square = ((part * full).sum((1, 2, 3)) for part in (term, left, full))
    assert bool((after >= -1e-4 * (1 + size)).all())
    # What is taken away points along the classification gradient, and there is no more of it than there was.
    expected = term - (before.clamp_max(0) / square.clamp_min(1e-30))[:, None, None, None] * full
    torch.testing.assert_close(left, expected, rtol=1e-4, atol=1e-5 * (1 + size))
    for either in (hook, kept):
        of_classification, of_term = either.norms()
        assert float(of_classification) == pytest.approx(float(full.norm()), rel=1e-4)
        if of_term <= either.floor * of_classification:
            assert float(term.norm()) < 1e-2 * float(full.norm())
        else:
            assert float(of_term) == pytest.approx(float(term.norm()), rel=0.1)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("given_alone", [False, True])
def test_no_image_gets_more_of_the_term_than_its_limit(constant: bool, scale: float, given_alone: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    term = torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64)
    classification = torch.randn(5, 3, *((1, 1) if constant else (2, 2)), generator=generator, dtype=torch.float64)
    classification[3] = 0  # learnt
    classification[4] = 0  # not classified
    full = classification.expand_as(term)
    limits = torch.cat([limit_of(torch.tensor([0.01, 0.5, 0.99, 0.4])), torch.tensor([torch.inf])])
    for project in (False, True):
        alone = term / 2 if given_alone else None
        hook = LayerGradient(classification, 4, project, alone=alone, limits=limits)
        hook.set_weight(2.0)
        hook.take_scale(torch.tensor(scale, dtype=torch.float64))
        left = hook(scale * (full + term)) / scale - full
        norms = [part.flatten(1).norm(dim=1) for part in (full, term)]
        kept = (limits * norms[0] / norms[1]).nan_to_num(nan=1.0).clamp_max(1.0)[:, None, None, None] * term
        shares = (kept.flatten(1).norm(dim=1) / (norms[0] + kept.flatten(1).norm(dim=1)))[:3].tolist()
        assert shares[0] == pytest.approx(0.01)
        assert all(share <= limit + 1e-6 for share, limit in zip(shares, (0.01, 0.5, 0.99), strict=True))
        assert kept[3].abs().max() == 0
        assert torch.equal(kept[4], term[4])
        assert float(hook.share()) == pytest.approx(float(kept.norm() / (full.norm() + kept.norm())))
        assert [float(norm) for norm in hook.norms()] == pytest.approx([float(full.norm()), float(term.norm())])
        if project:
            against = (kept * full).sum((1, 2, 3)).clamp_max(0) / full.square().sum((1, 2, 3)).clamp_min(1e-30)
            kept = kept - against[:, None, None, None] * full
        torch.testing.assert_close(left, kept, rtol=1e-9, atol=1e-12)
