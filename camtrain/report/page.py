"""Building blocks of report.html: its style, and tables and images as HTML that loads nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --accent: #d1560b; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { max-width: 46rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; margin-top: .6rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.verdict { border: 2px solid var(--line); border-left: 6px solid var(--accent); border-radius: 4px;
  padding: .6rem 1rem; margin: 1rem 0; }
.verdict p { margin: .2rem 0; } .verdict strong { font-size: 1.15rem; }
.warning { border-left: 4px solid var(--accent); background: var(--soft); padding: .5rem .9rem; margin: .5rem 0; }
.scroll { overflow-x: auto; position: relative; background:
  linear-gradient(to right, Canvas 40%, transparent) left / 2.4rem 100% no-repeat local,
  linear-gradient(to left, Canvas 40%, transparent) right / 2.4rem 100% no-repeat local,
  linear-gradient(to right, #8889, transparent) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, #8889, transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td.word, th.word { text-align: left; }
.long { white-space: normal; min-width: 9rem; }
tbody th[scope="row"] { font-weight: normal; }
.family th { font-size: .85rem; opacity: .75; padding-top: 1rem; }
td small, th small { display: block; opacity: .7; }
th[scope="row"] small { white-space: normal; min-width: 11rem; }
.comparison { font-size: .92rem; }
.settings { font-size: .88rem; } .settings :is(th, td) { padding: .3rem .4rem; } .settings .long { min-width: 6rem; }
.better::before, .met::before { content: "\\2713  "; } .worse::before, .failed::before { content: "\\2717  "; }
.open::before { content: "?  "; } .not::before { content: "\\2013  "; }
.dead::before { content: "\\2020  "; } .worse, .failed { font-weight: 600; }
.wall { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; border-radius: 4px; }
.heads, .captions { display: grid; grid-template-columns: repeat(3, 1fr); font-size: .8rem; text-align: center; }
.wrong { text-decoration: underline wavy var(--accent); }
.plot svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; font-weight: 600; margin-top: 2rem; }
@media (max-width: 40rem) { th[scope="row"] small { display: none; }
  th, td { padding: .25rem .35rem; font-size: .82rem; }
  .aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .long { min-width: 6rem; }
  .comparison :is(th, td).spare { display: none; } .facts { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  .plot { overflow-x: auto; } .plot svg { min-width: 34rem; } }
@media print { body { max-width: none; font-size: 11pt; } .wall { grid-template-columns: 1fr 1fr; }
  figure, tr, .plot { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; } }
"""


def page(title: str, body: str) -> str:
    """A whole document."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
{body}
</body></html>
"""


def facts(lines: Iterable[tuple[str, str]]) -> str:
    """Labelled lines; one without a label belongs to the one before."""
    items = "".join(f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>" for label, text in lines)
    return f'<dl class="facts">{items}</dl>'


def cell(text: str, kind: str = "") -> str:
    """A cell of a table; the text is HTML."""
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def row_head(text: str, kind: str = "") -> str:
    """The first cell of a row, which names it; the text is HTML."""
    return f'<th scope="row" class="{kind}">{text}</th>' if kind else f'<th scope="row">{text}</th>'


def said(word: str) -> str:
    """A verdict with its sign, which does not hang on colour."""
    if not word:
        return ""
    return f'<span class="{word.partition(" ")[0]}"><span class="aloud">{html.escape(word)}</span></span>'


def table(
    heading: Sequence[str], bodies: Iterable[tuple[str, Iterable[Sequence[str]]]], kind: str = "", caption: str = ""
) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        heading: names of the columns, HTML.
        bodies: name of a group of rows ("" for none), and the rows, whose cells are finished `<td>` elements.
        kind: class of the table.
        caption: for those who cannot see it.
    """
    head = "".join(name if name.startswith("<th") else f'<th scope="col">{name}</th>' for name in heading)
    parts = []
    for name, rows in bodies:
        group = f'<tr class="family"><th scope="rowgroup" colspan="{len(heading)}">{html.escape(name)}</th></tr>'
        lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
        parts.append(f"<tbody>{group if name else ''}{lines}</tbody>")
    label = f' aria-label="{html.escape(caption, quote=True)}"' if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region"{label}><table class="{kind}"{label}>'
        f"<thead><tr>{head}</tr></thead>{''.join(parts)}</table></div>"
    )


def embedded_image(path: Path, alternative: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alternative, quote=True)}" src="data:image/png;base64,{data}">'
