"""task=compare: any two networks on the same images, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, FinishedRun

FEW = ("evaluate.faithfulness_images=2", "evaluate.road_images=1", "evaluate.sanity_images=2", "evaluate.images=4")


def result_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def finals(folder: Path) -> list[dict[str, float]]:
    return [arm["final"] for arm in result_of(folder)["arms"].values()]


def test_two_arms_of_a_run_have_the_figures_of_its_own_evaluation(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    arms = (f"reference={fake_run.folder}/baseline", f"treatment={fake_run.folder}/regularised")
    done = run_command("task=compare", *arms, *FEW, "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    assert run_command("task=evaluate", f"run={fake_run.folder}", *FEW, "hydra.run.dir=evaluated").returncode == 0
    compared, evaluated = tmp_path / "compared", tmp_path / "evaluated"
    assert finals(compared) == finals(evaluated)
    before, after = result_of(evaluated), result_of(compared)
    for key in ("difference", "difference_95", "control", "control_area"):
        assert after[key] == before[key], key
    assert after["sanity"] == {
        arm: before["sanity"][own] for arm, own in zip(after["arms"], before["arms"], strict=True)
    }
    figures = [(folder / "pictures.csv").read_text().splitlines()[1:] for folder in (compared, evaluated)]
    assert figures[0] == figures[1]
    assert {"disagreement", "failures", "best", "worst", "random"} == {entry["why"] for entry in after["wall"]}


def test_a_network_against_itself_differs_in_nothing(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    arm = f"{fake_run.folder}/baseline"
    done = run_command("task=compare", f"reference={arm}", f"treatment={arm}", *FEW, "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "compared")
    known = {tag: value for tag, value in result["difference"].items() if value is not None}
    assert len(known) > 40
    assert set(known.values()) == {0.0}
    assert result["control"]["power"] == pytest.approx(1, abs=1e-6)
    assert "same training" not in done.stdout


def test_a_comparison_is_reported_and_does_not_go_on(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    arms = (f"reference={fake_run.folder}/baseline", f"treatment={fake_run.folder}/regularised")
    assert run_command("task=compare", *arms, *FEW, "hydra.run.dir=compared").returncode == 0
    done = run_command("task=report", "runs=compared", "hydra.run.dir=report")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"{fake_run.folder}/baseline" in page
    assert "on these images" in page
    assert "train with seed=" not in page
    refused = run_command("task=resume", "run=compared")
    assert refused.returncode == 2
    assert "only measured here, which cannot go on; repeat task=compare" in refused.stderr
