"""Shared by the tests: where the photographs are, how the command is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

PHOTOGRAPHS = Path(os.environ.get("CAMTRAIN_TEST_DATA", ROOT.parent / "shared" / "data"))

FEW = ("evaluate.faithfulness_images=2", "evaluate.road_images=1", "evaluate.sanity_images=2")


TINY = ("dataset=fake", "trainer.epochs=2", "trainer.batch_size=8", "evaluate.images=2", *FEW)


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def photographs() -> Path:
    """Folder of real photographs; set CAMTRAIN_TEST_DATA if it is not ../shared/data."""
    if not (PHOTOGRAPHS / "tiny_animals").is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}: set CAMTRAIN_TEST_DATA to the folder that holds tiny_animals")
    return PHOTOGRAPHS


def camtrain(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a real process."""
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


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command, run in an empty folder."""
    return lambda *arguments, **environment: camtrain(*arguments, cwd=tmp_path, **environment)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes minutes, such as compiled code")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run it with scripts/test --slow"))


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", "2"))))


@pytest.fixture(autouse=True, scope="session")
def _images_of_tests_stay_out_of_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
