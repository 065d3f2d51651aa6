"""One setting, over its seeds, as the report shows it: the content of `templates/setting.html`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from camtrain.analysis.comparison import Row
from camtrain.analysis.over_seeds import Comparison, Run, Summary
from camtrain.analysis.verdict import Claim, Condition
from camtrain.arms import contrasts
from camtrain.config.hydra_store import to_yaml
from camtrain.files import printable
from camtrain.metrics.catalogue import FAMILIES, Place, at
from camtrain.report import console, plots, subsets, tables
from camtrain.report.page import Cell, Part, Table, embedded_image, said
from camtrain.report.tables import short
from camtrain.runs.result import GalleryEntry, MapCaption, RunResult


class Verdict(NamedTuple):
    heading: str  # empty where there is one treatment only
    sentences: Sequence[str]


class Caption(NamedTuple):
    """What stands under a map."""

    predicted: str
    wrong: bool
    figures: str


class FigureView(NamedTuple):
    source: str
    alternative: str  # for those who cannot see it
    truth: str
    captions: Sequence[Caption]
    name: str  # of the image
    tokens: str  # what it may be chosen by, see camtrain.report.subsets
    values: str  # what it may be sorted by, in the order of the choices
    figures: Table  # of this image, for every arm


class GalleryGroup(NamedTuple):
    title: str
    figures: Sequence[FigureView]


Choices = Sequence[tuple[str, str]]
"""Values and words of what may be chosen."""


class GalleryView(NamedTuple):
    seed: str  # in words, of the run that the images are from
    multilabel: bool
    groups: Sequence[GalleryGroup]
    filters: Sequence[tuple[str, Choices]]  # by what images may be chosen
    sorts: Sequence[str]  # by what they may be sorted

    def shown(self) -> Counter[str]:
        """How many images each token stands for."""
        return Counter(token for group in self.groups for each in group.figures for token in each.tokens.split())


class SettingView(NamedTuple):
    arms: Sequence[str]
    several_seeds: bool
    verdicts: Sequence[Verdict]
    introduction: Sequence[tuple[str, str]]
    gallery: GalleryView | None
    rules: Sequence[Part]
    comparisons: Sequence[Part]
    alone: Table | None  # the figures of the only arm there is
    faithfulness_images: int
    road_images: int  # like the next of all folds
    sanity_images: int
    subsets: Table | None
    sizes: Table | None
    other_maps_title: str
    own_map: str
    other_maps: Table | None
    curves: Markup  # plots are SVG, which is not to be escaped
    settling: Markup
    randomised: Markup
    configuration: str
    timing: Sequence[tuple[str, str]]


def view(one: Summary) -> SettingView:
    """All that is shown of one setting."""
    first, several = one.runs[0], len(one.runs) > 1
    epochs = [{name: arm.epochs for name, arm in run.result.arms.items()} for run in one.runs]
    randomised = [run.result.sanity for run in one.runs if run.result.sanity is not None]
    images = gallery(first, several)
    seeds = ("seeds" if several else "seed", ", ".join(map(str, one.seeds)))
    headings = [tables.heading(each) if len(one.comparisons) > 1 else "" for each in one.comparisons]
    named = list(zip(headings, one.comparisons, strict=True))
    return SettingView(
        arms=one.arms,
        several_seeds=several,
        verdicts=[Verdict(*claim) for claim in tables.claims(one)],
        introduction=[*console.introduction(first.result), seeds],
        gallery=images,
        rules=[Part(heading, rule(each.claim)) for heading, each in named],
        comparisons=[
            Part(
                heading,
                comparison_table(each),
                each.contrast.treatment,
                _power(each.power, several),
                _power(each.power_area, several),
            )
            for heading, each in named
        ],
        alone=None if one.comparisons else own_table(one),
        faithfulness_images=max(
            run.result.faithfulness_images or len(run.folders) * (run.result.config.evaluate.faithfulness_images or 0)
            for run in one.runs
        ),
        road_images=len(first.folders) * first.result.config.evaluate.road_images,
        sanity_images=len(first.folders) * first.result.config.evaluate.sanity_images,
        subsets=subsets.table(one, images.shown() if images else {}),
        sizes=by_size(one, images.shown() if images else {}),
        other_maps_title=tables.other_maps_title(one),
        own_map=tables.own_map(one),
        other_maps=other_maps(one),
        curves=Markup(plots.curves(epochs)),
        settling=Markup(plots.settling(epochs)),
        randomised=Markup(plots.randomised(randomised) if randomised else ""),
        configuration=to_yaml(first.result.config),
        timing=list(timings(one)),
    )


def _power(power: float, several_seeds: bool) -> str:
    return f"{power:.2f}{' (mean)' if several_seeds else ''}" if math.isfinite(power) else ""


def rule(claim: Claim) -> Table:
    """The conditions, ticked or not, and what those that are open need."""
    groups: dict[str, list[list[Cell]]] = {}
    for condition in [*claim.conditions, *claim.beside]:
        plan = claim.needed(condition)
        groups.setdefault(condition.part.capitalize(), []).append(
            [
                Cell(condition.name, "long"),
                Cell(condition.asked, "word long"),
                Cell(interval_text(condition)),
                Cell(f"± {condition.found.bound:.3f}" if math.isfinite(condition.found.bound) else ""),
                said(condition.outcome.value),
                Cell(f"{plan.power:.2f}" if plan else "", "spare"),
                Cell(plan.words if plan else "", "word long spare"),
            ]
        )
    head = [
        Cell("condition"),
        Cell("asked for", "word"),
        Cell("difference ± 95 %"),
        Cell("± 90 %"),
        Cell(),
        Cell("power", "spare"),
        Cell("for a power of 0.8", "word spare"),
    ]
    return Table("conditions of the claim", head, list(groups.items()), "comparison")


def interval_text(condition: Condition) -> str:
    found = condition.found
    if not math.isfinite(found.estimate):
        return "-"
    margin = f" ± {found.margin:.3f}" if math.isfinite(found.margin) else ""
    return f"{found.estimate:+.3f}{margin}"


# ---- images


WHY = {
    "disagreement": "Largest disagreement",
    "failures": "Failures",
    "best": "Largest gain",
    "worst": "Smallest gain, or largest loss",
    "random": "At random",
}

ALONE = {"best": "Best", "worst": "Worst"}
"""In place of these where there is one network only."""


def gallery(run: Run, several_seeds: bool) -> GalleryView | None:
    """Input, outline and every arm's map of chosen validation images; None if there are none."""
    result = run.result
    if not result.gallery:
        return None
    seed = f" of seed {result.seed}" if several_seeds else ""
    if result.seed != result.config.seed:
        seed += f", drawn by seed {result.config.seed}"
    before = "training" if result.trained_seed is None and not result.networks else "measuring"
    pairs = result.contrasts
    against = f" of {pairs[0].treatment} against {pairs[0].reference}" if len(pairs) > 1 else ""
    chosen = {
        "random": f", chosen before {before}",
        "disagreement": ": other classes predicted, then maps that are least alike",
        "failures": ": wrong in most networks, and surest of it",
    }
    groups = []
    for why, words in {**WHY, **({} if pairs else ALONE)}.items():
        figures = [
            _figure(run, entry) for entry in result.gallery if entry.why == why and _is_own(run.folder, entry.file)
        ]
        if figures:
            groups.append(GalleryGroup(words + chosen.get(why, f"{against}, by {result.gallery_by}"), figures))
    if not groups:
        return None
    sorts = [f"{name}, {arm}" for name in SORTED.values() for arm in _sorted_by(list(result.arms))]
    view = GalleryView(seed, result.data.multilabel, groups, [], sorts)
    shown = view.shown()
    filters = [(name, [choice for choice in choices if shown[choice[0]]]) for name, choices in _filters(result)]
    return view._replace(filters=[part for part in filters if len(part[1]) > 1])


def _filters(result: RunResult) -> Iterator[tuple[str, Choices]]:
    """Everything that images may be chosen by: names, tokens and words."""
    arms = list(result.arms)
    alone = [(subsets.wrong_alone(arm), f"wrong in {arm} alone") for arm in arms if len(arms) > 1]
    in_all = " in all" * (len(arms) > 1)
    yield "class", [(subsets.of_class(number), name) for number, name in enumerate(result.data.classes)]
    if not result.data.multilabel:
        results = [(subsets.RIGHT, f"right{in_all}"), *alone, (subsets.WRONG, f"wrong{in_all}")]
        yield "result", [*results, (subsets.DIFFER, "predicted differently")]
    yield "object", [(subsets.of_size(group.size), group.size) for group in result.by_size or [] if group.size != "all"]


def _sorted_by(arms: Sequence[str]) -> list[str]:
    """Of which arms' figures images may be sorted by; of two, also by their difference."""
    return [*arms, *(["difference"] if len(arms) == 2 else [])]


SORTED = {"probability": "probability", "energy_in_mask": "energy in mask", "entropy": "entropy", "peak": "peak"}
"""Figures of a caption that images may be sorted by, in words."""


def _is_own(folder: Path, file: str) -> bool:
    """Whether an image is there, and within the folder: others must not get into a page that may be passed on."""
    path = (folder / file).resolve()
    return path.is_relative_to(folder.resolve()) and path.is_file()


def _figure(run: Run, entry: GalleryEntry) -> FigureView:
    multilabel = run.result.data.multilabel
    captions = {arm: _caption(part, entry.truth, multilabel) for arm, part in entry.arms.items()}
    spoken = [
        f"{arm}: {caption.predicted}{', wrong' if caption.wrong else ''}, {caption.figures}"
        for arm, caption in captions.items()
    ]
    shown = ", ".join(["Input", *(f"map of {arm}" for arm in captions)])
    return FigureView(
        embedded_image(run.folder / entry.file),
        f"{entry.truth}. {shown}. {'. '.join(spoken)}",
        entry.truth,
        list(captions.values()),
        printable(Path(entry.image).name),
        " ".join(_tokens(run.result, entry, captions)),
        " ".join(f"{value:.5g}" for value in _values(entry)),
        _figures_of_image(run, entry),
    )


def _tokens(result: RunResult, entry: GalleryEntry, captions: Mapping[str, Caption]) -> Iterator[str]:
    """What an image may be chosen by."""
    if entry.truth in result.data.classes:
        yield subsets.of_class(result.data.classes.index(entry.truth))
    if not result.data.multilabel:
        wrong = [arm for arm, caption in captions.items() if caption.wrong]
        if not wrong:
            yield subsets.RIGHT
        if len(wrong) == len(captions):
            yield subsets.WRONG
        elif len(wrong) == 1:
            yield subsets.wrong_alone(wrong[0])
        if len({part.predicted for part in entry.arms.values()}) > 1:
            yield subsets.DIFFER
    for group in result.by_size or []:
        if group.size != "all" and group.low <= entry.share <= group.high:
            yield subsets.of_size(group.size)
            break


def _values(entry: GalleryEntry) -> Iterator[float]:
    """What an image may be sorted by, for each of :data:`SORTED` that of each of :func:`_sorted_by`."""
    for name in SORTED:
        values = [
            part.figures.get(name, math.nan) if name not in ("probability", "peak") else float(getattr(part, name))
            for part in entry.arms.values()
        ]
        yield from values
        if len(values) == 2:
            yield values[1] - values[0]


def _figures_of_image(run: Run, entry: GalleryEntry) -> Table:
    """Every indicator that is known of an image, for every arm."""
    arms = list(entry.arms)
    number = Path(entry.file).stem.rpartition("-")[2]
    groups = []
    for family, indicators in FAMILIES.items():
        rows = []
        for each in indicators:
            values = [_of_image(run, arm, each.tag, number) * each.scale for arm in arms]
            if any(map(math.isfinite, values)):
                texts = [f"{value:.{each.digits}f}" if math.isfinite(value) else "-" for value in values]
                rows.append([Cell(each.title), *map(Cell, texts)])
        if rows:
            groups.append((family, rows))
    return Table(f"indicators of {printable(Path(entry.image).name)}", [Cell(), *map(Cell, arms)], groups, "dense")


def _of_image(run: Run, arm: str, tag: str, number: str) -> float:
    """A figure of an image by its number; nan where it is not known."""
    values = run.each.get(arm, {}).get(tag)
    known = values is not None and number.isdecimal() and int(number) < len(values)
    return float(values[int(number)]) if values is not None and known else math.nan


def _caption(part: MapCaption, truth: str, multilabel: bool) -> Caption:
    wrong = part.predicted != truth and not multilabel
    return Caption(f"{part.predicted} {part.probability:.0%}", wrong, caption_figures(part))


def caption_figures(part: MapCaption) -> str:
    """The first figure of :data:`Place.captions` that is defined, and the peak."""
    if not part.peak:
        return "dead map"
    known = (
        f"{indicator.label.partition(' ')[0]} {abs(value):.2f}, "
        for indicator in at(Place.captions)
        if math.isfinite(value := part.figures.get(indicator.name, math.nan))
    )
    return f"{next(known, '')}peak {part.peak:.0f} x"


# ---- tables


def comparison_table(each: Comparison) -> Table:
    """Every indicator of a treatment and the reference by family."""
    rows = [row for family in each.rows.values() for row in family]
    both = any(math.isfinite(row.both_correct.estimate) for row in rows)
    area = any(math.isfinite(row.control_area) for row in rows)
    head = [
        Cell(),
        Cell(each.contrast.reference),
        Cell(each.contrast.treatment),
        Cell("difference", small="± 95 %"),
        Cell(),
        Cell("p, Holm", "spare"),
        *([Cell("both correct", "spare")] if both else []),
        Cell("sharpened", "spare", small="by entropy" if area else "baseline"),
        *([Cell("sharpened", "spare", small="by area")] if area else []),
    ]
    groups = [(family, [_line(row, both, area) for row in found]) for family, found in each.rows.items()]
    return Table(f"indicators of {each.contrast.reference} and {each.contrast.treatment}", head, groups, "comparison")


def own_table(one: Summary) -> Table:
    """Every indicator of the only arm by family."""
    groups = [
        (family, [[Cell(each.title, small=each.meaning), Cell(value, small=margin)] for each, value, margin in rows])
        for family, rows in tables.own_figures(one).items()
    ]
    head = [Cell(), Cell(one.arms[0], small="± 95 %")]
    return Table(f"indicators of {one.arms[0]}", head, groups, "comparison")


def _line(row: Row, both: bool, area: bool) -> list[Cell]:
    within, known = row.both_correct, math.isfinite(row.both_correct.margin)
    return [
        Cell(row.indicator.title, small=row.indicator.meaning),
        Cell(row.text(row.reference)),
        Cell(row.text(row.treatment)),
        Cell(row.text(row.difference, signed=True), small=_margin(row, row.interval.margin)),
        said(row.verdict),
        Cell(_p_value(row.adjusted), "spare"),
        *(
            [Cell(row.text(within.estimate, signed=True) if known else "", "spare", _margin(row, within.margin))]
            if both
            else []
        ),
        *(
            Cell(row.text(value) if math.isfinite(value) else "", "spare")
            for value in ([row.control, row.control_area] if area else [row.control])
        ),
    ]


def _margin(row: Row, margin: float) -> str:
    return f"± {row.text(margin)}" if math.isfinite(margin) else ""


def _p_value(p: float) -> str:
    if not math.isfinite(p):
        return ""
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def by_size(one: Summary, images: Mapping[str, int]) -> Table | None:
    """Plausibility by the object's size, beside two maps that know nothing of the image.

    Args:
        one: the runs.
        images: how many the gallery shows of each size, by token.
    """
    groups_of_runs = [run.result.by_size or [] for run in one.runs]
    if not all(groups_of_runs):
        return None
    shown = at(Place.sizes)
    labels: dict[str, str] = {}
    for pair in contrasts(one.arms):
        several = len(one.comparisons) > 1
        labels[pair.control] = "sharpened baseline" + (f", as sharp as {pair.treatment}" if several else "")
        labels[pair.control_area] = "sharpened baseline, " + (f"as tight as {pair.treatment}" if several else "by area")
    groups = []
    for parts in zip(*groups_of_runs, strict=True):
        low, high = mean([part.low for part in parts]), mean([part.high for part in parts])
        size = parts[0].size
        title = f"{size} objects: {low:.0%} to {high:.0%} of the image" if size != "all" else "all"
        rows = [
            [
                Cell(labels.get(name, name)),
                *(Cell(short(mean([part.figures[name][indicator.name] for part in parts]))) for indicator in shown),
            ]
            for name in parts[0].figures
            if all(name in part.figures for part in parts)  # runs of former versions have fewer
        ]
        token = subsets.of_size(size)
        groups.append((Cell(title, show=token if images.get(token) else ""), rows))
    head = [Cell(), *(Cell(indicator.title) for indicator in shown)]
    return Table("plausibility by the object's size", head, groups)


def mean(values: Sequence[float | None]) -> float:
    """Of those that are known; nan if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def other_maps(one: Summary) -> Table | None:
    """Methods that were measured beside the trained one; None if there is none."""
    lines = tables.other_maps(one)
    if not lines:
        return None
    head, *rows = [[Cell(text) for text in line] for line in lines]
    return Table(f"maps by other methods than the {tables.own_map(one)} one", head, [("", rows)], "dense")


def timings(one: Summary) -> Iterator[tuple[str, str]]:
    """How long it took, with which versions."""
    seconds = mean([run.result.timing.seconds for run in one.runs])
    yield "time", f"{seconds:.0f} s a run, with training, measuring and saving"
    for pair in contrasts(one.arms):
        ratio = mean([run.result.timing.ratio(pair) for run in one.runs])
        if math.isfinite(ratio):
            yield "step", f"{pair.treatment} over {pair.reference} x {ratio:.2f}, medians over all epochs"
    environment: Mapping[str, str] = one.runs[0].result.environment
    yield "versions", ", ".join(f"{name} {text}" for name, text in environment.items())
