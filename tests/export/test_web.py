"""The folder of a page, and the page in a browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, FinishedRun
from PIL import Image
from served import server  # noqa: F401

from camtrain.errors import UserError
from camtrain.export.web import RUNTIME, runtime_files

ort = pytest.importorskip("onnxruntime", reason="needs pip install 'camtrain[export]'")


def package(path: Path, names: tuple[str, ...] = RUNTIME) -> Path:
    """A tarball of npm's with these files."""
    with tarfile.open(path, "w:gz") as opened:
        for name in names:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            opened.addfile(entry, io.BytesIO(name.encode()))
    return path


def test_the_runtime_comes_out_of_the_package(tmp_path: Path) -> None:
    assert runtime_files(str(package(tmp_path / "web.tgz"))) == {name: name.encode() for name in RUNTIME}


def test_another_package_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.tgz").write_text("none")
    for path in (package(tmp_path / "some.tgz", RUNTIME[:1]), tmp_path / "text.tgz", tmp_path / "none.tgz"):
        with pytest.raises(UserError, match="not the package onnxruntime-web") as refused:
            runtime_files(str(path))
        assert "\n" not in str(refused.value)


def test_without_npm_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="npm is not installed"):
        runtime_files(None)


def test_a_folder_of_static_files(fake_run: FinishedRun, run_command: Command, tmp_path: Path) -> None:
    runtime = package(tmp_path / "web.tgz")
    done = run_command("task=export", f"run={fake_run.folder}", "export.format=web", f"export.runtime={runtime}")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/runs/*/regularised")
    assert {path.name for path in folder.iterdir()} == {*RUNTIME, "index.html", "facts.json", "network.onnx"}
    page = (folder / "index.html").read_text()
    assert "://" not in page.replace('import * as ort from "./', "")  # nothing is fetched from elsewhere
    assert json.loads((folder / "facts.json").read_text())["classes"] == ["class_0", "class_1", "class_2"]


@pytest.mark.slow
def test_a_browser_gives_the_maps_of_the_runtime(
    fake_run: FinishedRun,
    run_command: Command,
    server: tuple[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    runtime, chromium = os.environ.get("CAMTRAIN_TEST_ONNXRUNTIME_WEB"), shutil.which("chromium")
    if runtime is None or chromium is None:
        pytest.skip("needs chromium, and CAMTRAIN_TEST_ONNXRUNTIME_WEB=FILE that npm pack onnxruntime-web leaves")
    address, folder = server
    output = f"export.output={folder / 'page'}"
    done = run_command(
        "task=export", f"run={fake_run.folder}", "export.format=web", f"export.runtime={runtime}", output
    )
    assert done.returncode == 0, done.stderr
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "page" / "noise.png")
    shown = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"),
            *("--virtual-time-budget=120000", "--dump-dom", f"{address}/page/?image=noise.png"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r'data-map="([^"]+)"', shown)
    assert found is not None, shown
    session = ort.InferenceSession(folder / "page" / "network.onnx", providers=["CPUExecutionProvider"])
    (exact,) = session.run(["map"], {"images": pixels.transpose(2, 0, 1)[None]})
    assert np.array(found[1].split(), float) == pytest.approx(exact.ravel(), rel=1e-3, abs=1e-4 * exact.max())
