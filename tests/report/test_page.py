"""The page by itself: it loads nothing, can be read without its script, and what the script does in a browser."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import subprocess
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from report.three import three_arms
from runs.made import TWO, made_run

from camtrain.analysis.over_seeds import Run, notes, summarise
from camtrain.config.schema import ReportConfig
from camtrain.report import browser, build, subsets

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def classified() -> Run:
    """Six images of three classes; the treatment is right where the reference is, and in one more."""
    run = made_run(0, TWO, 6)
    right = {"baseline": [1, 1, 0, 0, 1, 0], "regularised": [1, 1, 1, 0, 1, 0]}
    each = {name: dict(tags) for name, tags in run.each.items()}
    for arm, values in right.items():
        each[arm]["accuracy/val"] = torch.tensor(values, dtype=torch.float64)
        each[arm]["cam/entropy"] = torch.tensor([1.0, 2.0, 3.0, math.nan, 5.0, 6.0], dtype=torch.float64)
    names = ["disc", "ring", "ring", "disc", "disc", "ring"]
    return replace(run, result=replace(run.result, data=replace(run.result.data, val=6)), each=each, classes=names)


def rows_of(found: Any) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for _, rows in found.groups for row in rows}


def test_means_of_subsets_by_hand() -> None:
    one = summarise("", [classified()], ReportConfig())
    found = subsets.table(one, {"class-1": 2})
    assert found is not None
    assert [cell.text for cell in found.head[:4]] == ["", "images", "accuracy", "entropy, nats"]
    rows = {name: cells[:3] for name, cells in rows_of(found).items()}
    assert rows == {
        "disc": ["3", "0.667 > 0.667", "3.000 > 3.000"],  # one of its maps is dead
        "ring": ["3", "0.333 > 0.667", "3.667 > 3.667"],
        "right in all": ["3", "1.000 > 1.000", "2.667 > 2.667"],
        "wrong in baseline alone": ["1", "0.000 > 1.000", "3.000 > 3.000"],
        "wrong in all": ["2", "0.000 > 0.000", "6.000 > 6.000"],
    }
    links = {row[0].text: row[0].show for _, group in found.groups for row in group}
    assert {name: token for name, token in links.items() if token} == {"ring": "class-1"}, (
        "the gallery shows these alone"
    )


def test_subsets_need_the_classes_of_the_images() -> None:
    assert subsets.table(summarise("", [replace(classified(), classes=())], ReportConfig()), {}) is None


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    run = three_arms(place / "run", 0)
    names = [run.result.data.classes[number % 3] for number in range(run.result.data.val)]
    one = summarise("", [replace(run, classes=names)], ReportConfig())
    build.write(place / "page.html", "title", [one], notes(one))
    return place / "page.html"


def test_the_page_loads_nothing_and_is_whole_without_its_script(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"<(?:link|iframe|object)\b|<script[^>]+src|@import|url\((?!#)", text)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', text))
    assert text.count("<script>") == 1
    without = text[: text.index("<script>")]
    assert re.search(r'<form class="controls"[^>]* hidden>', without), "what only the script can serve does not show"
    assert "copy as" not in without
    assert without.count("<figure") == without.count("<img")
    for target in re.findall(r'href="#([^"]+)"', without):
        assert f'id="{target}"' in without


def test_choices_are_those_that_some_image_has(page: Path) -> None:
    text = page.read_text()
    tokens = {token for given in re.findall(r'data-tokens="([^"]*)"', text) for token in given.split()}
    offered = {value for value in re.findall(r'<option value="([^"]+)"', text) if not re.fullmatch(r"-?\d+", value)}
    assert offered <= tokens
    assert {"class-0", "class-2"} <= tokens
    sorts = text.count("</option>", text.index("data-sort"), text.index("data-order")) - 1
    assert {len(given.split()) for given in re.findall(r'data-values="([^"]*)"', text)} == {sorts}


TRY = """<script>
const copies = [], said = {};
copied = async (text) => { copies.push(text); return true; };
const section = document.querySelector(".images"), output = section.querySelector("output");
const shown = () => [...section.querySelectorAll("figure")].filter((each) => !each.hidden && !each.closest("[hidden]"));
const choose = (name, value) => {
  const select = section.querySelector(name);
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
};
said.all = [shown().length, output.textContent];
choose("[data-filter]", "class-0");
said.filtered = [shown().map((each) => each.dataset.tokens.includes("class-0")), output.textContent];
section.querySelector("form").reset();
setTimeout(() => {
  said.reset = shown().length;
  const values = () => [...section.querySelectorAll(".wall")].map(
    (wall) => [...wall.children].map((each) => parseFloat(each.dataset.values.split(" ")[1])));
  choose("[data-sort]", "1");
  said.falling = values();
  choose("[data-order]", "1");
  said.rising = values();
  const link = document.querySelector("[data-show]");
  link.click();
  said.link = [link.dataset.show, shown().every((each) => each.dataset.tokens.includes(link.dataset.show)),
    document.activeElement === section.querySelector("h2")];
  for (const button of document.querySelectorAll(".copy button")) button.click();
  setTimeout(() => {
    said.status = [...new Set([...document.querySelectorAll(".copy output")].map((each) => each.textContent))];
    said.copies = copies;
    document.body.innerHTML = "<pre></pre>";
    document.querySelector("pre").textContent = JSON.stringify(said);
  }, 100);
}, 100);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: what the page's script does was not tried")
def test_what_the_script_does(page: Path, tmp_path: Path) -> None:
    tried = tmp_path / "tried.html"
    tried.write_text(page.read_text().replace("</body>", TRY))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    own = (f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", tried.as_uri())
    done = subprocess.run([str(CHROMIUM), *flags, *own], capture_output=True, text=True, check=True)
    said = json.loads(html.unescape(re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[0]))
    count = page.read_text().count("<figure")
    assert said["all"] == [count, f"{count} of {count} images"]
    disc, words = said["filtered"]
    assert 0 < len(disc) < count
    assert all(disc)
    assert words == f"{len(disc)} of {count} images"
    assert said["reset"] == count
    for falling, rising in zip(said["falling"], said["rising"], strict=True):
        assert falling == sorted(falling, reverse=True)
        assert rising == sorted(falling)
    assert said["link"][1:] == [True, True]
    assert set(said["status"]) == {"copied as LaTeX"}
    as_csv, as_latex = said["copies"][4:6]  # of the first comparison, behind the rule of two treatments
    rows = list(csv.reader(as_csv.splitlines()))
    assert len({len(row) for row in rows}) == 1
    assert rows[0][:4] == ["", "baseline", "regularised", "difference ± 95 %"]
    (entropy,) = (row for row in rows if row[0] == "entropy, nats")
    assert float(entropy[2]) - float(entropy[1]) == pytest.approx(float(entropy[3].split(" ")[0]), abs=2e-3)
    assert as_latex.startswith("\\begin{tabular}{l")
    cells = " & ".join(entropy[:4]).replace("±", "$\\pm$")
    assert f"{cells} & " in as_latex


def test_a_page_is_shown_where_there_is_a_browser(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
    browser.show(tmp_path / "my report.html")
    assert asked == [f"file://{tmp_path}/my%20report.html"]
    assert not caplog.records

    def none(_: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    for nothing in (none, lambda _: False):
        monkeypatch.setattr(webbrowser, "open", nothing)
        browser.show(tmp_path / "report.html")
    assert [record.getMessage() for record in caplog.records] == [
        f"Note: report.open: there is no browser here; open {tmp_path}/report.html yourself"
    ] * 2
