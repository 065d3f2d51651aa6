"""The two statements: each condition by its own tag, direction and bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camtrain.analysis.intervals import NOTHING, Interval, hierarchical
from camtrain.analysis.verdict import (
    BETTER,
    HELD_OUT_GAIN,
    NOTHING_LOST,
    Claim,
    Condition,
    Outcome,
    caution,
    held_out_methods,
    judge,
    sentences,
)
from camtrain.config.options import CamVariant
from camtrain.config.schema import ReportConfig

HELD_OUT = [CamVariant.layercam, CamVariant.eigencam]
SHOWN, REFUTED, OPEN, UNMEASURED = Outcome.shown, Outcome.refuted, Outcome.open, Outcome.unmeasured


def interval(estimate: float, margin: float = 0.001) -> Interval:
    return Interval(estimate, margin, 0.5, 0.8 * margin)


GOOD = {
    "cam/entropy": interval(-1),
    "cam/area": interval(-1),
    "accuracy/val": interval(0),
    "faithfulness/gain": interval(0),
    HELD_OUT_GAIN: interval(0),
    "stability/flip": interval(0),
    "stability/shift": interval(0),
    "cam/dead_rate": interval(0, 0),
    "cam/border_mass": interval(0),
}
BESIDE = {"cam/energy_in_mask": interval(0.1), "faithfulness/gain": interval(0.1)}
LOSSES = {
    "accuracy/val": -0.1,
    "faithfulness/gain": -0.1,
    "stability/flip": -0.1,
    "stability/shift": -0.1,
    "cam/dead_rate": 0.1,
}


def judged(**changed: Any) -> Claim:
    given = {
        "differences": GOOD,
        "beside_sharpened": BESIDE,
        "held_out": HELD_OUT,
        "margins": ReportConfig(),
        "primary": "accuracy/val",
        "by_seed": dict.fromkeys(range(5), GOOD),
    }
    return judge(**(given | changed))


def outcomes(claim: Claim) -> tuple[Outcome, Outcome]:
    return claim.stated(BETTER), claim.stated(NOTHING_LOST)


@pytest.mark.parametrize(
    ("estimate", "margin", "limit", "expected"),  # below the limit; the one-sided bound is at 0.8 of the margin
    [
        (-0.01, 0.012, 0.0, SHOWN),  # by the one-sided bound, -0.0004, though the 95 % interval reaches 0.002
        (-0.01, 0.0125, 0.0, OPEN),
        (0.0, 0.0, 0.0, OPEN),  # no difference is no improvement
        (0.01, 0.005, 0.0, REFUTED),
        (0.01, 0.011, 0.0, OPEN),  # not refuted by a one-sided bound
        (0.0, 0.024, 0.02, SHOWN),
        (0.0, 0.026, 0.02, OPEN),
        (0.03, 0.005, 0.02, REFUTED),
        (0.03, 0.011, 0.02, OPEN),
        (-5, math.nan, 0.0, UNMEASURED),
    ],
)
def test_a_condition_is_judged_by_its_bounds(estimate: float, margin: float, limit: float, expected: Outcome) -> None:
    found = interval(estimate, margin)
    assert Condition("", "", found, limit, low=True).outcome is expected
    turned = found._replace(estimate=-estimate)
    assert Condition("", "", turned, -limit, low=False).outcome is expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_wider_margin_never_unsays_and_a_wider_interval_never_says(
    estimate: float, margin: float, limit: float, more: float
) -> None:
    order = [REFUTED, OPEN, SHOWN]

    def rank(margin: float, limit: float) -> int:
        return order.index(Condition("", "", interval(estimate, margin), limit, low=True).outcome)

    assert rank(margin, limit) <= rank(margin, limit + more)
    assert abs(rank(margin + more, limit) - 1) <= abs(rank(margin, limit) - 1), "towards open"


def test_both_statements_are_made_if_all_of_their_conditions_hold() -> None:
    claim = judged()
    assert outcomes(claim) == (SHOWN, SHOWN)
    assert claim.outcome is SHOWN
    assert sentences(claim) == ["Better maps over 5 seeds: shown.", "Nothing lost over 5 seeds: shown."]
    assert len(claim.of(BETTER)) == 2
    assert len(claim.of(NOTHING_LOST)) == 6
    one = judged(by_seed={7: GOOD})
    assert sentences(one)[0] == "Better maps in this one run (seed 7): shown."
    assert "One run is one seed" in caution([7])[0]


def test_the_number_of_seeds_says_what_it_can_miss() -> None:
    # 0.85^5 and 0.85^2
    assert caution(range(5)) == ["5 seeds miss a cliff that 15 % of seeds have in 44 % of cases."]
    assert "Two seeds" in caution([7, 8])[0]
    assert "in 72 % of cases" in caution([7, 8])[1]


@pytest.mark.parametrize(
    ("tag", "bad", "statement"),
    [("cam/entropy", 1, BETTER), *((tag, loss, NOTHING_LOST) for tag, loss in {**LOSSES, HELD_OUT_GAIN: -0.1}.items())],
)
def test_each_condition_decides_its_statement_alone(tag: str, bad: float, statement: str) -> None:
    for changed, outcome in ((interval(bad), REFUTED), (interval(bad, 10), OPEN), (NOTHING, UNMEASURED)):
        claim = judged(differences={**GOOD, tag: changed})
        (other,) = (condition for condition in claim.conditions if condition.outcome is not SHOWN)
        assert other.outcome is claim.stated(statement) is outcome
        assert {claim.stated(BETTER), claim.stated(NOTHING_LOST)} == {SHOWN, outcome}
        assert claim.outcome is (REFUTED if outcome is REFUTED else OPEN)
        assert other.name in " ".join(sentences(claim)[outcome is not OPEN :])
    assert judged(differences={**GOOD, tag: interval(-bad)}).outcome is SHOWN


def test_what_is_reported_beside_decides_nothing() -> None:
    for tag in ("cam/area", "cam/border_mass"):
        assert judged(differences={**GOOD, tag: interval(9)}).outcome is SHOWN
    assert judged(beside_sharpened={**BESIDE, "faithfulness/gain": interval(-9)}).outcome is SHOWN


def test_beyond_sharpening_is_energy_or_the_gain_where_no_masks_are_known() -> None:
    def better(beside: dict[str, Interval]) -> Outcome:
        return judged(beside_sharpened=beside).stated(BETTER)

    assert better({**BESIDE, "cam/energy_in_mask": interval(-0.1)}) is REFUTED
    without = {"cam/energy_in_mask": NOTHING}
    assert better({**without, "faithfulness/gain": interval(0.1)}) is SHOWN
    assert better({**without, "faithfulness/gain": interval(-0.1)}) is REFUTED
    assert better({**without, "faithfulness/gain": interval(0.1, 0.2)}) is OPEN
    assert better({}) is UNMEASURED


def test_what_a_former_version_did_not_measure_is_said() -> None:
    lacking = {tag: found for tag, found in GOOD.items() if "gain" not in tag}
    claim = judged(differences=lacking)
    assert outcomes(claim) == (SHOWN, UNMEASURED)
    lines = sentences(claim)
    assert lines[1] == "Nothing lost over 5 seeds: not measured."
    assert "Not measured: faithfulness, trained map; faithfulness, held-out maps." in lines
    assert any("task=evaluate" in line for line in lines)
    assert judged(differences={**lacking, "accuracy/val": interval(-1)}).stated(NOTHING_LOST) is REFUTED


def test_two_held_out_methods_are_needed() -> None:
    claim = judged(held_out=HELD_OUT[:1])
    assert outcomes(claim) == (SHOWN, UNMEASURED)
    assert "1 more to measure" in " ".join(sentences(claim))
    claim = judged(held_out=HELD_OUT[:1], equivalent=[CamVariant.hirescam])
    assert any(line.startswith("Not counted as held out") and "hirescam" in line for line in sentences(claim))


def test_margins_are_those_of_the_configuration() -> None:
    lost = {**GOOD, "accuracy/val": interval(-0.05)}
    assert outcomes(judged(differences=lost)) == (SHOWN, REFUTED)
    relaxed = judged(differences=lost, margins=ReportConfig(accuracy_margin=0.1))
    assert outcomes(relaxed) == (SHOWN, SHOWN)
    assert sentences(relaxed)[1:3] == [
        "Nothing lost over 5 seeds, by the rule with other margins: shown.",
        "Margins other than the default: accuracy_margin 0.1 (wider than 0.01).",
    ]


@pytest.mark.parametrize(("tag", "loss"), LOSSES.items())
def test_a_seed_beyond_three_margins_withholds_both_statements(tag: str, loss: float) -> None:
    margin = 0.01 if tag in ("accuracy/val", "cam/dead_rate") else 0.02
    sign = 1 if loss > 0 else -1
    beyond, within = ({**GOOD, tag: interval(sign * (3 * margin + more), 0.001)} for more in (0.0011, 0.0009))
    assert judged(by_seed={0: GOOD, 1: within}).cliffs == []
    claim = judged(by_seed={0: GOOD, 3: beyond})
    (cliff,) = claim.cliffs
    assert cliff.seed == 3
    assert outcomes(claim) == (OPEN, OPEN)
    assert f"{cliff.name} of seed 3" in " ".join(sentences(claim))
    better = {**GOOD, tag: interval(-loss, 0.001)}
    assert judged(by_seed={0: GOOD, 3: better}).outcome is SHOWN
    refuted = judged(by_seed={0: GOOD, 3: beyond}, differences={**GOOD, "cam/entropy": interval(1)})
    assert outcomes(refuted) == (REFUTED, OPEN)


def over_seeds(seeds: int, spread: float, estimate: float, common: float = 0.0) -> Interval:
    """Differences whose seeds' means vary by `spread` (all images of a seed alike), and images by `common`."""
    ends = np.resize([-1.0, 1.0], seeds) if seeds % 2 == 0 else np.array([-1.0, 0.0, 1.0])
    ends = estimate + spread * ends / ends.std(ddof=1)
    image = common * np.resize([-1.0, 1.0], 100)
    return hierarchical([(end + image)[:, None] for end in ends], shared=True)[0]


def test_an_open_statement_says_how_many_seeds_it_needs() -> None:
    found = over_seeds(4, 0.01, 0.0)
    claim = judged(differences={**GOOD, "accuracy/val": found}, by_seed=dict.fromkeys(range(4), GOOD))
    (condition,) = claim.of(NOTHING_LOST, OPEN)
    plan = claim.needed(condition)
    assert plan is not None
    assert sentences(claim)[1] == f"Nothing lost over 4 seeds: open; needs about {plan.seeds} more seeds: accuracy."
    assert f"accuracy {plan.power:.2f} ({plan.seeds} more seeds)" in sentences(claim)[2]
    hopeless = judged(differences={**GOOD, "accuracy/val": over_seeds(4, 0.01, -0.012)})
    assert "more seeds alone do not settle it: accuracy" in sentences(hopeless)[1]
    wide = judged(differences={**GOOD, "accuracy/val": over_seeds(4, 0.1, 0.0)})
    assert "needs more than 50 more seeds: accuracy" in sentences(wide)[1]
    images = judged(differences={**GOOD, "accuracy/val": over_seeds(4, 1e-6, 0.0, common=0.1)})
    assert "images, not seeds, limit it: at least" in " ".join(sentences(images))


def final(**alike: float) -> dict[str, float]:
    return {f"other_maps/{name.replace('__', '/')}": value for name, value in alike.items()}


def test_an_equivalent_method_is_not_held_out() -> None:
    both = final(hirescam__with_trained=1.0, layercam__with_trained=0.9, gradcampp__with_trained=0.9)
    both |= final(layercam__like_gradcampp=0.999, layercam__like_hirescam=0.9)
    assert held_out_methods([both, both]) == [CamVariant.gradcampp]
    # Sharp maps of one arm are alike whatever they are made from.
    other = both | final(hirescam__with_trained=0.5)
    assert held_out_methods([both, other]) == [CamVariant.gradcampp, CamVariant.hirescam]
    assert held_out_methods([final(), final()]) == []
