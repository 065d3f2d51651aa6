"""Building blocks of report.html: tables as data, and pages from templates that load nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

TEMPLATES = Environment(
    loader=PackageLoader("camtrain.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Cell(NamedTuple):
    """A cell of a table; all text is escaped when it is rendered."""

    text: str = ""
    kind: str = ""  # classes of the style sheet
    small: str = ""  # below the text
    setting: int = 0  # number of a setting, as a link before the text
    signs: Sequence[tuple[str, str]] = ()  # after the text: names, and words such as "shown", with their signs
    show: str = ""  # token of images, to which the text is a link


class Table(NamedTuple):
    caption: str  # for those who cannot see it
    head: Sequence[Cell]
    # A name ("" for none) and rows, whose first cell names them.
    groups: Sequence[tuple[str | Cell, Sequence[Sequence[Cell]]]]
    kind: str = ""  # class of the style sheet


class Part(NamedTuple):
    """A treatment's table; without a heading where there is one treatment only."""

    heading: str
    table: Table
    treatment: str = ""
    power: str = ""  # of the baseline sharpened to the treatment's entropy
    power_area: str = ""  # of that sharpened to its area


def said(word: str) -> Cell:
    """A verdict with its sign."""
    return Cell(kind="word", signs=[("", word)] if word else ())


def render(template: str, **content: object) -> str:
    """A template with its content."""
    return TEMPLATES.get_template(template).render(**content)


def embedded_image(path: Path) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
