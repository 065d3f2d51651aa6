"""The report's page, its plots and tables for any number of arms."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report.three import OLD_RUN, three_arms
from runs.made import THREE, TWO, made_run

from camtrain.analysis.intervals import Interval
from camtrain.analysis.over_seeds import Run, Summary, notes, summarise
from camtrain.analysis.verdict import BETTER, NOTHING_LOST, Condition, Outcome
from camtrain.config.schema import ReportConfig
from camtrain.report import build, console, plots, sweep, tables
from camtrain.runs.images import read_images
from camtrain.runs.load import read

ESTIMATES = {Outcome.open: 0.0, Outcome.shown: -1.0, Outcome.refuted: 1.0}


def text_of(page: Path) -> str:
    return re.sub(
        r"\s+", " ", re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]*>", "", page.read_text(), flags=re.DOTALL)
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    place = tmp_path_factory.mktemp("three")
    return [three_arms(place / str(seed), seed) for seed in range(2)]


def test_a_run_of_the_former_version_is_reported(tmp_path: Path) -> None:
    one = summarise("", [Run(OLD_RUN, read(OLD_RUN).result, read_images(OLD_RUN))], ReportConfig())
    build.write(tmp_path / "page.html", "title", [one], notes(one))
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img") == len(list((OLD_RUN / "pictures").iterdir()))
    assert page.count('class="verdict"') == 1
    assert page.index('class="verdict"') < page.index("Maps side by side") < page.index("<h2>Comparison</h2>")
    assert "Sanity" in page
    assert "By size" in page
    assert "compared with" not in page, "there is one treatment only"
    assert "by area" not in page + tables.as_text(one), "it has no baseline sharpened to the area"
    assert "sharpenedbaseline" in text_of(tmp_path / "page.html")


def test_a_page_of_three_arms(three: list[Run], tmp_path: Path) -> None:
    one = summarise("", three[:1], ReportConfig())
    build.write(tmp_path / "page.html", "title", [one], notes(one))
    page, text = (tmp_path / "page.html").read_text(), text_of(tmp_path / "page.html")
    assert page.count('class="verdict"') == 2
    assert text.count("area compared with baseline") == 3  # verdict, rule and comparison
    assert "--tiles: 4" in page
    assert page.count("One run is one seed") == 1
    assert "sharpened baseline, as sharp as area" in text
    assert "sharpened baseline, as tight as area" in text
    assert text.count("sharpenedby entropy") == text.count("sharpenedby area") == 2
    assert text.count("by area, to the power 1.25, which gives them its mean elliptical area") == 2
    assert "area over baseline x" in text
    assert page.count("Input, map of baseline, map of regularised, map of area.") == page.count("<img")


def test_a_sweep_of_three_arms(three: list[Run], tmp_path: Path) -> None:
    summaries = [summarise(f"x={number}", [run], ReportConfig()) for number, run in enumerate(three)]
    build.write(tmp_path / "page.html", "title", summaries)
    text = text_of(tmp_path / "page.html")
    assert re.search(r"\d of 4 treatments (is|are) ", text)
    assert "1 (area)" in text
    assert "Pareto fronts" in text
    shown = sweep.view(summaries)
    assert [len(cell.signs) for cell in (row[2] for _, rows in shown.table.groups for row in rows)] == [4, 4]


def changed(one: Summary, outcome: Outcome) -> Summary:
    """With one condition of each statement, of that outcome."""
    (comparison,) = one.comparisons
    found = Interval(ESTIMATES[outcome], 0.1, 0.5, 0.08)
    conditions = [Condition(part, "dead rate", found, 0.0, low=True) for part in (BETTER, NOTHING_LOST)]
    claim = comparison.claim._replace(conditions=conditions, cliffs=[])
    return replace(one, comparisons=[replace(comparison, claim=claim)])


def test_the_verdict_on_a_sweep_says_by_which_rule_and_how_many_seeds(tmp_path: Path) -> None:
    margins = ReportConfig(accuracy_margin=0.5)
    groups = ([made_run(0), made_run(1)], [made_run(0)], [made_run(2), made_run(3)])
    summaries = [
        changed(summarise("", runs, margins), outcome) for runs, outcome in zip(groups, ESTIMATES, strict=True)
    ]
    build.write(tmp_path / "page.html", "title", summaries)
    text = text_of(tmp_path / "page.html")
    assert "1 of 3 settings is more interpretable: 2." in text
    assert "1 of 3 settings is not more interpretable: 3." in text
    assert "1 of 3 settings is not settled: 1." in text
    assert "by the rule with other margins: accuracy_margin 0.5 (wider than 0.01)." in text
    assert "one seed only: 2." in text


def test_a_reference_that_nothing_beats_keeps_the_others_off_the_front() -> None:
    """Setting 1 lowers the entropy and keeps accuracy; 2 lowers it less, and is less accurate than its reference."""
    figures = {1: ((0.9, 3.0), (0.9, 1.0)), 2: ((0.9, 3.0), (0.8, 2.0)), 3: ((0.95, 3.0), (0.7, 0.5))}
    summaries = []
    for accuracies_and_entropies in figures.values():
        one = summarise("", [made_run(0)], ReportConfig())
        for arm, (accuracy, entropy) in zip(TWO, accuracies_and_entropies, strict=True):
            one.final[arm].update({"accuracy/val": accuracy, "cam/entropy": entropy})  # type: ignore[attr-defined]
        summaries.append(one)
    points = sweep.front(summaries, "cam/entropy", "accuracy/val")
    best = [(point.number, point.arm) for point in points if point.on_front]
    assert best == [(1, "regularised"), (3, "baseline"), (3, "regularised")]
    intervals = summaries[0].comparisons[0].intervals
    assert points[1].margins == tuple(intervals[tag].margin for tag in ("cam/entropy", "accuracy/val"))
    assert [point.treatment for point in points] == [False, True] * 3


def test_the_front_of_what_is_more_than_sharpness() -> None:
    """Setting 1 has more energy in mask than 2, but not more than its sharpened baseline."""
    summaries = []
    for accuracy, energy, control in [(0.9, 0.6, 0.6), (0.9, 0.5, 0.4), (0.95, 0.3, 0.35)]:
        one = summarise("", [made_run(0)], ReportConfig())
        one.final["regularised"].update({"accuracy/val": accuracy, "cam/energy_in_mask": energy})  # type: ignore[attr-defined]
        one.final["control"] = {"cam/energy_in_mask": control}  # type: ignore[index]
        summaries.append(one)
    points = sweep.front(summaries, "cam/energy_in_mask", "accuracy/val", beyond=True)
    assert [(point.number, point.arm, point.on_front) for point in points] == [
        (1, "regularised", False),
        (2, "regularised", True),
        (3, "regularised", True),
    ]
    assert [point.across for point in points] == pytest.approx([0, 0.1, -0.05])


def test_a_sweep_without_anything_to_draw_a_front_of(tmp_path: Path) -> None:
    summaries = [summarise(str(seed), [made_run(seed)], ReportConfig()) for seed in range(2)]
    for one in summaries:
        for tag in [tag for tag in one.final["regularised"] if tag not in ("accuracy/val", "cam/dead_rate")]:
            one.final["regularised"][tag] = math.nan  # type: ignore[index]
    build.write(tmp_path / "page.html", "title", summaries)
    assert "Pareto" not in (tmp_path / "page.html").read_text()


def test_arms_are_told_apart_without_colour() -> None:
    names = [f"arm {number}" for number in range(8)]
    found = plots.styles(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert len({(style.dashes, style.marker) for style in found.values()}) == len(names)
    assert found[names[0]] == plots.REFERENCE


def test_curves_of_three_arms_name_each() -> None:
    rows = [{"cam/entropy": 2.0}, {"cam/entropy": 1.0}]
    svg = plots.curves([dict.fromkeys(THREE, rows)] * 2)
    assert all(f">{name}</text>" in svg for name in THREE)
    assert plots.curves([{name: [{}] for name in THREE}]) == "", "nothing to draw"


def test_the_names_of_many_arms_stand_below_the_curves() -> None:
    """Warnings are errors: within a panel they would leave it no room."""
    names = [f"share_0_{number}" for number in range(16)]
    svg = plots.curves([{name: [{"cam/entropy": 2.0}, {"cam/entropy": 1.0}] for name in names}])
    assert all(svg.count(f">{name}</text>") == 1 for name in names)


def test_lines_of_the_epochs_have_a_column_for_each_arm() -> None:
    figures = {
        name: {"accuracy/val": 0.5, "cam/entropy": 2.0, "cam/energy_in_mask": 0.25, "cam/dead_rate": 0.0}
        for name in THREE
    }
    top, below = console.epoch_heading(False, THREE).strip("\n").splitlines()
    assert top.split() == ["accuracy", "entropy", "energy", "in", "mask", "dead", "rate"]
    assert below.split() == ["epoch", *(["baseline", "regular.", "area"] * 4)]
    line = console.epoch_line(3, figures, multilabel=False)
    assert len(line) == len(below)
    assert line.split() == ["3", *["0.500"] * 3, *["2.000"] * 3, *["0.250"] * 3, *["0.000"] * 3]


@pytest.mark.parametrize(("arms", "shown"), [(2, 4), (3, 4), (4, 3), (9, 1), (40, 1)])
def test_lines_of_the_epochs_fit_a_terminal(arms: int, shown: int) -> None:
    names = [f"arm_{number}" for number in range(arms)]
    *_, below = console.epoch_heading(False, names).splitlines()
    line = console.epoch_line(1, {name: {} for name in names}, multilabel=False)
    assert len(line) == len(below)
    assert len(line.split()) == 1 + arms * shown
    assert len(line) <= 120 or shown == 1


@pytest.mark.parametrize(
    ("arms", "shown"),
    [
        (["baseline", "share_0_2", "share_0_5"], ["baseline", "share_0_2", "share_0_5"]),
        (["baseline", "regularised"], ["baseline", "regular."]),
        (["baseline", "term_entropy_share_1", "term_entropy_share_2"], ["arm", "1", "arm", "2", "arm", "3"]),
    ],
)
def test_arms_are_told_apart_over_the_lines_of_the_epochs(arms: list[str], shown: list[str]) -> None:
    heading = console.epoch_heading(False, arms).splitlines()
    assert heading[-1].split()[1 : 1 + len(shown)] == shown
    known = ["arm 1: baseline, arm 2: term_entropy_share_1, arm 3: term_entropy_share_2"] if "arm" in shown else []
    assert [line for line in heading if ": " in line] == known


def test_tables_of_three_arms_have_one_heading_each() -> None:
    one = summarise("", [made_run(0, THREE)], ReportConfig())
    text = tables.as_text(one)
    assert text.count("sharpened") == 2
    assert "by area" not in text
    assert [line for line in text.splitlines() if "compared with" in line] == [
        "regularised compared with baseline",
        "area compared with baseline",
    ]
    assert "**area compared with baseline**" in tables.as_markdown(one)
    assert "compared with" not in tables.as_text(summarise("", [made_run(0)], ReportConfig()))
    jobs = [("1", {name: one.final[name] for name in THREE})]
    assert re.search(r"\d > .* > \d", tables.sweep_text(jobs).splitlines()[-1])


def test_columns_are_padded_to_their_widest_cell() -> None:
    lines = [("", "x", "name"), ("long label", "10", "a"), ("b", "2", "cc")]
    assert tables.aligned(lines).splitlines() == ["            x   name", "long label  10  a", "b           2   cc"]
    assert tables.aligned(lines, right=[1], ruled=True).splitlines() == [
        "             x  name",
        "-" * 20,
        "long label  10  a",
        "b            2  cc",
    ]
