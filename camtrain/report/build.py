"""report.html: one page without network access that says whether the network became more interpretable, and shows it.

The verdict comes first, then images, tables with intervals, curves, and how it was made. A single run, several seeds
and a sweep give the same page; a sweep begins with an overview and its Pareto fronts.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from camtrain.analysis.comparison import Row, primary_tag
from camtrain.analysis.over_seeds import Summary
from camtrain.analysis.over_seeds import notes as notes_on
from camtrain.analysis.pareto import on_front
from camtrain.analysis.verdict import VERDICTS, Claim, Condition, sentences
from camtrain.arms import BASELINE, CONTROL, REGULARISED
from camtrain.evaluation.localisation import CENTRED, SIZED, UNIFORM
from camtrain.files import write_text
from camtrain.metrics.catalogue import FAMILIES
from camtrain.report import console, plots, tables
from camtrain.report.page import cell, embedded_image, facts, page, row_head, said, table
from camtrain.report.tables import pair, short

NAME = "report.html"

FRONTS = (
    *("cam/entropy", "cam/energy_in_mask", "faithfulness/insertion", "faithfulness/deletion", "stability/flip"),
    *("sanity/all", "cam/border_mass", "confidence/calibration_error"),
)
"""Of each family, what accuracy is drawn against."""

KNOWN = {indicator.tag: indicator for family in FAMILIES.values() for indicator in family}


def write(path: Path, title: str, summaries: Sequence[Summary], notes: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        path: of the file.
        title: heading.
        summaries: one for each setting.
        notes: sentences that stand below the verdict.
    """
    say = html.escape
    warned = warning_boxes(notes)
    if len(summaries) == 1:
        body = f"<h1>{say(title)}</h1>{section(summaries[0], warned)}"
    else:
        parts = "".join(
            f'<details id="setting-{number}"><summary>{number}: {say(one.label)}, {one.counted}</summary>'
            f"{section(one, warning_boxes(notes_on(one)))}</details>"
            for number, one in enumerate(summaries, start=1)
        )
        body = f"<h1>{say(title)}</h1>{verdicts(summaries)}{warned}{overview(summaries)}<h2>Each setting</h2>{parts}"
    write_text(path, page(title, body))


def warning_boxes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="warning" role="note">{html.escape(note[0].upper() + note[1:])}</p>' for note in notes)


def section(one: Summary, warned: str) -> str:
    """All that is told of one setting."""
    first = one.runs[0]
    return f"""{verdict(one)}
{warned}
{facts(introduction(one))}
{gallery(one)}
{rule(one.claim, len(one.runs))}
<h2>Comparison</h2>
{comparison_table(one)}
<p>{about_table(one)}</p>
{by_size(one)}
{other_maps(one)}
<h2>Curves</h2>
<div class="plot">{plots.curves(epochs(one))}</div>
{after_curves(one)}
<h2>Configuration</h2>
<pre>{html.escape(OmegaConf.to_yaml(OmegaConf.structured(first.config)))}</pre>
{timings(one)}"""


def introduction(one: Summary) -> list[tuple[str, str]]:
    """What was trained, and with which seeds."""
    first = one.runs[0]
    lines = list(console.introduction(first.result, first.config))
    seeds = ("seeds", ", ".join(map(str, one.seeds))) if len(one.runs) > 1 else ("seed", str(one.seeds[0]))
    return [*lines, seeds]


def epochs(one: Summary) -> list[Mapping[str, Sequence[Mapping[str, Any]]]]:
    """Of each run and arm, the figures of every epoch."""
    return [{arm: part["epochs"] for arm, part in run.result["arms"].items()} for run in one.runs]


# ---- verdict


def verdict(one: Summary) -> str:
    first, *lines = sentences(one.claim, one.seeds)
    rest = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    first = html.escape(first)
    return f'<div class="verdict" role="region" aria-label="verdict"><p><strong>{first}</strong></p>{rest}</div>'


def rule(claim: Claim, runs: int) -> str:
    """The conditions, ticked or not."""
    parts: dict[str, list[list[str]]] = {}
    for condition in [*claim.conditions, *claim.beyond]:
        parts.setdefault(condition.part, []).append(
            [
                row_head(html.escape(condition.name), "long"),
                cell(html.escape(condition.asked), "word long"),
                cell(interval_text(condition)),
                cell(said(condition.outcome.value), "word"),
            ]
        )
    heading = ["condition", '<th scope="col" class="word">asked for</th>', "difference ± 95 %", ""]
    over = "seeds and images" if runs > 1 else "the images of this run"
    return (
        "<h2>The rule</h2>"
        "<p>A network is called more interpretable only if every condition holds over its whole 95 % interval, here"
        f" over {over}. As all must hold, none needs a correction for their number; better and worse in the"
        " comparison below have one. The margin of a share of images, such as the dead rate, is 3.84 / (n + 3.84)"
        " at least, with n images of one seed: if none of them changes, no more is known. That the claim failed"
        " takes one contradicted condition, which is not corrected either: of a dozen, now and then one is"
        " contradicted by chance. The last part is not needed for the claim: it compares with the baseline's maps"
        " raised to the power that gives them the regularised arm's entropy. A tick is a condition met, a cross one"
        " that the interval contradicts, a question mark one that it leaves open.</p>"
        + table(heading, parts.items(), caption="conditions of the claim")
    )


def interval_text(condition: Condition) -> str:
    found = condition.found
    if not math.isfinite(found.estimate):
        return "-"
    margin = f" ± {found.margin:.3f}" if math.isfinite(found.margin) else ""
    return f"{found.estimate:+.3f}{margin}"


# ---- images


WHY = {"best": "Largest gain", "worst": "Smallest gain, or largest loss", "random": "At random"}


def gallery(one: Summary) -> str:
    """Input, outline and both arms' maps of chosen validation images of the first run."""
    run = one.runs[0]
    shown: Sequence[Mapping[str, Any]] = run.result.get("wall", ())
    if not shown:
        return ""
    multilabel = run.result["data"]["multilabel"]
    under = (
        "The best and the worst are chosen by the mean gain over an image's classes; shown is the class that gained"
        " most (best), lost most (worst), or comes first (at random). Under each that class, then its probability in"
        " each arm"
        if multilabel
        else "Under each the true class, then each arm's prediction with its probability, underlined where it is wrong"
    )
    measure = "the share of that true class's map inside the object (energy), or its entropy where none is known,"
    seed = f" of seed {run.seed}" if len(one.runs) > 1 else ""
    if run.seed != run.config.seed:
        seed += f", drawn by seed {run.config.seed}"
    parts = [
        f"<h2>Maps side by side</h2><p>Validation images{seed}. {under}, {measure} and the map's peak as a multiple"
        " of uniform attention. The blue line is the object. Colour is the logarithm of the attention, from uniform"
        " (dark) to the higher of the two peaks (bright): in one image the same colour is the same share of attention"
        " in both maps.</p>"
    ]
    for why, words in WHY.items():
        figures = "".join(
            _figure(run.folder, entry, multilabel)
            for entry in shown
            if entry["why"] == why and (run.folder / entry["file"]).is_file()
        )
        before = "measuring" if "trained_seed" in run.result else "training"
        by = f", by {run.result['wall_by']}" if why != "random" else f", chosen before {before}"
        if figures:
            parts.append(f'<h3>{words}{by}</h3><div class="wall">{figures}</div>')
    return "".join(parts)


def _figure(folder: Path, entry: Mapping[str, Any], multilabel: bool) -> str:
    truth = entry["truth"]
    captions, spoken = [html.escape(truth)], []
    for arm in (BASELINE, REGULARISED):
        part = entry[arm]
        probability = math.nan if part["probability"] is None else part["probability"]
        text = f"{part['predicted']} {probability:.0%}"
        wrong = part["predicted"] != truth and not multilabel
        shown = f'<span class="wrong">{html.escape(text)}</span>' if wrong else html.escape(text)
        figures = _figures(part)
        captions.append(f"{shown}<br>{figures}")
        spoken.append(f"{arm}: {text}{', wrong' if wrong else ''}, {figures}")
    image = embedded_image(
        folder / entry["file"], f"{truth}. Input, baseline map, regularised map. {'. '.join(spoken)}"
    )
    return (
        '<figure><div class="heads" aria-hidden="true"><span>input</span><span>baseline</span><span>regularised</span>'
        f'</div>{image}<div class="captions">{"".join(f"<span>{text}</span>" for text in captions)}</div></figure>'
    )


def _figures(part: Mapping[str, Any]) -> str:
    """Where a map lies, or how large it is if that is not known, and its peak."""
    if not part["peak"]:
        return "dead map"
    told = (("energy", part.get("energy_in_mask")), ("entropy", part.get("entropy")))
    where = next(
        (f"{name} {abs(value):.2f}, " for name, value in told if value is not None and math.isfinite(value)), ""
    )
    return f"{where}peak {part['peak']:.0f} x"


# ---- tables


def comparison_table(one: Summary) -> str:
    both = any(math.isfinite(row.both_right.estimate) for rows in one.rows.values() for row in rows)
    spare = '<th scope="col" class="spare">{}</th>'
    heading = [
        "",
        "baseline",
        "regularised",
        "difference<small>± 95 %</small>",
        "",
        spare.format("p, Holm"),
        *([spare.format("both right")] if both else []),
        spare.format("control"),
    ]
    bodies = ((family, [_line(row, both) for row in rows]) for family, rows in one.rows.items())
    return table(heading, bodies, "comparison", "indicators of both arms by family")


def _line(row: Row, both: bool) -> list[str]:
    right = row.both_right
    within = row.text(right.estimate, signed=True) + _under(right.margin, row) if math.isfinite(right.margin) else ""
    return [
        row_head(f"{row.indicator.label}<small>{html.escape(row.indicator.meaning)}</small>"),
        cell(row.text(row.baseline)),
        cell(row.text(row.regularised)),
        cell(row.text(row.difference, signed=True) + _under(row.interval.margin, row)),
        cell(said(row.verdict), "word"),
        cell(_chance(row.adjusted), "spare"),
        *([cell(within, "spare")] if both else []),
        cell(row.text(row.control) if math.isfinite(row.control) else "", "spare"),
    ]


def _under(margin: float, row: Row) -> str:
    """The margin below its difference."""
    return f'<small class="margin">± {row.text(margin)}</small>' if math.isfinite(margin) else ""


def _chance(p: float) -> str:
    if not math.isfinite(p):
        return ""
    return f"{p:.3f}" if p >= 0.0005 else "&lt; 0.001"


def about_table(one: Summary) -> str:
    """How to read it."""
    power = [run.result["control"]["power"] for run in one.runs if "control" in run.result]
    several = len(one.runs) > 1
    over = "seeds, and images within them (hierarchical bootstrap)" if several else "the images of this run"
    parts = [
        "Indicators of the map are means over the validation images, of the true class's map of the logit, in both"
        " arms and whatever score was trained. Dead maps count in the dead rate and as misses in plausibility, and are"
        " left out elsewhere."
        " A difference is that of the images known in both arms, so that it need not be that of the two means beside"
        " it; nor if images have several classes, whose mean it takes."
        f" The 95 % intervals are over {over}; p is that of no difference, adjusted for the number of indicators"
        " (Holm), and better or worse is said where it is below 0.05 and the figures differ by 1 % at least. Both"
        " right: the difference over the images that both arms classify rightly.",
    ]
    counts = one.runs[0].config.evaluate
    parts.append(
        f" Faithfulness is measured on {counts.faithfulness_images} of the images at most, ROAD on"
        f" {counts.road_images}, sanity on {counts.sanity_images}."
    )
    if power:
        mean = sum(power) / len(power)
        parts.append(
            f" Control: the baseline's maps raised to the power {mean:.2f}{' (mean)' if several else ''}, which gives"
            " them the regularised arm's mean entropy without any training."
        )
    return html.escape("".join(parts))


SIZE_LABELS = {tag: KNOWN[f"cam/{tag}"].label for tag in SIZED}


def by_size(one: Summary) -> str:
    """Plausibility by the object's size, beside two maps that know nothing of the image."""
    tables = [run.result.get("by_size") or [] for run in one.runs]
    if not all(tables):
        return ""
    names = {BASELINE: "baseline", REGULARISED: "regularised", CONTROL: "control", UNIFORM: UNIFORM, CENTRED: CENTRED}
    bodies = []
    for lines in zip(*tables, strict=True):
        share = f"{_mean([line['from'] for line in lines]):.0%} to {_mean([line['to'] for line in lines]):.0%}"
        title = f"{lines[0]['size']} objects: {share} of the image" if lines[0]["size"] != "all" else "all"
        rows = [
            [
                row_head(html.escape(label)),
                *(cell(short(_mean([line[name][tag] for line in lines]))) for tag in SIZED),
            ]
            for name, label in names.items()
            if name in lines[0]
        ]
        bodies.append((title, rows))
    return (
        "<h2>By size, beside trivial maps</h2><p>Thirds of the images by the share that the object takes. A map that"
        " is uniform, and one that is a Gaussian in the middle of every image, show what these figures are worth:"
        " large objects in the middle are found by knowing nothing.</p>"
        + table(["", *SIZE_LABELS.values()], bodies, caption="plausibility by the object's size")
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def other_maps(one: Summary) -> str:
    lines = tables.other_maps(one.final)
    if not lines:
        return ""
    rows = [[row_head(html.escape(name)), *(cell(html.escape(text)) for text in rest)] for name, *rest in lines]
    return (
        f"<h2>{html.escape(tables.OTHER_MAPS)}</h2>"
        "<p>Like the trained: correlation with the trained map. At 1 it is the same map under another name, and says"
        " nothing new.</p>" + table(tables.MAP_HEADINGS, [("", rows)], caption="maps that were not trained")
    )


# ---- after the curves


def after_curves(one: Summary) -> str:
    parts = []
    settled = plots.settling(epochs(one))
    if settled:
        parts.append(
            "<h2>Settling</h2><p>Correlation of each epoch's maps with those of the last epoch, and of the epoch"
            " before, on the same images. Settled is what stays above the dotted line.</p>"
            f'<div class="plot">{settled}</div>'
        )
    sanity = [run.result["sanity"] for run in one.runs if "sanity" in run.result]
    if sanity:
        parts.append(
            "<h2>Sanity</h2><p>Correlation of the maps with those of the trained network while its weights are replaced"
            " by fresh ones, from the last layer to the first. A map that stays alike does not depend on what was"
            f' learnt.</p><div class="plot">{plots.randomised(sanity)}</div>'
        )
    return "".join(parts)


def timings(one: Summary) -> str:
    """How long it took, with which versions."""
    seconds = _mean([run.result["timing"]["seconds"] for run in one.runs])
    environment = one.runs[0].result["environment"]
    ratio = _mean([run.result["timing"].get("step_ratio") for run in one.runs])
    lines = [
        ("time", f"{seconds:.0f} s a run, training, measuring and saving"),
        ("step", f"regularised over baseline x {ratio:.2f}, medians over all epochs")
        if math.isfinite(ratio)
        else ("", ""),
        ("versions", ", ".join(f"{name} {text}" for name, text in environment.items())),
    ]
    return "<h2>Timing and versions</h2>" + facts(line for line in lines if line[0])


# ---- sweeps


def gap(one: Summary, arm: str) -> float:
    """How much better an arm is on its training images: overfitting, of which the paper warns."""
    tag = primary_tag(one.final[BASELINE])
    name = tag.partition("/")[0]
    return one.final[arm].get(f"{name}/train", math.nan) - one.final[arm][tag]


def front(summaries: Sequence[Summary], tag: str, performance: str) -> list[plots.Point]:
    """Both arms of every setting by an indicator and by how well they classify, and which of them none other beats.

    Args:
        summaries: the settings.
        tag: of the indicator, one that has a better direction.
        performance: tag of accuracy or mean average precision.
    """
    sign = 1 if KNOWN[tag].better == "higher" else -1
    points = []
    for number, one in enumerate(summaries, start=1):
        margins = {row.indicator.tag: row.interval.margin for rows in one.rows.values() for row in rows}
        for arm in (BASELINE, REGULARISED):
            across, up = (one.final[arm].get(name, math.nan) for name in (tag, performance))
            if math.isfinite(across) and math.isfinite(up):
                of_difference = (margins.get(tag, math.nan), margins.get(performance, math.nan))
                points.append(plots.Point(number, arm, across, up, of_difference, on_front=False))
    best = on_front([(sign * point.across, point.up) for point in points])
    return [point._replace(on_front=front) for point, front in zip(points, best, strict=True)]


def verdicts(summaries: Sequence[Summary]) -> str:
    """Which settings the rule calls more interpretable."""
    lines = []
    for outcome, words in VERDICTS.items():
        of_it = [number for number, one in enumerate(summaries, start=1) if one.claim.outcome is outcome]
        if of_it:
            links = ", ".join(f'<a href="#setting-{number}">{number}</a>' for number in of_it)
            verb = "is" if len(of_it) == 1 else "are"
            lines.append(f"<strong>{len(of_it)} of {len(summaries)} settings {verb} {words}</strong>: {links}.")
    claim = summaries[0].claim
    margins = f": {'; '.join(claim.changed)}" if claim.changed else ""
    lines.append(html.escape(f"Each setting is judged by itself, by {claim.rule}{margins}."))
    single = [number for number, one in enumerate(summaries, start=1) if len(one.runs) == 1]
    if single:
        links = ", ".join(f'<a href="#setting-{number}">{number}</a>' for number in single)
        lines.append(f"The chance of the seed is in no interval where there is one seed only: {links}.")
    lines.append(
        "The best of several is ahead by chance too: before you rely on it, repeat it with seeds that did not choose"
        " it."
    )
    text = "".join(f"<p>{line}</p>" for line in lines)
    return f'<div class="verdict" role="region" aria-label="verdict">{text}</div>'


def overview(summaries: Sequence[Summary]) -> str:
    """A line per setting, and the Pareto fronts."""
    tag = primary_tag(summaries[0].final[BASELINE])
    shown = [tag, "cam/entropy", "cam/energy_in_mask", "faithfulness/insertion", "cam/dead_rate"]
    labels = [KNOWN[name].label for name in shown]
    rows = []
    for number, one in enumerate(summaries, start=1):
        values = [
            html.escape(pair(one.final[BASELINE].get(name, math.nan), one.final[REGULARISED].get(name, math.nan)))
            for name in shown
        ]
        rows.append(
            [
                row_head(f'<a href="#setting-{number}">{number}</a> {html.escape(one.label)}', "long"),
                cell(str(len(one.runs))),
                cell(said(one.claim.outcome.value), "word"),
                *(cell(value) for value in values),
                cell(html.escape(pair(gap(one, BASELINE), gap(one, REGULARISED)))),
            ]
        )
    panels = [(f"{KNOWN[name].label} ({KNOWN[name].better} is better)", front(summaries, name, tag)) for name in FRONTS]
    panels = [(label, points) for label, points in panels if any(point.arm == REGULARISED for point in points)]
    heading = ["setting", "seeds", "claim", *labels, "overfitting"]
    fronts = (
        "<h2>Pareto fronts</h2><p>Circles are the regularised arms under their number in the table, squares their"
        " baselines. Filled and joined: no other point is as good in both figures and better in one. Bars, cut at the"
        " frame, are the 95 % intervals of the differences to the setting's own baseline; where one reaches that"
        " baseline's level, the difference may be chance. Settings are not tested against each other.</p>"
        f'<div class="plot">{plots.front(panels, KNOWN[tag].label)}</div>'
        if panels
        else ""
    )
    return (
        "<h2>Settings</h2><p>Baseline &gt; regularised, means over seeds. Overfitting is the gap between training and"
        " validation: a term that is pressed too hard may widen it.</p>"
        + table(heading, [("", rows)], "settings", caption="settings of the sweep")
        + fronts
    )
