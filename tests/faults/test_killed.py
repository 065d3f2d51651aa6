"""Runs that break off at any moment go on as if they had not, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, TINY
from faults.compare import differences
from faults.conftest import Runs, Undisturbed
from image_folders import write_noise

from camtrain.runs import lock
from camtrain.training.checkpoint import CHECKPOINT, FORMER

Find = Callable[..., Undisturbed]

KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "every step": ("trainer.checkpoint_every=1", *QUICK),
    "two threads": ("trainer.threads=2",),
    "three threads": ("trainer.threads=3", *QUICK),
    "three arms": ("+arms.area.cam.term=area", "trainer.checkpoint_every=3", *QUICK),
    "fork": ("trainer.fork=1", "cam.anchor=0.5", "+arms.area.cam.term=area", "trainer.checkpoint_every=3", *QUICK),
    "several classes": ("dataset=shapes_multi", "dataset.train=32", "dataset.val=16", "dataset.image_size=32"),
    "timm": ("model.name=timm/convnext_atto", "dataset.image_size=48", *QUICK),
    "fixed weight": ("cam.weight=0.5", "optim=sgd", "trainer.checkpoint_every=2", *QUICK),
    "cached": ("dataset=folder", "dataset.root=PHOTOGRAPHS", "dataset.image_size=24", *QUICK),
    "not cached": ("dataset=folder", "dataset.root=PHOTOGRAPHS", "dataset.image_size=24", "dataset.cache=null", *QUICK),
}


@pytest.fixture
def find(undisturbed: Find, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    def found(kind: str) -> Undisturbed:
        root = tmp_path_factory.getbasetemp() / "noise"
        if not root.exists():
            write_noise(root, count=8)
        return undisturbed(kind, *(part.replace("PHOTOGRAPHS", str(root)) for part in KINDS[kind]))

    return found


def killed_and_resumed(runs: Runs, whole: Undisturbed, folder: Path, number: int) -> list[str]:
    """What is not as in the run that nothing happened to."""
    ended = runs(folder, *whole.arguments, "hydra.run.dir=run", fault="SIGKILL", number=number)
    assert ended.status == -signal.SIGKILL, ended.out
    run = folder / "run"
    if not (run / "result.json").exists():  # killed before anything was done
        ended = runs(folder, *whole.arguments, "hydra.run.dir=run", "resume=auto")
    else:
        ended = runs(folder, "task=resume", "run=run")
    assert ended.status == 0, ended.out
    assert not list(run.rglob("*.partial"))
    return differences(whole.folder, run)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.75, 0.97])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    share: float, runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    whole = find("every step")
    assert killed_and_resumed(runs, whole, tmp_path, int(share * whole.moments)) == []


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_twenty_moments(kind: str, runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    whole = find(kind)
    for number in random.Random(kind).sample(range(1, whole.moments), 20):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert killed_and_resumed(runs, whole, folder, number) == [], number


@pytest.mark.faults
def test_killed_with_a_baseline_of_another_run(runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    """While it is trained, taken, and kept for others."""
    whole = find("every step")
    shared = whole._replace(arguments=(*whole.arguments, f"trainer.baselines={tmp_path / 'kept'}", "cam.share=0.4"))
    for name, number in [("first", 100), *((str(each), each) for each in range(5, whole.moments // 2, 40))]:
        folder = tmp_path / name
        folder.mkdir()
        found = killed_and_resumed(runs, shared, folder, number)
        assert [tag for tag in found if "baseline" in tag and "time" not in tag] == [
            tag for tag in found if tag == "/config/trainer/baselines"
        ], number


@pytest.mark.faults
def test_killed_twenty_times_in_a_row(runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    whole = find("every step")
    step = whole.moments // 20
    command = (*whole.arguments, "hydra.run.dir=run", "resume=auto")
    for _ in range(20):
        ended = runs(tmp_path, *command, fault="SIGKILL", number=step)
        assert ended.status in (-signal.SIGKILL, 0), ended.out
    assert runs(tmp_path, *command).status == 0
    assert differences(whole.folder, tmp_path / "run") == []


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def stopped_and_resumed(runs: Runs, whole: Undisturbed, folder: Path, name: str, number: int) -> None:
    ended = runs(folder, *whole.arguments, "hydra.run.dir=run", fault=name, number=number)
    assert ended.status == 128 + getattr(signal, name), ended.out
    said = "interrupted" if name == "SIGINT" else f"stopped by {name}"
    assert f"camtrain: {said}; go on with camtrain task=resume run={folder / 'run'}" in ended.out, ended.out
    assert "Traceback" not in ended.out
    assert json.loads((folder / "run" / "result.json").read_text())["status"] == "interrupted"
    assert not list(folder.rglob("*.partial"))
    assert runs(folder, "task=resume", "run=run").status == 0
    assert differences(whole.folder, folder / "run") == []


@pytest.mark.parametrize("left", [150, 12])  # moments: while it trains, and while what is known last is written
def test_a_signal_ends_a_run_with_a_checkpoint(
    left: int, runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    whole = find("every step")
    stopped_and_resumed(runs, whole, tmp_path, "SIGUSR1", whole.moments - left)


@pytest.mark.faults
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_at_eight_moments(name: str, runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    whole = find("default")
    for number in random.Random(name).sample(range(20, whole.moments - 5), 8):
        folder = tmp_path / str(number)
        folder.mkdir()
        stopped_and_resumed(runs, whole, folder, name, number)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    whole = find("every step")
    runs(tmp_path, *whole.arguments, "hydra.run.dir=run", fault="SIGKILL", number=whole.moments // 2)
    path = tmp_path / "run" / CHECKPOINT
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    ended = runs(tmp_path, "task=resume", "run=run")
    assert ended.status == 0, ended.out
    assert f"{path} is damaged: its checksum is another one than was written" in ended.out
    assert differences(whole.folder, tmp_path / "run") == []


@pytest.mark.faults
def test_damage_in_every_section_of_a_checkpoint(
    runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    whole = find("every step")
    runs(tmp_path, *whole.arguments, "hydra.run.dir=run", fault="SIGKILL", number=whole.moments // 2)
    run = tmp_path / "run"
    good, former = (run / CHECKPOINT).read_bytes(), (run / FORMER).read_bytes()
    header = int.from_bytes(good[:8], "little")
    places = [0, 7, 8, 8 + header // 2, 7 + header, 8 + header, (8 + header + len(good)) // 2, len(good) - 1]
    for place in places:
        for damaged in (good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :], good[:place]):
            (run / CHECKPOINT).write_bytes(damaged)
            (run / FORMER).write_bytes(former)
            ended = runs(tmp_path, "task=resume", "run=run")
            assert ended.status == 0, ended.out
            assert "is damaged" in ended.out
            assert differences(whole.folder, run) == []
            # as it was when it was killed
            tree = json.loads((run / "result.json").read_text())
            (run / "result.json").write_text(json.dumps({**tree, "status": "running"}))
    for path in (CHECKPOINT, FORMER):
        (run / path).write_bytes(b"")
    ended = runs(tmp_path, "task=resume", "run=run")
    assert ended.status == 2
    assert "damaged, as is every other checkpoint of the run; train anew" in ended.out


@pytest.mark.faults
@pytest.mark.parametrize("name", ["ENOSPC", "EIO"])
def test_a_disk_that_fails_leaves_what_was_whole(
    name: str, runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    whole = find("default")
    for number in random.Random(name).sample(range(1, whole.moments), 12):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = runs(folder, *whole.arguments, "hydra.run.dir=run", fault=name, number=number)
        assert ended.status in (0, 4), ended.out
        assert "Traceback" not in ended.out, ended.out
        if ended.status == 0:  # only what may be missing could not be written
            assert "Note: " in ended.out
            continue
        assert str(folder) in ended.out.splitlines()[-2]
        if (folder / "run" / "result.json").exists():
            ended = runs(folder, "task=resume", "run=run")
            assert ended.status == 0, ended.out
            assert differences(whole.folder, folder / "run") == []


def test_a_full_disk_ends_with_a_code_of_its_own(
    runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    whole = find("every step")
    ended = runs(tmp_path, *whole.arguments, "hydra.run.dir=run", fault="ENOSPC", number=whole.moments // 2)
    assert ended.status == 4, ended.out
    assert "No space left on device; make room there" in ended.out
    assert "go on with camtrain task=resume" in ended.out
    assert runs(tmp_path, "task=resume", "run=run").status == 0
    assert differences(whole.folder, tmp_path / "run") == []


def test_a_folder_that_is_in_use_is_refused(runs: Runs, find: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    whole = find("every step")
    command = (*whole.arguments, "hydra.run.dir=run")
    runs(tmp_path, *command, fault="SIGKILL", number=whole.moments // 2)
    before = (tmp_path / "run" / "result.json").read_bytes()
    with lock.held(tmp_path / "run"):
        for arguments in (("task=resume", "run=run"), (*command, "resume=auto")):
            ended = runs(tmp_path, *arguments)
            assert ended.status == 2
            assert f"run is in use by process {os.getpid()} on " in ended.out
    assert (tmp_path / "run" / "result.json").read_bytes() == before


@pytest.mark.faults
def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    long = (*TINY, *QUICK, "trainer.epochs=1000", "hydra.run.dir=run", "resume=auto")
    command = [sys.executable, "-m", "camtrain"]
    with subprocess.Popen([*command, *long], cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        try:
            while not (tmp_path / "run" / CHECKPOINT).exists():
                assert first.poll() is None
            for arguments in (("task=resume", "run=run"), long):
                second = subprocess.run(
                    [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
                )
                assert second.returncode == 2
                assert f"run is in use by process {first.pid} on " in second.stderr
        finally:
            first.kill()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "running"
