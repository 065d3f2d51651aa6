"""The table and what has to be said about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy.stats import t

from camtrain.analysis import comparison, over_seeds
from camtrain.analysis.intervals import Interval
from camtrain.arms import contrasts
from camtrain.config.options import CamConfig, Score
from camtrain.report import tables

NAN = math.nan
(PAIR,) = contrasts(["baseline", "regularised"])
CERTAIN = 1e-9


def final(**changed: tuple[float, float]) -> dict[str, dict[str, float]]:
    values = {
        "accuracy/val": (0.9, 0.9),
        "cam/entropy": (3.0, 1.5),
        "cam/dead_rate": (0.0, 0.0),
        "cam/energy_in_mask": (0.2, 0.4),
        "cam/pointing": (0.5, 0.5),
        "time/step": (0.01, 0.0105),
    } | {name.replace("__", "/"): pair for name, pair in changed.items()}
    return {
        "baseline": {tag: pair[0] for tag, pair in values.items()},
        "regularised": {tag: pair[1] for tag, pair in values.items()},
    }


def intervals(figures: dict[str, dict[str, float]], p: Mapping[str, float] | None = None) -> dict[str, Interval]:
    """Of every difference, which no chance explains unless p says so; where there is none, chance explains it."""
    changes = {tag: figures["regularised"][tag] - value for tag, value in figures["baseline"].items()}
    return {
        tag: Interval(change, 0.001, (p or {}).get(tag, 1.0 if change == 0 else CERTAIN))
        for tag, change in changes.items()
    }


def rows(figures: dict[str, dict[str, float]], *more: Any) -> dict[str, list[comparison.Row]]:
    return comparison.rows(figures["baseline"], figures["regularised"], *more)


def verdicts_of(figures: dict[str, dict[str, float]], p: Mapping[str, float] | None = None) -> dict[str, str]:
    shown = rows(figures, intervals(figures, p))
    return {row.indicator.tag: row.verdict for rows in shown.values() for row in rows}


def test_verdicts_follow_the_direction_of_each_indicator() -> None:
    verdicts = verdicts_of(final())
    assert verdicts == {
        "accuracy/val": "",
        "cam/entropy": "better",
        "cam/dead_rate": "",
        "cam/energy_in_mask": "better",
        "cam/pointing": "",
        "time/step": "worse",
    }


def test_the_entropy_of_dead_maps_is_not_called_better() -> None:
    verdicts = verdicts_of(final(cam__dead_rate=(0.0, 0.9)))
    assert verdicts["cam/entropy"] == "dead maps"
    assert verdicts["cam/dead_rate"] == "worse"


def test_differences_below_one_percent_are_no_verdict() -> None:
    verdicts = verdicts_of(final(cam__entropy=(3.0, 2.98)))
    assert verdicts["cam/entropy"] == ""
    assert "sharper" not in warnings(cam__energy_in_mask=(0.400, 0.395))


def test_what_may_be_chance_is_no_verdict() -> None:
    verdicts = verdicts_of(final(), {"cam/energy_in_mask": 0.06})
    assert verdicts["cam/entropy"] == "better"
    assert verdicts["cam/energy_in_mask"] == ""
    assert verdicts_of(final(), {"cam/energy_in_mask": NAN})["cam/energy_in_mask"] == "", "no interval, no verdict"
    figures = final()
    without = rows(figures, {})
    assert {row.verdict for rows in without.values() for row in rows} == {""}


def test_the_more_is_looked_at_the_less_is_believed() -> None:
    few = final()
    for arm in few.values():
        del arm["cam/pointing"], arm["time/step"]
    p = {"cam/energy_in_mask": 0.03, "cam/entropy": 0.03, "accuracy/val": CERTAIN, "cam/dead_rate": CERTAIN}
    found = {row.indicator.tag: row for of in rows(few, intervals(few, p)).values() for row in of}
    # By hand: 4 e, 3 e, then 2 x 0.03, which the last one cannot fall below.
    assert found["cam/entropy"].adjusted == found["cam/energy_in_mask"].adjusted == pytest.approx(0.06)
    assert found["cam/entropy"].verdict == ""
    one = {**p, "cam/entropy": 0.02}
    found = {row.indicator.tag: row for of in rows(few, intervals(few, one)).values() for row in of}
    assert found["cam/entropy"].adjusted == pytest.approx(0.04)
    assert (found["cam/entropy"].verdict, found["cam/energy_in_mask"].verdict) == ("better", "better")


def test_margin_of_a_difference_over_images() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, NAN, 5.0], dtype=torch.float64)
    after = torch.tensor([2.0, 5.0, NAN, 1.0, 7.0], dtype=torch.float64)  # differences 1, 3 and 2
    found = over_seeds.differences([{"x": {"a": before}, "y": {"a": after}}], "x", "y", shared=True)
    assert found["a"].estimate == pytest.approx(2)
    assert found["a"].margin == pytest.approx(t.ppf(0.975, 2) * 1.0 / math.sqrt(3))
    one = over_seeds.differences([{"x": {"a": before[:1]}, "y": {"a": after[:1]}}], "x", "y", shared=True)
    assert math.isnan(one["a"].margin)


def test_a_loss_of_accuracy_that_may_be_chance_is_not_blamed_on_the_term() -> None:
    figures = final(accuracy__val=(0.9, 0.87))
    for margin, said in ((0.02, True), (0.04, False), (NAN, True)):
        found = {"accuracy/val": Interval(-0.03, margin, NAN)}
        notes = " ".join(comparison.caveats(PAIR, figures, found, cams(CamConfig())))
        assert ("less accurate" in notes) == said


def test_text_table() -> None:
    figures = final(cam__entropy=(3.0, NAN))
    found = {"cam/energy_in_mask": Interval(0.2, 0.25, 0.1)}
    text = tables.comparison_text(PAIR, rows(figures, found))
    lines = {line.strip().split("  ")[0]: line.split() for line in text.splitlines()}
    families = ["performance", "concentration", "plausibility", "health", "training"]
    shown = rows(final(), {})
    assert list(shown) == families
    assert lines["step time, ms"][3:7] == ["10.0", "10.5", "+0.5", "x"]
    assert lines["energy in mask"][3:] == ["0.200", "0.400", "+0.200", "±", "0.250", "x", "2.00"]
    assert lines["entropy, nats"][2:] == ["3.000", "-", "-", "-"]
    assert "contrast" not in text, "nobody measured it"
    # A heading, the ruler, and a line for each family and indicator.
    assert tables.comparison_markdown(PAIR, shown).count("\n") == 1 + len(families) + sum(map(len, shown.values()))


def test_the_interval_is_given_in_the_unit_of_the_figure() -> None:
    figures = final()
    found = {"time/step": Interval(0.0005, 0.0002, CERTAIN)}
    (row,) = rows(figures, found)["training"]
    assert (row.reference, row.treatment) == pytest.approx((10, 10.5))
    assert (row.interval.estimate, row.interval.margin, row.interval.p) == pytest.approx((0.5, 0.2, CERTAIN))


def test_the_sharpened_baseline_stands_beside_the_arms() -> None:
    both_correct = {"cam/entropy": Interval(-1.0, 0.1, CERTAIN)}
    shown = rows(final(), intervals(final()), {"cam/entropy": 1.5}, both_correct)
    found = {row.indicator.tag: row for of in shown.values() for row in of}
    assert found["cam/entropy"].control == 1.5
    assert found["cam/entropy"].both_correct.estimate == -1
    assert math.isnan(found["cam/pointing"].control)
    assert math.isnan(found["cam/pointing"].both_correct.margin)
    assert tables.cells(found["cam/entropy"])[-2:] == ("1.500", "")
    assert "by area" not in tables.comparison_text(PAIR, shown)
    both = rows(final(), intervals(final()), {"cam/entropy": 1.5}, both_correct, {"cam/entropy": 1.75})
    heading, *lines = tables.comparison_text(PAIR, both).splitlines()
    assert heading.endswith("  sharpened  by area")
    assert next(line for line in lines if "entropy" in line).split()[-2:] == ["1.500", "1.750"]


def cams(cam: CamConfig) -> dict[str, CamConfig]:
    """By arm: plain training, and these settings."""
    return {PAIR.reference: CamConfig(weight=0), PAIR.treatment: cam}


def warnings(cam: CamConfig | None = None, **changed: tuple[float, float]) -> str:
    return " ".join(comparison.caveats(PAIR, final(**changed), {}, cams(cam or CamConfig())))


def test_a_good_result_needs_no_warning() -> None:
    assert warnings() == ""


def test_failures_are_named() -> None:
    assert "Lower cam.share" in warnings(cam__dead_rate=(0.0, 0.9))
    assert "train longer" in warnings(cam__dead_rate=(0.6, 0.65))
    assert "train longer" in warnings(cam__dead_rate=(0.35, 0.35))
    assert "dead" not in warnings(cam__dead_rate=(0.35, 0.2))
    assert "centred" in warnings(CamConfig(score=Score.logit), cam__dead_rate=(0.0, 0.9))
    assert "centred" not in warnings(cam__dead_rate=(0.0, 0.9))
    assert "5.0 points less accurate" in warnings(accuracy__val=(0.90, 0.85))
    assert "not measured" in warnings(cam__energy_in_mask=(NAN, NAN))
    assert "sharper is not better" in warnings(cam__energy_in_mask=(0.4, 0.3))
    assert "same training" in warnings(CamConfig(weight=0.0))
