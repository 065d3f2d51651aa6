"""task=report over a sweep, and the page in a real browser."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, FinishedRun, in_process
from PIL import Image

from camtrain.analysis import over_seeds
from camtrain.analysis.intervals import hierarchical
from camtrain.analysis.over_seeds import Run
from camtrain.config.schema import ReportConfig
from camtrain.report import build
from camtrain.runs.images import read_images
from camtrain.runs.load import read


@pytest.fixture(scope="module", name="sweep")
def copied_sweep(sweep: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weights with two seeds each; beside them runs that broke off or diverged, and a file of somebody else."""
    assert re.search(rf"^compare +camtrain task=report runs=\S*{sweep.folder.name}$", sweep.out, re.MULTILINE)
    folder = tmp_path_factory.mktemp("across") / "sweep"
    shutil.copytree(sweep.folder, folder)
    broken = json.loads((folder / "0" / "result.json").read_text()) | {"status": "interrupted"}
    diverged = json.dumps(broken | {"status": "diverged"})
    for name, text in (("broken", json.dumps(broken)), ("foreign", '{"a": 1}'), ("lost", diverged)):
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(text)
    return folder


def run_of(folder: Path) -> Run:
    return Run(folder, read(folder).result, read_images(folder))


@pytest.fixture(scope="module")
def compared(sweep: Path) -> tuple[Path, str]:
    done = in_process("task=report", f"runs={sweep}", "hydra.run.dir=compared", cwd=sweep.parent)
    assert done.returncode == 0, done.stderr
    return sweep.parent / "compared", done.stdout


def test_settings_are_compared_over_their_seeds(sweep: Path, compared: tuple[Path, str]) -> None:
    folder, out = compared
    found = json.loads((folder / "comparison.json").read_text())
    assert [one["label"] for one in found] == ["cam.weight=0.5", "cam.weight=1"]
    assert [one["seeds"] for one in found] == [[0, 1], [0, 1]]
    for number, one in enumerate(found):
        runs = [run_of(sweep / str(2 * number + seed)) for seed in (0, 1)]
        for tag in ("cam/entropy", "faithfulness/deletion"):
            for arm in ("baseline", "regularised"):
                means = [run.result.arms[arm].final[tag] for run in runs]
                assert one["indicators"][tag][arm] == pytest.approx(sum(means) / 2)
            values = [(run.each["regularised"][tag] - run.each["baseline"][tag]).numpy()[:, None] for run in runs]
            expected = hierarchical(values, shared=False)[0]
            assert one["indicators"][tag]["difference"] == pytest.approx(expected.estimate, abs=1e-6)
            assert one["indicators"][tag]["margin_95"] == pytest.approx(expected.margin, rel=1e-6)
        outcomes = {condition["outcome"] for condition in one["claim"]["conditions"]}
        assert outcomes <= {"shown", "refuted", "open", "not measured"}
        assert (one["claim"]["outcome"] == "shown") == (outcomes == {"shown"} and not one["claim"]["cliffs"])
        assert one["claim"]["missed_cliffs"]["probability"] == pytest.approx(0.85**2)
    for one in found:
        verdict = ", ".join(f"{name} {outcome}" for name, outcome in one["claim"]["statements"].items())
        assert re.search(rf"^{one['label']}, 2 seeds: {verdict} .* > ", out, re.MULTILINE)
    assert "broken" in out
    assert "foreign" in out
    assert f"1 diverged run left out: {sweep / 'lost'}." in out
    assert f"1 diverged run left out: {sweep / 'lost'}." in (folder / "report.html").read_text()


def test_one_run_can_be_reported_alone(sweep: Path, run_command: Command, tmp_path: Path) -> None:
    done = run_command("task=report", f"runs={sweep / '1'}", "hydra.run.dir=alone")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads((tmp_path / "alone" / "comparison.json").read_text())
    assert one["seeds"] == [1]
    result = json.loads((sweep / "1" / "result.json").read_text())
    for tag, margin in result["difference_95"].items():
        if tag in one["indicators"] and margin is not None:
            assert one["indicators"][tag]["margin_95"] == pytest.approx(margin, rel=1e-4, abs=1e-6)


def test_mistakes_are_one_line_and_write_nothing(sweep: Path, run_command: Command, tmp_path: Path) -> None:
    for argument, message, code in (
        ("runs=nowhere", "no finished run", 2),
        (f"runs={sweep / 'broken'}", "interrupted", 2),
        (f"runs={sweep / 'lost'}", f"every run there diverged ({sweep / 'lost'})", 3),
        ("report.accuracy_margin=0.1", "runs is not set", 2),
        ("report.accuracy_margin=-1", "out of range", 2),
    ):
        done = run_command("task=report", argument)
        assert done.returncode == code
        (line,) = done.stderr.splitlines()
        assert message in line
        assert not list(tmp_path.iterdir())


class Page(html.parser.HTMLParser):
    """Collects tags, and sees whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def reports(sweep: Path, compared: tuple[Path, str]) -> list[Path]:
    return [compared[0] / "report.html", sweep / "0" / "report.html"]


def test_pages_are_whole_and_load_nothing(sweep: Path, compared: tuple[Path, str]) -> None:
    for path in reports(sweep, compared):
        page = Page()
        page.feed(path.read_text())
        assert page.open == []
        images = [attributes for tag, attributes in page.tags if tag == "img"]
        assert images
        for attributes in images:
            assert attributes["alt"]
            kind, _, data = str(attributes["src"]).partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
                assert opened.size[0] > opened.size[1]
        links = {
            str(attributes.get(key)) for _, attributes in page.tags for key in ("href", "src", "xlink:href", "data")
        }
        assert not [link for link in links if link.startswith(("http", "//", "file"))]
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
        assert not re.search(r"@import|url\((?!#)", path.read_text())
        heads = [attributes for tag, attributes in page.tags if tag == "th"]
        assert all("scope" in attributes for attributes in heads)
        assert all(attributes.get("role") == "img" for tag, attributes in page.tags if tag == "svg")


def test_names_cannot_break_the_page(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "0"
    shutil.copytree(sweep / "0", folder)
    result = json.loads((folder / "result.json").read_text())
    hostile = '</pre><script>alert("x")</script>&'
    result["data"]["name"] = hostile
    for entry in result["wall"]:
        entry["truth"] = hostile
        entry["baseline"]["predicted"] = hostile
    (folder / "result.json").write_text(json.dumps(result))
    one = over_seeds.summarise(hostile, [run_of(folder)], ReportConfig())
    build.write(tmp_path / "page.html", hostile, [one, one], [hostile])
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    assert page.open == []
    assert sum(tag == "script" for tag, _ in page.tags) == 1, "its own"


# ---- in a real browser


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Address of a proxy on the loopback that answers nothing, and what it was asked for."""
    requests: list[str] = []

    class Nothing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_GET = do_CONNECT = do_POST = answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()


LOOK = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  document.querySelectorAll("details").forEach(each => each.open = true);
  const found = { page: root.scrollWidth, window: innerWidth, images: [...document.images].map(one => one.naturalWidth),
    plots: [...document.querySelectorAll(".plot svg")].map(one => one.getBoundingClientRect().height) };
  const text = document.createElement("pre"); text.id = "found"; text.textContent = JSON.stringify(found);
  document.body.append(text);
})</script>"""


@pytest.mark.parametrize("width", [1000, 500])
def test_page_in_a_browser(
    width: int, sweep: Path, compared: tuple[Path, str], asked: tuple[str, list[str]], tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here: install it to see the report opened in a real browser")
    address, requests = asked
    for number, path in enumerate(reports(sweep, compared)):
        copy = tmp_path / f"{number}.html"
        copy.write_text(path.read_text().replace("</body>", f"{LOOK}</body>"))
        quiet = ("background-networking", "component-update", "sync", "extensions", "gpu", "quic", "default-apps")
        done = subprocess.run(
            [
                browser,
                *("--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet)),
                *("--enable-logging=stderr", f"--proxy-server={address}", "--proxy-bypass-list=<-loopback>"),
                *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"),
                *("--virtual-time-budget=5000", "--dump-dom", copy.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
        assert match is not None
        found = json.loads(match[1])
        assert found["page"] <= found["window"]
        assert found["images"]
        assert min(found["images"]) > 100
        assert found["plots"]
        assert min(found["plots"]) > 50
    # Chromium has errands of its own; the page asks for nothing, from nowhere.
    assert not [path for path in requests if not re.search(r"google|gvt1|chromium", path)]


def test_what_a_moved_or_damaged_run_lacks_is_left_out(sweep: Path, run_command: Command, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copytree(sweep / str(number), tmp_path / "runs" / str(number))
    shutil.rmtree(tmp_path / "runs" / "0" / "pictures")
    cut = tmp_path / "runs" / "1" / "pictures.csv"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    torn = json.loads((tmp_path / "runs" / "1" / "result.json").read_text())
    (tmp_path / "runs" / "2").mkdir()
    (tmp_path / "runs" / "2" / "result.json").write_text(json.dumps({**torn, "arms": {}}))
    done = run_command("task=report", "runs=runs", "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert one["seeds"] == [0]
    assert "pictures.csv does not hold" in done.stdout
    assert "not what this camtrain writes" in done.stdout
    assert "<img" not in (tmp_path / "compared" / "report.html").read_text()


def test_keys_that_a_task_takes_from_its_runs_are_refused(run_command: Command, tmp_path: Path) -> None:
    for arguments in (
        ("task=report", f"runs={tmp_path}", "seed=1"),
        ("task=evaluate", f"run={tmp_path}", "cam=layercam"),
    ):
        done = run_command(*arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"{arguments[2].partition('=')[0]}: {arguments[0]} takes it from the run" in line
        assert not list(tmp_path.iterdir())
