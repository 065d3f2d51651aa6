"""The documents: links lead somewhere, commands are ones that camtrain takes, and the README stays short."""

from __future__ import annotations

import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path

import hydra
import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser

from camtrain.cli import CONF
from camtrain.config.arguments import jobs_to_check, prepared
from camtrain.config.hydra_store import register
from camtrain.metrics.catalogue import INDICATORS

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^(?: {4}|```).*$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings: in lower case, without punctuation, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """Arguments of the commands in a page's indented blocks, but for those with flags other than -m."""
    lines = re.findall(r"^ {4}camtrain (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if not any(word.startswith("-") for word in words if word != "-m")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} <= set(linked)


@pytest.mark.parametrize("words", [words for page in PAGES for words in commands(page)], ids=" ".join)
def test_commands_fit_the_schema(words: list[str]) -> None:
    parsed = OverridesParser.create().parse_overrides([word for word in prepared(words) if word != "-m"])
    assert "-m" in words or not any(override.is_sweep_override() for override in parsed), "several values without -m"
    overrides, *_ = jobs_to_check([str(override.input_line) for override in parsed], sweep=True)
    register()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        hydra.compose("config", overrides=overrides)


@pytest.mark.parametrize("name", ["report", "verdict"])
def test_all_rates_are_listed(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    rates = "; ".join(indicator.label for indicator in INDICATORS.values() if indicator.rate)
    assert f"({rates})" in " ".join(text.split())


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_examples_of_loops_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page's blocks one after the other; those of libraries that are not installed are left out."""
    text = (ROOT / "docs" / "your-own-loop.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        needed = re.findall(r"^(?:import|from) (lightning|transformers|timm)", block, re.MULTILINE)
        if all(find_spec(name) for name in needed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the trainers
                exec(compile(block, "your-own-loop.md", "exec"), names)
    figures = names["found"].figures  # type: ignore[attr-defined]
    assert figures["concentrated"]["cam/entropy"] < figures["plain"]["cam/entropy"]
    assert figures["concentrated"]["accuracy/val"] > 0.9
