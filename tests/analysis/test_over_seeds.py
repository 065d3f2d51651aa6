"""Runs compared: which belong together, which images enter, and the right bootstrap for each kind of data set."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from runs.made import TAGS, THREE, made_config, made_run

from camtrain.analysis.intervals import NOTHING, hierarchical
from camtrain.analysis.over_seeds import Run, group_by_settings, held_out_gain, notes, summarise
from camtrain.analysis.pareto import on_front
from camtrain.analysis.verdict import Condition, Outcome
from camtrain.config.options import CamVariant
from camtrain.config.schema import ReportConfig
from camtrain.runs.facts import data_name
from camtrain.runs.settings import settings


def run(seed: int, images: int = 30, share: float | None = None, files: bool = False, **more: Any) -> Run:
    """A run with made-up figures; the regularised arm's entropy is lower by 1."""
    one = made_run(seed, images=images, files=files, **more)
    one.result.config.cam.share = share
    return one


def differences(one: Run, tag: str, of: str = "baseline") -> np.ndarray:
    return np.asarray((one.each["regularised"][tag] - one.each[of][tag]).numpy())


def row_of(runs: list[Run], tag: str) -> Any:
    one = summarise("", runs, ReportConfig())
    return next(row for rows in one.comparisons[0].rows.values() for row in rows if row.indicator.tag == tag)


def test_runs_with_the_same_settings_belong_together() -> None:
    runs = [run(1, share=0.3), run(0, share=0.3), run(0, share=0.5), run(0, share=0.3)]
    groups = group_by_settings(runs)
    assert list(groups) == ["cam.share=0.3", "cam.share=0.5"]
    assert [one.result.config.seed for one in groups["cam.share=0.3"]] == [0, 1]
    assert groups["cam.share=0.3"][0] is runs[3]  # the later one
    assert list(group_by_settings([run(0), run(1)])) == [""]
    assert list(group_by_settings([run(0), run(0, share=0.3)])) == ["cam.share=null", "cam.share=0.3"]


def test_what_is_no_setting_does_not_set_apart() -> None:
    other = run(1)
    other.result.config.trainer.threads, other.result.config.run, other.result.config.report.accuracy_margin = (
        7,
        "x",
        0.5,
    )
    assert len(group_by_settings([run(0), other])) == 1
    other.result.config.evaluate.faithfulness_images = 7
    assert len(group_by_settings([run(0), other])) == 2


def test_measuring_a_run_again_with_another_seed_makes_no_new_seed() -> None:
    runs = [run(seed) for seed in (3, 4)]
    for one in runs:
        one.result.trained_seed = 0
    assert list(group_by_settings(runs)) == ["seed=3", "seed=4"]
    runs = [run(0), run(0), run(0)]
    for number, one in enumerate(runs):
        one.result.trained_seed = number
    (group,) = group_by_settings(runs).values()
    assert [one.result.seed for one in group] == [0, 1, 2]
    runs = [run(7), run(7)]
    for number, one in enumerate(runs):
        one.result.trained_seed = number
    ((label, group),) = group_by_settings(runs).items()
    assert label == ""
    assert [one.result.seed for one in group] == [0, 1]


def test_one_run_has_the_t_interval_of_its_images() -> None:
    one = run(3)
    row, values = row_of([one], "cam/entropy"), differences(run(3), "cam/entropy")
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert (row.interval.low, row.interval.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("files", [False, True])
def test_images_of_files_are_the_same_in_all_seeds_and_generated_ones_are_not(files: bool) -> None:
    runs = [run(seed, files=files) for seed in range(3)]
    # What all seeds have in common, image by image, is chance of the images if these are the same ones.
    for one in runs:
        one.each["regularised"]["cam/entropy"].copy_(one.each["baseline"]["cam/entropy"] + torch.linspace(-9, 1, 30))
    row = row_of(runs, "cam/entropy")
    values = [np.stack([differences(one, tag) for tag in TAGS], 1) for one in runs]
    assert row.interval[:4] == hierarchical(values, shared=files)[1][:4]
    assert row.interval[:4] != hierarchical(values, shared=not files)[1][:4]
    assert row.reference == pytest.approx(np.mean([float(one.each["baseline"]["cam/entropy"].mean()) for one in runs]))


def test_a_rate_known_per_run_only_has_no_interval() -> None:
    """Two seeds agree on it, which proves nothing."""
    runs = [run(0), run(1)]
    (dead,) = (
        one for one in summarise("", runs, ReportConfig()).comparisons[0].claim.conditions if one.name == "dead rate"
    )
    assert dead.outcome is Outcome.unmeasured


@pytest.mark.parametrize(("accuracy", "said"), [(0.14, True), (0.2, True), (0.3, False)])
def test_a_network_at_chance_is_said(accuracy: float, said: bool) -> None:
    """Of 8 classes and 50 images: two standard errors above 1/8 are 0.219."""
    one = run(0)
    one.result.data.classes, one.result.data.val = ["x"] * 8, 50
    one.result.arms["baseline"].final["accuracy/val"] = accuracy  # type: ignore[index]
    assert any("chance" in note for note in notes(summarise("", [one], ReportConfig()))) == said


@pytest.mark.parametrize(
    ("per_class", "accuracy", "balanced", "said"),
    [
        ([95, 5], 0.95, 0.5, "accuracy, 0.950, is hardly above chance (0.950: always saying healthy): the maps"),
        ([95, 5], 0.93, 0.9, "its balanced accuracy, 0.900, is above that of chance (0.500): go by that one"),
        ([95, 5], 1.0, 1.0, ""),
        ([50, 50], 0.5, 0.5, "hardly above chance (0.500): the maps and curves of a network that learnt nothing"),
        ([100, 0], 1.0, 1.0, "all of one class: the baseline arm's accuracy does not show what was learnt"),
    ],
)
def test_chance_is_the_share_of_the_largest_class(
    per_class: list[int], accuracy: float, balanced: float, said: str
) -> None:
    one = run(0)
    one.result.data = dataclasses.replace(one.result.data, classes=["healthy", "ill"], val=100, val_per_class=per_class)
    one.result.arms["baseline"].final.update(  # type: ignore[attr-defined]
        {"accuracy/val": accuracy, "accuracy/balanced": balanced}
    )
    found = [note for note in notes(summarise("", [one], ReportConfig())) if "chance" in note or "one class" in note]
    assert len(found) == bool(said)
    assert all(said in note for note in found)


@pytest.mark.parametrize(("each", "said"), [((0.1, 0.5), True), ((0.6, 0.7), False)])
def test_chance_of_several_classes_is_the_mean_share_of_positives(each: tuple[float, float], said: bool) -> None:
    one, tag = run(0), "average_precision/val"
    one.result.data = dataclasses.replace(one.result.data, multilabel=True, val_per_class=[3, 15, 0])
    for arm in ("baseline", "regularised"):
        final, figures = one.result.arms[arm].final, one.each[arm]
        figures[tag] = torch.tensor(each, dtype=torch.float64).repeat(15)  # type: ignore[index]
        final[tag] = float(figures[tag].mean())  # type: ignore[index]
        del final["accuracy/val"], figures["accuracy/val"]  # type: ignore[attr-defined]
    found = [note for note in notes(summarise("", [one], ReportConfig())) if "chance" in note]
    assert [("mean average precision, 0.300, is hardly above chance (0.300)" in note) for note in found] == [
        True
    ] * said


def test_balanced_accuracy_stands_beside_accuracy_where_it_differs() -> None:
    def tags(*balanced: float) -> list[str]:
        one = run(0)
        for arm, figure in zip(("baseline", "regularised"), balanced, strict=True):
            one.result.arms[arm].final["accuracy/balanced"] = figure  # type: ignore[index]
            one.each[arm]["accuracy/balanced"] = torch.full((30,), figure, dtype=torch.float64)  # type: ignore[index]
        rows = summarise("", [one], ReportConfig()).comparisons[0].rows["performance"]
        assert all(math.isfinite(row.interval.margin) for row in rows)
        return [row.indicator.tag for row in rows]

    equal = [run(0).result.arms[arm].final["accuracy/val"] for arm in ("baseline", "regularised")]
    assert tags(*equal) == ["accuracy/val"]
    assert tags(0.5, equal[1]) == ["accuracy/val", "accuracy/balanced"]


def test_a_sharpened_baseline_that_is_flattened_is_said() -> None:
    one = run(0)
    assert not any("flattened" in note for note in notes(summarise("", [one], ReportConfig())))
    one.result.controls["regularised"].power = 0.8
    assert any("flattened" in note and "0.80" in note for note in notes(summarise("", [one], ReportConfig())))


def test_networks_measured_again_on_one_generated_set_share_its_images() -> None:
    runs = [run(7) for _ in range(3)]
    for number, one in enumerate(runs):
        one.result.trained_seed = number
        one.each["regularised"]["cam/entropy"].add_(number / 100)
    values = [np.stack([differences(one, tag) for tag in TAGS], 1) for one in runs]
    assert row_of(runs, "cam/entropy").interval[:4] == hierarchical(values, shared=True)[1][:4]


def test_sets_of_different_size_are_not_shared() -> None:
    runs = [run(0, 30, files=True), run(1, 20, files=True)]
    assert math.isfinite(row_of(runs, "cam/entropy").interval.margin)


def test_both_correct_leaves_out_what_one_arm_gets_wrong() -> None:
    one = run(2)
    right = (one.each["baseline"]["accuracy/val"] == 1) & (one.each["regularised"]["accuracy/val"] == 1)
    assert 0 < int(right.sum()) < len(right)
    expected = differences(one, "cam/area")[right.numpy()].mean()
    assert row_of([one], "cam/area").both_correct.estimate == pytest.approx(expected)
    assert math.isnan(row_of([one], "accuracy/val").both_correct.estimate)


def test_a_rate_that_no_image_changes_is_not_proven_by_few_images() -> None:
    runs = [run(seed, files=True) for seed in range(3)]
    for one in runs:
        for arm in ("baseline", "regularised"):
            one.each[arm]["cam/dead_rate"] = torch.zeros(30, dtype=torch.float64)  # type: ignore[index]

    def dead(some: list[Run]) -> Condition:
        claim = summarise("", some, ReportConfig()).comparisons[0].claim
        return next(each for each in claim.conditions if each.name == "dead rate")

    one, three = dead(runs[:1]), dead(runs)
    assert one.found.estimate == three.found.estimate == 0
    # 3.84 / 33.84; and x = 3 (0.025^(-1/3) - 1) = 7.26 of 90 values whose design effect is 1.5
    assert one.found.margin == pytest.approx(0.1135, abs=1e-4)
    assert three.found.margin == pytest.approx(7.26 / 67.26, abs=1e-4)
    assert one.outcome is three.outcome is Outcome.open
    plan = summarise("", runs, ReportConfig()).comparisons[0].claim.needed(three)
    assert plan is not None
    assert plan.images == pytest.approx(75, abs=2)
    for arm in ("baseline", "regularised"):
        for one_run in runs:
            one_run.each[arm]["cam/dead_rate"] = torch.zeros(300, dtype=torch.float64)  # type: ignore[index]
    changes = [np.zeros((300, 1))] * 3
    assert hierarchical(changes, True, [True])[0].bound < ReportConfig().health_margin


def faithful(one: Run, arm: str, **gains: list[float]) -> None:
    """Set the gain of every image, over and over, by the trained map and by others."""
    for name, values in gains.items():
        tag = "faithfulness/gain" if name == "trained" else f"other_maps/{name}/gain"
        one.each[arm][tag] = torch.tensor(values, dtype=torch.float64).repeat(30 // len(values))  # type: ignore[index]


def test_held_out_faithfulness_is_the_mean_over_methods_image_by_image() -> None:
    runs = [run(seed) for seed in range(3)]
    nan = math.nan
    for one in runs:
        faithful(one, "baseline", trained=[0.5], layercam=[0.1, 0.1], eigencam=[0.2, nan])
        faithful(one, "regularised", trained=[0.5], layercam=[0.2, 0.4], eigencam=[0.6, nan])
    eaches = [one.each for one in runs]
    methods = [CamVariant.layercam, CamVariant.eigencam]
    found = held_out_gain(eaches, "baseline", "regularised", False, methods)
    assert found.estimate == pytest.approx(((0.1 + 0.4) / 2 + 0.3) / 2)
    assert held_out_gain(eaches, "baseline", "regularised", False, [CamVariant.scorecam]) == NOTHING
    assert held_out_gain(eaches, "baseline", "regularised", False, []) == NOTHING


def test_a_seed_that_fell_off_a_cliff_is_named() -> None:
    runs = [run(seed) for seed in range(3)]
    for one in runs:
        faithful(one, "baseline", trained=[0.5])
        faithful(one, "regularised", trained=[0.5 - one.result.seed / 10])
    cliffs = summarise("", runs, ReportConfig()).comparisons[0].claim.cliffs
    assert [(cliff.seed, cliff.found.estimate) for cliff in cliffs if "faithfulness" in cliff.name] == [
        (1, pytest.approx(-0.1)),
        (2, pytest.approx(-0.2)),
    ]


def test_figures_known_once_per_run_go_by_seeds() -> None:
    row = row_of([run(0), run(1), run(2)], "cam/pxap")
    assert row.interval.estimate == pytest.approx(0.03)
    assert row.interval.margin == pytest.approx(0, abs=1e-9)
    assert math.isnan(row_of([run(0)], "cam/pxap").interval.margin)
    one = summarise("", [run(0)], ReportConfig())
    assert not any(
        row.indicator.tag == "cam/energy_in_mask" for rows in one.comparisons[0].rows.values() for row in rows
    )


def test_the_sharpened_baseline_is_compared_image_by_image() -> None:
    one = run(2)
    faithful(one, "regularised", trained=[0.5])
    faithful(one, "control", trained=[0.3, 0.9])
    claim = summarise("", [one], ReportConfig()).comparisons[0].claim
    (found,) = (condition.found for condition in claim.conditions if "sharpened" in condition.name)
    assert found.estimate == pytest.approx(0.5 - 0.6)


def test_several_objects_are_in_the_name_of_the_set() -> None:
    one = run(0)
    assert data_name(one.result.config.dataset) == "shapes"
    one.result.config.dataset.objects = 3  # type: ignore[attr-defined]
    assert data_name(one.result.config.dataset) == "shapes, 1 to 3 objects"


def test_front_of_a_sweep() -> None:
    points = [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0), (0.9, 0.9), (2.0, 0.4), (math.nan, 9.0), (1.0, 1.0)]
    assert on_front(points) == [True, True, True, False, False, False, True]
    assert on_front([]) == []


def test_every_treatment_is_compared_with_the_reference() -> None:
    """Three arms: each treatment's rows, claim and sharpened baseline are those of a run without the other one."""
    runs = [made_run(seed, THREE) for seed in range(2)]
    one = summarise("", runs, ReportConfig())
    assert [comparison.contrast.treatment for comparison in one.comparisons] == ["regularised", "area"]
    assert one.arms == list(THREE)
    for comparison in one.comparisons:
        reference, treatment, control, _ = comparison.contrast
        row = next(row for row in comparison.rows["concentration"] if row.indicator.tag == "cam/entropy")
        values = [(run.each[treatment]["cam/entropy"] - run.each[reference]["cam/entropy"]).numpy() for run in runs]
        assert row.interval.estimate == pytest.approx(np.mean([value.mean() for value in values]))
        assert row.control == pytest.approx(one.final[control]["cam/entropy"])
        assert comparison.power == 2


def test_differences_of_a_run_are_those_of_each_treatment() -> None:
    run_ = made_run(0, THREE)
    changes, margins = run_.result.differences, run_.result.margins
    assert list(changes) == list(margins) == ["regularised", "area"]
    for treatment, tags in changes.items():
        values = run_.each[treatment]["cam/area"] - run_.each["baseline"]["cam/area"]
        assert tags["cam/area"] == pytest.approx(float(values.mean()))
        interval = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval()
        assert margins[treatment]["cam/area"] == pytest.approx((interval.high - interval.low) / 2)
    assert changes["area"]["cam/pxap"] == pytest.approx((len("area") - len("baseline")) / 100)
    assert "cam/pxap" not in margins["area"], "it is not known of every image"


def test_settings_of_arms_are_told_apart_key_by_key() -> None:
    config = made_config()
    assert not any(key.startswith("arms") for key in settings(config)), "the default arms make no other experiment"
    config.arms["area"] = {"cam": {"term": "area"}}
    assert settings(config)["arms.area.cam.term"] == "area"
    assert settings(config)["evaluate.maps"] == "[gradcam,gradcampp,layercam,eigencam]"
