"""The rule of the claim: each condition by its own tag, direction and interval."""

from __future__ import annotations

import math

import pytest

from camtrain.analysis.intervals import NOTHING, Interval
from camtrain.analysis.verdict import Outcome, above, below, caution, held_out_methods, judge, sentences
from camtrain.config.options import CamVariant
from camtrain.config.schema import ReportConfig

HELD_OUT = [CamVariant.layercam, CamVariant.eigencam]
SEEDS = range(5)


def interval(estimate: float, margin: float = 0.001) -> Interval:
    return Interval(estimate, margin, 0.5)


GOOD = {
    "cam/entropy": interval(-1),
    "cam/area": interval(-1),
    "accuracy/val": interval(0),
    "cam/dead_rate": interval(0, 0),
    "cam/border_mass": interval(0),
    **{
        f"{group}/{name}": interval(0)
        for group in ("faithfulness", "other_maps/layercam", "other_maps/eigencam")
        for name in ("deletion", "insertion")
    },
}
BESIDE = {
    "faithfulness/drop": interval(0),
    "faithfulness/insertion": interval(0.1),
    "faithfulness/deletion": interval(0),
    "cam/energy_in_mask": interval(0.1),
}


@pytest.mark.parametrize(
    ("found", "limit", "expected"),  # without a limit an improvement is asked for
    [
        (interval(-0.01, 0.005), None, Outcome.met),
        (interval(-0.01, 0.01), None, Outcome.open),  # reaches 0, which is no improvement
        (interval(0.0, 0.0), None, Outcome.failed),
        (interval(0.01, 0.005), None, Outcome.failed),
        (interval(0.0, 0.02), 0.02, Outcome.met),  # a margin may be used up
        (interval(0.0, 0.021), 0.02, Outcome.open),
        (interval(0.03, 0.005), 0.02, Outcome.failed),
        (interval(0.0, 0.0), 0.0, Outcome.met),
        (interval(-5, math.nan), None, Outcome.unmeasured),
        (NOTHING, None, Outcome.unmeasured),
    ],
)
def test_a_difference_below_its_limit(found: Interval, limit: float | None, expected: Outcome) -> None:
    assert below(found, limit or 0.0, limit is None) is expected
    assert above(Interval(-found.estimate, found.margin, found.p), -(limit or 0.0), limit is None) is expected


def test_all_conditions_have_to_hold() -> None:
    claim = judge(GOOD, BESIDE, HELD_OUT, ReportConfig(), "accuracy/val")
    assert claim.outcome is Outcome.met
    assert sentences(claim, SEEDS)[0] == "More interpretable over 5 seeds, by the rule."
    assert sentences(claim, [7])[0] == "More interpretable in this one run (seed 7), by the rule."
    assert "One run is one seed" in caution([7])[0]
    assert "Two seeds" in caution([7, 8])[0]
    assert caution(SEEDS) == []
    assert len(claim.conditions) == 3 + 2 + 4 + 1 + 2


@pytest.mark.parametrize(
    ("tag", "bad"),
    [
        ("cam/entropy", 1),
        ("cam/area", 1),
        ("accuracy/val", -0.1),
        ("cam/dead_rate", 0.1),
        ("cam/border_mass", 0.1),
        *((f"{group}/deletion", 0.1) for group in ("faithfulness", "other_maps/layercam", "other_maps/eigencam")),
        *((f"{group}/insertion", -0.1) for group in ("faithfulness", "other_maps/layercam", "other_maps/eigencam")),
    ],
)
def test_each_condition_can_fail_by_itself(tag: str, bad: float) -> None:
    for changed, outcome in (
        (interval(bad), Outcome.failed),
        (interval(bad, 10), Outcome.open),
        (NOTHING, Outcome.unmeasured),
    ):
        claim = judge({**GOOD, tag: changed}, BESIDE, HELD_OUT, ReportConfig(), "accuracy/val")
        (other,) = (condition for condition in claim.conditions if condition.outcome is not Outcome.met)
        assert other.outcome is outcome
        assert claim.outcome is (Outcome.failed if outcome is Outcome.failed else Outcome.open)
        assert other.name in " ".join(sentences(claim, SEEDS)[1:])
    better = judge({**GOOD, tag: interval(-bad)}, BESIDE, HELD_OUT, ReportConfig(), "accuracy/val")
    assert better.outcome is Outcome.met


def test_drop_in_confidence_is_compared_with_the_sharpened_baseline_alone() -> None:
    worse = {**BESIDE, "faithfulness/drop": interval(0.1)}
    assert judge(GOOD, worse, HELD_OUT, ReportConfig(), "accuracy/val").outcome is Outcome.failed
    against_baseline = {**GOOD, "faithfulness/drop": interval(0.9)}
    assert judge(against_baseline, BESIDE, HELD_OUT, ReportConfig(), "accuracy/val").outcome is Outcome.met


def test_margins_are_those_of_the_configuration() -> None:
    lost = {**GOOD, "accuracy/val": interval(-0.05)}
    assert judge(lost, BESIDE, HELD_OUT, ReportConfig(), "accuracy/val").outcome is Outcome.failed
    relaxed = judge(lost, BESIDE, HELD_OUT, ReportConfig(accuracy_margin=0.1), "accuracy/val")
    assert relaxed.outcome is Outcome.met
    assert sentences(relaxed, SEEDS)[:2] == [
        "More interpretable over 5 seeds, by the rule with other margins.",
        "Margins other than the default: accuracy_margin 0.1 (wider than 0.01).",
    ]


def test_two_held_out_methods_are_needed() -> None:
    claim = judge(GOOD, BESIDE, HELD_OUT[:1], ReportConfig(), "accuracy/val")
    assert claim.outcome is Outcome.open
    assert "1 more to measure" in " ".join(sentences(claim, SEEDS))
    claim = judge(GOOD, BESIDE, HELD_OUT[:1], ReportConfig(), "accuracy/val", [CamVariant.hirescam])
    assert any(line.startswith("Not counted as held out") and "hirescam" in line for line in sentences(claim, SEEDS))


def test_what_goes_beyond_sharpening_is_said_beside_the_claim() -> None:
    assert "energy in mask" in sentences(judge(GOOD, BESIDE, HELD_OUT, ReportConfig(), "accuracy/val"), SEEDS)[-1]
    nothing = {tag: interval(0, 1) for tag in BESIDE}
    without = judge(GOOD, nothing, HELD_OUT, ReportConfig(), "accuracy/val")
    assert sentences(without, SEEDS)[-1].startswith("Not shown to be better in anything")
    assert judge(GOOD, {}, HELD_OUT, ReportConfig(), "accuracy/val").outcome is Outcome.open


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
