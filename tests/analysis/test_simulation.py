"""The rule on differences that are drawn: a small version of what scripts/simulate_verdict.py tabulates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.simulate_verdict import KINDS, LIMITS, Mean, Rate, coverage, false, power, refutation, table

TRIALS = 150
SIZE = (5, 298)


def most(share: float) -> float:
    """Of so many trials, what a share is below with 99.9 %."""
    return share + 3.1 * math.sqrt(share * (1 - share) / TRIALS)


def test_intervals_cover_and_statements_are_rarely_false() -> None:
    for name, (new, _) in coverage(np.random.default_rng(0), SIZE, TRIALS).items():
        assert 1 - new <= most(0.05), name
    for name, (new, former) in false(np.random.default_rng(0), SIZE, TRIALS).items():
        assert former is not None
        if "cliff" not in name:
            assert new <= most(0.05), name
        else:
            assert former <= new <= most(0.85 ** SIZE[0]), "seeds without a bad one among them"


def test_the_rule_says_yes_where_the_former_one_never_did() -> None:
    found = power(np.random.default_rng(0), (5, 1000), TRIALS)
    new, former = found["power: more interpretable"]
    assert former is not None
    assert former < 0.2 < 0.4 < new
    assert found["power: better maps"][0] > 0.9
    ((new, former),) = refutation(np.random.default_rng(0), SIZE, TRIALS).values()
    assert former is not None
    assert new < most(6 * 0.025)


@pytest.mark.parametrize(
    "model", [*KINDS.values(), *(model for _, _, model, _ in LIMITS.values()), Rate(0.1, 0.1, bad=0.3)]
)
def test_what_is_drawn_has_the_mean_that_is_claimed(model: Mean | Rate) -> None:
    means = model.draw(np.random.default_rng(0), 4, 20, 4000).mean((0, 1))
    assert means.mean() == pytest.approx(model.true, abs=4 * means.std() / math.sqrt(4000))


def test_the_table_has_both_rules_side_by_side() -> None:
    head, _, *lines = table([(3, 20)], 4, 0).splitlines()
    assert head.split() == ["seeds", "x", "images", "rule", "3", "x", "20"]
    assert sum("new" in line for line in lines) >= 15
    assert sum("former" in line for line in lines) >= 15
