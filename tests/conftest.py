"""Shared by the tests: the command, run folders that several tests read, and where the photographs are."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra

from camtrain.cli import main

ROOT = Path(__file__).resolve().parent.parent

PHOTOGRAPHS = Path(os.environ.get("CAMTRAIN_TEST_DATA", ROOT.parent / "shared" / "data"))

FEW = ("evaluate.faithfulness_images=2", "evaluate.road_images=1", "evaluate.sanity_images=2")
"""Of what takes long, enough to see that it works."""

TINY = ("dataset=fake", "trainer.epochs=2", "trainer.batch_size=8", "evaluate.images=2", *FEW)

QUICK = (
    *("evaluate.maps=[]", "evaluate.images=0"),
    *("evaluate.faithfulness_images=0", "evaluate.road_images=0", "evaluate.sanity_images=0"),
)
"""Nothing is measured that takes longer than an epoch's own figures."""

SEVERAL = ("dataset=shapes_multi", "dataset.train=64", "dataset.val=24", "dataset.image_size=32", "trainer.epochs=2")

SWEPT = (
    *(*TINY, "dataset.image_size=32", "evaluate.faithfulness_images=3", "evaluate.maps=[layercam,eigencam]"),
    *("cam.weight=0.5,1", "seed=0,1"),
)
"""Arguments of the sweep that tests share."""

BASIC = "hydra/launcher=basic"
"""Jobs of a sweep run in this process, which has imported torch already."""

PRESETS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))

Completed = subprocess.CompletedProcess[str]
Command = Callable[..., Completed]


class FinishedRun(NamedTuple):
    """A run that tests share: they read it, and change a copy of it only."""

    folder: Path
    out: str  # what the command printed


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Folder of real photographs; set CAMTRAIN_TEST_DATA if it is not ../shared/data."""
    if not (PHOTOGRAPHS / "tiny_animals").is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}: set CAMTRAIN_TEST_DATA to the folder that holds tiny_animals")
    return PHOTOGRAPHS


# ---- the command


def camtrain(*arguments: str, cwd: Path, **environment: str) -> Completed:
    """Run the command in a process of its own, as a user does."""
    inherited = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, "-m", "camtrain", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        check=False,
        timeout=600,
    )


def in_process(*arguments: str, cwd: Path, **environment: str) -> Completed:
    """Run the command in this process, which has imported torch already; whatever it changes here is put back."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level, raises, threads = root.handlers[:], root.level, logging.raiseExceptions, torch.get_num_threads()
    code: object = 0
    GlobalHydra.instance().clear()
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            torch.random.fork_rng(devices=[]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["camtrain", *arguments])
            for key, value in {"HYDRA_FULL_ERROR": "0", **environment}.items():
                patch.setenv(key, value)
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
            except Exception:
                traceback.print_exc()
                code = 1
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:], logging.raiseExceptions = handlers, raises
        root.setLevel(level)
        torch.set_num_threads(threads)
        GlobalHydra.instance().clear()
    assert isinstance(code, int), code
    return Completed(["camtrain", *arguments], code, out.getvalue(), err.getvalue())


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command in a process of its own and an empty folder."""
    return lambda *arguments, **environment: camtrain(*arguments, cwd=tmp_path, **environment)


@pytest.fixture
def run_command(tmp_path: Path) -> Command:
    """The command in this process and an empty folder."""
    return lambda *arguments, **environment: in_process(*arguments, cwd=tmp_path, **environment)


# ---- finished runs


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of several test processes to need it fills, and the others wait for."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)
    folder, complete = root / name, root / f"{name}.complete"
    with FileLock(root / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


def finish(factory: pytest.TempPathFactory, name: str, *arguments: str) -> FinishedRun:
    """The run, or sweep, of these arguments, made once."""

    def make(folder: Path) -> None:
        done = in_process(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "stdout.txt").write_text(done.stdout)

    folder = made_once(factory, name, make)
    (run,) = folder.glob("outputs/*/*")
    return FinishedRun(run, (folder / "stdout.txt").read_text())


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A small run on generated noise with everything measured; its images are 32 pixels wide."""
    return finish(tmp_path_factory, "fake", *TINY, "trainer.batch_size=4")


@pytest.fixture(scope="session")
def multilabel_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A small run with several classes per image."""
    return finish(tmp_path_factory, "several", *SEVERAL, *FEW, "evaluate.images=3", "evaluate.maps=[layercam]")


@pytest.fixture(scope="session")
def animals_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A small run on real photographs from pretrained weights, whose file is gone."""
    weights = tmp_path_factory.mktemp("weights") / "weights.pth"
    shutil.copy(photographs / "pretrained" / "squeezenet1_0_deepcompression.pth", weights)
    data = ("dataset=folder", f"dataset.root={photographs / 'tiny_animals'}")
    network = ("model=squeezenet1_0", f"model.weights={weights}", "trainer.epochs=2", "trainer.batch_size=8")
    finished = finish(tmp_path_factory, "animals", *data, *network, *FEW, "evaluate.maps=[layercam]")
    weights.unlink()
    return finished


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A sweep over two weights with two seeds each: folders 0, 1 (weight 0.5) and 2, 3 (weight 1)."""
    return finish(tmp_path_factory, "sweep", "-m", BASIC, *SWEPT)


@pytest.fixture(scope="session")
def sweep_folder(sweep: FinishedRun) -> Path:
    """Folder of :func:`sweep`."""
    return sweep.folder


# ---- how tests are run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes minutes, such as compiled code")
    parser.addoption("--faults", action="store_true", help="also run all of the faults, hundreds of broken-off runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in ("slow", "faults"):
        if not config.getoption(f"--{name}"):
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(pytest.mark.skip(reason=f"takes minutes; run it with scripts/test --{name}"))


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", "2"))))


@pytest.fixture(autouse=True, scope="session")
def _images_of_tests_stay_out_of_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
