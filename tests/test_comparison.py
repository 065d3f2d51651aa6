"""The table and what has to be said about it."""

from __future__ import annotations

import math

import pytest
import torch

from camtrain import comparison
from camtrain.config import CamConfig, Score

NAN = math.nan


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


def verdicts_of(figures: dict[str, dict[str, float]], within: dict[str, float] | None = None) -> dict[str, str]:
    return {row.indicator.tag: row.verdict for rows in comparison.rows(figures, within or {}).values() for row in rows}


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
    assert verdicts_of(final(), {"cam/entropy": 1.4, "cam/energy_in_mask": 0.3})["cam/entropy"] == "better"
    assert verdicts_of(final(), {"cam/entropy": 1.4, "cam/energy_in_mask": 0.3})["cam/energy_in_mask"] == ""


def test_margin_of_a_difference_over_pictures() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, NAN, 5.0], dtype=torch.float64)
    after = torch.tensor([2.0, 5.0, NAN, 1.0, 7.0], dtype=torch.float64)  # differences 1, 3 and 2
    found = comparison.margins({"baseline": {"a": before}, "regularised": {"a": after}})
    assert found["a"] == pytest.approx(1.96 * 1.0 / math.sqrt(3))
    one = comparison.margins({"baseline": {"a": before[:1]}, "regularised": {"a": after[:1]}})
    assert math.isnan(one["a"])


def test_a_loss_of_accuracy_that_may_be_chance_is_not_blamed_on_the_term() -> None:
    figures = final(accuracy__val=(0.9, 0.87))
    for margin, said in ((0.02, True), (0.04, False), (NAN, True)):
        notes = " ".join(comparison.warnings(figures, {"accuracy/val": margin}, CamConfig()))
        assert ("less accurate" in notes) == said


def test_text_table() -> None:
    text = comparison.as_text(final(cam__entropy=(3.0, NAN)), {"cam/energy_in_mask": 0.25})
    lines = {line.strip().split("  ")[0]: line.split() for line in text.splitlines()}
    assert list(comparison.rows(final(), {})) == ["performance", "concentration", "plausibility", "health", "training"]
    assert lines["step time, ms"][3:7] == ["10.0", "10.5", "+0.5", "x"]
    assert lines["energy in mask"][3:] == ["0.200", "0.400", "+0.200", "±", "0.250", "x", "2.00"]
    assert lines["entropy, nats"][2:] == ["3.000", "-", "-", "-"]
    assert "contrast" not in text, "nobody measured it"
    assert comparison.as_markdown(final(), {}).count("\n") == 12


def warnings(cam: CamConfig | None = None, **changed: tuple[float, float]) -> str:
    return " ".join(comparison.warnings(final(**changed), {}, cam or CamConfig()))


def test_a_good_result_needs_no_warning() -> None:
    assert warnings() == ""


def test_failures_are_named() -> None:
    assert "Lower cam.share" in warnings(cam__dead_rate=(0.0, 0.9))
    assert "train both longer" in warnings(cam__dead_rate=(0.6, 0.65))
    assert "train both longer" in warnings(cam__dead_rate=(0.35, 0.35))
    assert "dead" not in warnings(cam__dead_rate=(0.35, 0.2))
    assert "centred" in warnings(CamConfig(score=Score.logit), cam__dead_rate=(0.0, 0.9))
    assert "centred" not in warnings(cam__dead_rate=(0.0, 0.9))
    assert "5.0 points less accurate" in warnings(accuracy__val=(0.90, 0.85))
    assert "not measured" in warnings(cam__energy_in_mask=(NAN, NAN))
    assert "sharper is not better" in warnings(cam__energy_in_mask=(0.4, 0.3))
    assert "same training" in warnings(CamConfig(weight=0.0))
