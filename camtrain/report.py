"""report.html: one page without network access - table, pictures side by side, curves of both arms, configuration."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from PIL import Image

from camtrain import comparison
from camtrain.arm import BASELINE, REGULARISED
from camtrain.drawing import Drawn, Pixels, strip
from camtrain.files import write_text

ARM_COLOURS = {BASELINE: "#4c5a6b", REGULARISED: "#d1560b"}
ARM_DASHES = {BASELINE: (4, 2), REGULARISED: (None, None)}

CURVES = (
    ("accuracy/val", "accuracy"),
    ("average_precision/val", "mean average precision"),
    ("cam/entropy", "entropy, nats"),
    ("cam/area", "elliptical area, cells"),
    ("cam/energy_in_mask", "energy in mask"),
    ("cam/dead_rate", "dead rate"),
    ("loss/classification", "classification loss"),
)

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; margin-top: .6rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #d1560b; background: var(--soft); padding: .5rem .9rem; margin: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td.word { text-align: left; }
.family th { font-size: .85rem; opacity: .75; padding-top: 1rem; }
td small { display: block; opacity: .7; white-space: normal; min-width: 12rem; }
.better::before { content: "\\2713  "; } .worse::before { content: "\\2717  "; } .worse { font-weight: 600; }
.wall { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; border-radius: 4px; }
.heads, .captions { display: grid; grid-template-columns: repeat(3, 1fr); font-size: .8rem; text-align: center; }
.wrong { text-decoration: underline wavy #d1560b; }
.curves svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem; }
@media (max-width: 40rem) { td small { display: none; } th, td { padding: .25rem .35rem; font-size: .82rem; }
  .comparison :is(th, td):nth-child(4), .comparison :is(th, td):nth-child(5) { display: none; } }
@media print { body { max-width: none; } .wall { grid-template-columns: 1fr 1fr; } figure, tr { break-inside: avoid; } }
"""


def write(
    path: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    final: Mapping[str, comparison.Figures],
    within: comparison.Figures,
    epochs: Mapping[str, Sequence[comparison.Figures]],
    drawn: Sequence[Drawn],
    warnings: Sequence[str],
    config: str,
) -> None:
    """Write the page.

    Args:
        path: of the file.
        title: heading.
        facts: labelled lines about data, network and run.
        final: last figures of each arm.
        within: margins of their differences.
        epochs: of each arm, the figures of every epoch.
        drawn: validation pictures with their maps.
        warnings: sentences that stand above everything else.
        config: the configuration as YAML.
    """
    say = html.escape
    about = "".join(f"<dt>{say(label)}</dt><dd>{say(text)}</dd>" for label, text in facts)
    notes = "".join(f'<p class="warning" role="note">{say(text[0].upper() + text[1:])}</p>' for text in warnings)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{say(title)}</title><style>{STYLE}</style></head><body>
<h1>{say(title)}</h1><dl class="facts">{about}</dl>
{notes}
<h2>Comparison</h2>
<div class="scroll">{_table(final, within)}</div>
{_other_maps(final)}
<p>Indicators of the map are means over the validation pictures, of the true class's map of the logit, in both arms and
whatever score was trained. Dead maps are left out of concentration and of the mass at the border, and count as misses
in energy in mask and pointing. The 95 % interval is over these pictures, which both arms saw; a difference inside it is
called neither better nor worse. One run is one seed, whose chance is not in it: repeat it with <code>seed=0,1,2</code>
before believing a small difference.</p>
{_wall(drawn, comparison.performance(final[BASELINE]) == "average_precision/val")}
<h2>Curves</h2>
<div class="curves">{_curves(epochs)}</div>
<h2>Configuration</h2>
<pre>{say(config)}</pre>
</body></html>
"""
    write_text(path, page)


def _table(final: Mapping[str, comparison.Figures], within: comparison.Figures) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in comparison.HEADINGS)
    parts = []
    for family, rows in comparison.rows(final, within).items():
        name = f'<th scope="rowgroup" colspan="{len(comparison.HEADINGS)}">{family}</th>'
        body = [f'<tr class="family">{name}</tr>']
        for row in rows:
            label, *numbers, verdict = comparison.cells(row)
            meaning = f"<small>{html.escape(row.indicator.meaning)}</small>"
            cells = "".join(f"<td>{number}</td>" for number in numbers)
            said = f'<span class="{verdict.partition(" ")[0]}">{verdict}</span>'
            body.append(f'<tr><td>{label}{meaning}</td>{cells}<td class="word">{said}</td></tr>')
        parts.append(f"<tbody>{''.join(body)}</tbody>")
    return f'<table class="comparison"><thead><tr>{head}</tr></thead>{"".join(parts)}</table>'


def _other_maps(final: Mapping[str, comparison.Figures]) -> str:
    lines = comparison.of_other_maps(final)
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in comparison.MAP_HEADINGS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return (
        f"<h2>{html.escape(comparison.OTHER_MAPS)}</h2>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _wall(drawn: Sequence[Drawn], multilabel: bool) -> str:
    if not drawn:
        return ""
    figures = []
    for picture in drawn:
        captions = [html.escape(picture.truth)]
        for arm in (BASELINE, REGULARISED):
            said = html.escape(f"{picture.predicted[arm]} {picture.probability[arm]:.0%}")
            if picture.predicted[arm] != picture.truth:
                said = f'<span class="wrong">{said}</span>'
            peak = float(picture.density[arm].max())
            captions.append(f"{said}<br>{f'peak {peak:.0f} x' if peak else 'dead map'}")
        alternative = f"{picture.truth}: input, baseline map, regularised map"
        png = _png(strip(picture, (BASELINE, REGULARISED)))
        figures.append(
            f'<figure><div class="heads"><span>input</span><span>baseline</span><span>regularised</span></div>'
            f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{png}">'
            f'<div class="captions">{"".join(f"<span>{text}</span>" for text in captions)}</div></figure>'
        )
    said = (
        "Under each the first of its true classes, whose maps these are, then that class's probability in each arm"
        if multilabel
        else "Under each the true class, then each arm's prediction with its probability, underlined where it is wrong"
    )
    return f"""<h2>Maps side by side</h2>
<p>Validation pictures chosen at random before training. {said}, and the peak of its map as a multiple of uniform
attention. The blue line is the object. Colour is the logarithm of the attention, from uniform (dark) to the higher of
the two peaks (bright): in one picture the same colour is the same share of attention in both maps.</p>
<div class="wall">{"".join(figures)}</div>"""


def _png(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _curves(epochs: Mapping[str, Sequence[comparison.Figures]]) -> str:
    shown = [
        (tag, label)
        for tag, label in CURVES
        if any(math.isfinite(row.get(tag, math.nan)) for rows in epochs.values() for row in rows)
    ]
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "camtrain"}):
        figure = Figure(figsize=(9, 2.5 * math.ceil(len(shown) / 3)), layout="constrained")
        for number, (tag, label) in enumerate(shown, start=1):
            axes = figure.add_subplot(math.ceil(len(shown) / 3), 3, number)
            for arm, rows in epochs.items():
                at = range(1, len(rows) + 1)
                values = [row.get(tag, math.nan) for row in rows]
                marker = "o" if len(rows) == 1 else None
                axes.plot(at, values, color=ARM_COLOURS[arm], dashes=ARM_DASHES[arm], label=arm, lw=1.8, marker=marker)
            axes.set_title(label, fontsize=10)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(FixedLocator([1]) if marker else MaxNLocator(integer=True))
        figure.axes[0].legend(frameon=False)
        for axes in figure.axes[-3:]:
            axes.set_xlabel("epoch")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": "Curves of both arms over the epochs"})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
