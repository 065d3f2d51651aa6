"""report.html: one page without network access that says whether the network became more interpretable, and shows it.

The verdict comes first, then pictures, tables with intervals, curves, and how it was made. A single run, several seeds
and a sweep give the same page; a sweep begins with an overview and its Pareto fronts.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from camtrain import comparison, narration, plots
from camtrain.arm import BASELINE, REGULARISED
from camtrain.claim import Claim, Condition, told
from camtrain.closely import CENTRED, SIZED, UNIFORM
from camtrain.comparison import FAMILIES, Indicator, Row, performance, short
from camtrain.control import CONTROL
from camtrain.files import write_text
from camtrain.page import cell, facts, page, picture, row_head, said, table
from camtrain.pareto import on_front
from camtrain.summary import Summary
from camtrain.summary import notes as notes_on

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
    warned = warnings(notes)
    if len(summaries) == 1:
        body = f"<h1>{say(title)}</h1>{section(summaries[0], warned)}"
    else:
        parts = "".join(
            f'<details id="setting-{number}"><summary>{number}: {say(one.label)}, {_seeds(one)}</summary>'
            f"{section(one, warnings(notes_on(one)))}</details>"
            for number, one in enumerate(summaries, start=1)
        )
        body = f"<h1>{say(title)}</h1>{warned}{overview(summaries)}<h2>Each setting</h2>{parts}"
    write_text(path, page(title, body))


def warnings(notes: Sequence[str]) -> str:
    return "".join(f'<p class="warning" role="note">{html.escape(note[0].upper() + note[1:])}</p>' for note in notes)


def section(one: Summary, warned: str) -> str:
    """All that is told of one setting."""
    first = one.runs[0]
    return f"""{verdict(one)}
{warned}
{facts(introduction(one))}
{wall(one)}
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
    lines = list(narration.introduction(first.result, first.config))
    seeds = ("seeds", ", ".join(map(str, one.seeds))) if len(one.runs) > 1 else ("seed", str(one.seeds[0]))
    return [*lines, seeds]


def epochs(one: Summary) -> list[Mapping[str, Sequence[Mapping[str, Any]]]]:
    """Of each run and arm, the figures of every epoch."""
    return [{arm: part["epochs"] for arm, part in run.result["arms"].items()} for run in one.runs]


# ---- verdict


def verdict(one: Summary) -> str:
    first, *lines = told(one.claim, one.seeds)
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
    over = "seeds and pictures" if runs > 1 else "the pictures of this run"
    return (
        "<h2>The rule</h2>"
        "<p>A network is called more interpretable only if every condition holds over its whole 95 % interval, here"
        f" over {over}. As all must hold, none needs a correction for their number; better and worse in the comparison"
        " below have one. A share of pictures, such as the dead rate, is known to 3.84 / (n + 3.84) at best, also where"
        " none of n pictures changes it. The last part is not needed for the claim: it compares with the baseline's"
        " maps raised to the power that gives them the regularised arm's entropy. A tick is a condition met, a cross"
        " one that the interval contradicts, a question mark one that it leaves open.</p>"
        + table(heading, parts.items(), caption="conditions of the claim")
    )


def interval_text(condition: Condition) -> str:
    found = condition.found
    if not math.isfinite(found.estimate):
        return "-"
    margin = f" ± {found.margin:.3f}" if math.isfinite(found.margin) else ""
    return f"{found.estimate:+.3f}{margin}"


# ---- pictures


WHY = {"best": "Largest gain", "worst": "Smallest gain, or largest loss", "random": "At random"}


def wall(one: Summary) -> str:
    """Input, outline and both arms' maps of chosen validation pictures of the first run."""
    run = one.runs[0]
    shown: Sequence[Mapping[str, Any]] = run.result.get("wall", ())
    if not shown:
        return ""
    multilabel = run.result["data"]["multilabel"]
    under = (
        "Under each the first of its true classes, whose maps these are, then that class's probability in each arm"
        if multilabel
        else "Under each the true class, then each arm's prediction with its probability, underlined where it is wrong"
    )
    seed = f" of seed {run.config.seed}" if len(one.runs) > 1 else ""
    parts = [
        f"<h2>Maps side by side</h2><p>Validation pictures{seed}. {under}, and the peak of its map as a multiple of"
        " uniform attention. The blue line is the object. Colour is the logarithm of the attention, from uniform (dark)"
        " to the higher of the two peaks (bright): in one picture the same colour is the same share of attention in"
        " both maps.</p>"
    ]
    for why, words in WHY.items():
        figures = "".join(
            _figure(run.folder, entry, multilabel)
            for entry in shown
            if entry["why"] == why and (run.folder / entry["file"]).is_file()
        )
        by = f", by {run.result['wall_by']}" if why != "random" else ", chosen before training"
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
        peak = f"peak {part['peak']:.0f} x" if part["peak"] else "dead map"
        captions.append(f"{shown}<br>{peak}")
        spoken.append(f"{arm}: {text}{', wrong' if wrong else ''}, {peak}")
    image = picture(folder / entry["file"], f"{truth}. Input, baseline map, regularised map. {'. '.join(spoken)}")
    return (
        '<figure><div class="heads" aria-hidden="true"><span>input</span><span>baseline</span><span>regularised</span>'
        f'</div>{image}<div class="captions">{"".join(f"<span>{text}</span>" for text in captions)}</div></figure>'
    )


# ---- tables


def comparison_table(one: Summary) -> str:
    both = any(math.isfinite(row.both_right.estimate) for rows in one.rows.values() for row in rows)
    spare = '<th scope="col" class="spare">{}</th>'
    heading = [
        "",
        "baseline",
        "regularised",
        "difference",
        "",
        *(spare.format(name) for name in ("± 95 %", "p, Holm")),
        *([spare.format("both right")] if both else []),
        spare.format("control"),
    ]
    bodies = ((family, [_line(row, both) for row in rows]) for family, rows in one.rows.items())
    return table(heading, bodies, "comparison", "indicators of both arms by family")


def _line(row: Row, both: bool) -> list[str]:
    right = row.both_right
    within = (
        f"{row.text(right.estimate, signed=True)} ± {row.text(right.margin)}" if math.isfinite(right.margin) else ""
    )
    return [
        row_head(f"{row.indicator.label}<small>{html.escape(row.indicator.meaning)}</small>"),
        cell(row.text(row.baseline)),
        cell(row.text(row.regularised)),
        cell(row.text(row.difference, signed=True)),
        cell(said(row.verdict), "word"),
        cell(row.text(row.interval.margin) if math.isfinite(row.interval.margin) else "", "spare"),
        cell(_chance(row.adjusted), "spare"),
        *([cell(within, "spare")] if both else []),
        cell(row.text(row.control) if math.isfinite(row.control) else "", "spare"),
    ]


def _chance(p: float) -> str:
    if not math.isfinite(p):
        return ""
    return f"{p:.3f}" if p >= 0.0005 else "&lt; 0.001"


def about_table(one: Summary) -> str:
    """How to read it."""
    power = [run.result["control"]["power"] for run in one.runs if "control" in run.result]
    several = len(one.runs) > 1
    over = "seeds, and pictures within them (hierarchical bootstrap)" if several else "the pictures of this run"
    parts = [
        "Indicators of the map are means over the validation pictures, of the true class's map of the logit, in both"
        " arms and whatever score was trained. Dead maps are left out of concentration and of the mass at the border,"
        " and count as misses in plausibility."
        f" The 95 % intervals are over {over}; p is that of no difference, adjusted for the number of indicators"
        " (Holm), and better or worse is said where it is below 0.05 and the figures differ by 1 % at least. Both"
        " right: the difference over the pictures that both arms classify rightly.",
    ]
    counts = one.runs[0].config.evaluate
    parts.append(
        f" Faithfulness is that of {counts.faithfulness_pictures} of the pictures at most, ROAD of"
        f" {counts.road_pictures}, sanity of {counts.sanity_pictures}."
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
    """Plausibility by the object's size, beside two maps that know nothing of the picture."""
    tables = [run.result.get("by_size") or [] for run in one.runs]
    if not all(tables):
        return ""
    names = {BASELINE: "baseline", REGULARISED: "regularised", CONTROL: "control", UNIFORM: UNIFORM, CENTRED: CENTRED}
    bodies = []
    for lines in zip(*tables, strict=True):
        share = f"{_mean([line['from'] for line in lines]):.0%} to {_mean([line['to'] for line in lines]):.0%}"
        title = f"{lines[0]['size']} objects: {share} of the picture" if lines[0]["size"] != "all" else "all"
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
        "<h2>By size, beside trivial maps</h2><p>Thirds of the pictures by the share that the object takes. A map that"
        " is uniform, and one that is a Gaussian in the middle of every picture, show what these figures are worth:"
        " large objects in the middle are found by knowing nothing.</p>"
        + table(["", *SIZE_LABELS.values()], bodies, caption="plausibility by the object's size")
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def other_maps(one: Summary) -> str:
    lines = comparison.of_other_maps(one.final)
    if not lines:
        return ""
    rows = [[row_head(html.escape(name)), *(cell(html.escape(text)) for text in rest)] for name, *rest in lines]
    return (
        f"<h2>{html.escape(comparison.OTHER_MAPS)}</h2>"
        "<p>Like the trained: correlation with the trained map. At 1 it is the same map under another name, and says"
        " nothing new.</p>" + table(comparison.MAP_HEADINGS, [("", rows)], caption="maps that were not trained")
    )


# ---- after the curves


def after_curves(one: Summary) -> str:
    parts = []
    settled = plots.settling(epochs(one))
    if settled:
        parts.append(
            "<h2>Settling</h2><p>Correlation of each epoch's maps with those of the last epoch, and of the epoch"
            " before, on the same pictures. Settled is what stays above the dotted line.</p>"
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
        ("step", f"regularised over baseline x {ratio:.2f}") if math.isfinite(ratio) else ("", ""),
        ("versions", ", ".join(f"{name} {text}" for name, text in environment.items())),
    ]
    return "<h2>Timing and versions</h2>" + facts(line for line in lines if line[0])


# ---- sweeps


def _seeds(one: Summary) -> str:
    return f"{len(one.runs)} seed{'s' * (len(one.runs) > 1)}"


def gap(one: Summary, arm: str) -> float:
    """How much better an arm is on its training pictures: overfitting, of which the paper warns."""
    tag = performance(one.final[BASELINE])
    name = tag.partition("/")[0]
    return one.final[arm].get(f"{name}/train", math.nan) - one.final[arm][tag]


def overview(summaries: Sequence[Summary]) -> str:
    """A line per setting, and the Pareto fronts."""
    tag = performance(summaries[0].final[BASELINE])
    shown = [tag, "cam/entropy", "cam/energy_in_mask", "faithfulness/insertion", "cam/dead_rate"]
    labels = [KNOWN[name].label for name in shown]
    rows = []
    for number, one in enumerate(summaries, start=1):
        values = [
            f"{short(one.final[BASELINE].get(name, math.nan))} &gt; {short(one.final[REGULARISED].get(name, math.nan))}"
            for name in shown
        ]
        rows.append(
            [
                row_head(f'<a href="#setting-{number}">{number}</a> {html.escape(one.label)}', "long"),
                cell(str(len(one.runs))),
                cell(said(one.claim.outcome.value), "word"),
                *(cell(value) for value in values),
                cell(f"{short(gap(one, BASELINE))} &gt; {short(gap(one, REGULARISED))}"),
            ]
        )
    panels = []
    for name in FRONTS:
        indicator: Indicator = KNOWN[name]
        pairs = [(one.final[REGULARISED].get(name, math.nan), one.final[REGULARISED][tag]) for one in summaries]
        if not any(math.isfinite(across) for across, _ in pairs):
            continue
        sign = 1 if indicator.better == "higher" else -1
        best = on_front([(sign * across, up) for across, up in pairs])
        points = [
            plots.Point(
                number, across, up, one.final[BASELINE].get(name, math.nan), one.final[BASELINE][tag], best[number - 1]
            )
            for number, ((across, up), one) in enumerate(zip(pairs, summaries, strict=True), start=1)
            if math.isfinite(across)
        ]
        panels.append((f"{indicator.label} ({indicator.better} is better)", points))
    heading = ["setting", "seeds", "claim", *labels, "overfitting"]
    fronts = (
        "<h2>Pareto fronts</h2><p>Circles are the regularised arms under their number in the table, filled where no"
        " other setting is at least as good in both figures; squares are their baselines.</p>"
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
