"""Runs of several folds, which count as one run on the images of all of them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from runs.made import made_run

from camtrain.analysis.folds import join_folds
from camtrain.analysis.over_seeds import Run, group_by_settings, notes, summarise
from camtrain.config.schema import ReportConfig
from camtrain.evaluation.localisation import SizeGroup
from camtrain.report.setting import view
from camtrain.runs.facts import data_name


def fold(seed: int, number: int, folds: int = 3, images: int = 10, share: float | None = None) -> Run:
    """A run on a fold with made-up figures of its images, the same class in each."""
    run = made_run(10 * seed + number, images=images, files=True)
    result = run.result
    result.config.seed, result.config.dataset.fold, result.config.cam.share = seed, f"{number}/{folds}", share
    result.data = dataclasses.replace(
        result.data, val=images, val_with_region=number, val_per_class=[images, 0, number]
    )
    return Run(run.folder, result, run.each)


def test_the_folds_of_a_seed_are_one_run_on_all_images() -> None:
    runs = [fold(seed, number, images=10 + number) for number in (2, 0, 1) for seed in (0, 1)]
    joined, lines = join_folds(runs)
    assert lines == []
    assert [run.result.seed for run in joined] == [0, 1]
    ((label, group),) = group_by_settings(joined).items()
    assert label == ""
    for seed, one in enumerate(group):
        parts = [runs[2 + seed], runs[4 + seed], runs[seed]]  # in the order of the folds, not in that of the runs
        assert one.folders == [part.folder for part in parts]
        assert one.result.config.dataset.fold == "0-2/3"
        assert data_name(one.result.config.dataset) == one.result.data.name == "x, folds 0-2/3"
        assert (one.result.data.val, one.result.data.val_with_region) == (33, 3)
        assert one.result.data.val_per_class == [33, 0, 3]
        for arm in ("baseline", "regularised"):
            for tag in ("accuracy/val", "cam/entropy"):
                values = torch.cat([part.each[arm][tag] for part in parts])
                assert torch.equal(one.each[arm][tag], values)
                assert one.result.arms[arm].final[tag] == pytest.approx(float(values.mean()))
            by_run = [part.result.arms[arm].final["cam/pxap"] for part in parts]
            expected = sum(value * part.result.data.val for value, part in zip(by_run, parts, strict=True)) / 33
            assert one.result.arms[arm].final["cam/pxap"] == pytest.approx(expected)
        change = (one.each["regularised"]["cam/entropy"] - one.each["baseline"]["cam/entropy"]).mean()
        assert one.result.differences["regularised"]["cam/entropy"] == pytest.approx(float(change))
    summary = summarise("", group, ReportConfig())
    assert summary.seeds == [0, 1]
    assert math.isfinite(summary.comparisons[0].intervals["cam/entropy"].margin)
    assert notes(summary)


def test_what_is_not_defined_does_not_count() -> None:
    runs = [fold(0, number) for number in range(3)]
    values = runs[0].each["baseline"]["cam/area"]
    values[:8] = math.nan
    runs[0].result.arms["baseline"].final["cam/area"] = float(values.nanmean())  # type: ignore[index]
    del runs[1].each["baseline"]["cam/area"]  # type: ignore[attr-defined]
    del runs[1].result.arms["baseline"].final["cam/area"]  # type: ignore[attr-defined]
    ((one,), _) = join_folds(runs)
    found = one.each["baseline"]["cam/area"]
    assert found.isfinite().tolist() == [False] * 8 + [True] * 2 + [False] * 10 + [True] * 10
    assert one.result.arms["baseline"].final["cam/area"] == pytest.approx(float(found.nanmean()))
    assert math.isnan(one.result.arms["baseline"].final["cam/energy_in_mask"])


def test_images_of_slow_measurements_are_those_of_all_folds() -> None:
    runs = [fold(0, number) for number in range(3)]
    for number, run in enumerate(runs):
        run.result.faithfulness_images = 7 + number
        run.result.config.evaluate.road_images, run.result.config.evaluate.sanity_images = 5, 2
    (one,), _ = join_folds(runs)
    assert one.result.faithfulness_images == 24
    shown = view(summarise("", [one], ReportConfig()))
    assert (shown.faithfulness_images, shown.road_images, shown.sanity_images) == (24, 15, 6)


def test_missing_folds_are_named_and_set_apart() -> None:
    runs = [fold(seed, number) for seed in range(3) for number in range(3)]
    del runs[7], runs[4]
    joined, lines = join_folds(runs)
    assert lines == ["missing: fold 1/3 of seed 1, 2; the figures are of the other folds' images."]
    groups = group_by_settings(joined)
    assert list(groups) == ["dataset.fold=0-2/3", "dataset.fold=0,2/3"]
    assert [[run.result.seed for run in group] for group in groups.values()] == [[0], [1, 2]]
    alone = [fold(0, 1)]
    joined, lines = join_folds(alone)
    assert joined == alone
    assert lines == ["missing: fold 0/3, 2/3 of seed 0; the figures are of the other folds' images."]


def test_other_settings_and_numbers_of_folds_stay_apart() -> None:
    runs = [fold(0, number, share=share) for share in (0.3, 0.5) for number in range(3)]
    runs += [fold(0, number, folds=2) for number in range(2)]
    plain = made_run(0, files=True)
    joined, lines = join_folds([*runs, plain, plain])
    assert lines == []
    assert [len(run.folders) for run in joined] == [3, 3, 2, 1, 1]
    assert joined[3:] == [plain, plain]
    assert len(group_by_settings(joined)) == 4


def test_of_repeated_folds_the_last_counts() -> None:
    runs = [fold(0, number) for number in (0, 0, 1, 2)]
    runs[1].each["baseline"]["cam/area"].fill_(7)
    ((one,), _) = join_folds(runs)
    assert one.result.data.val == 30
    assert bool((one.each["baseline"]["cam/area"][:10] == 7).all())


def test_sizes_and_randomisation_are_averaged() -> None:
    runs = [fold(0, number) for number in range(2)]
    for number, run in enumerate(runs):
        run.result.by_size = [SizeGroup("all", 1 + 2 * number, 0.1, 0.2, {"baseline": {"pointing": float(number)}})]
        run.result.sanity = {"baseline": [1.0, float(number)]}
    ((one,), _) = join_folds(runs)
    (group,) = one.result.by_size or []
    assert (group.images, group.figures["baseline"]["pointing"]) == (4, 0.75)
    assert one.result.sanity == {"baseline": [1.0, 0.5]}
    assert one.result.faithfulness_images is None, "former versions did not say"
    runs[1].result.by_size = []
    ((one,), _) = join_folds(runs)
    assert one.result.by_size is None
