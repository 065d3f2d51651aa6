"""One folder, one process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock._lease
import pytest
from filelock import FileLock, SoftFileLease

from camtrain.errors import MACHINE, UserError
from camtrain.runs import lock

HOLDER = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from camtrain.runs import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_of_the_first_and_the_lock_dies_with_it(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert lock.is_held(tmp_path)
        with pytest.raises(UserError, match=rf"is in use by process {holder.pid} on "), lock.held(tmp_path):
            pytest.fail("it is held")
        os.kill(holder.pid, signal.SIGKILL)
    assert not lock.is_held(tmp_path)
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)


def test_it_is_held_once(tmp_path: Path) -> None:
    with lock.held(tmp_path), pytest.raises(UserError, match="is in use"), lock.held(tmp_path):
        pytest.fail("it is held")


def test_one_who_only_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    looking = FileLock(tmp_path / lock.NAME, blocking=False, thread_local=False)
    looking.acquire()
    threading.Timer(0.2, looking.release).start()
    with lock.held(tmp_path):
        assert not looking.is_locked


ELSEWHERE = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
import filelock._identity, filelock._marker, filelock._soft
for module in (filelock._identity, filelock._marker, filelock._soft):
    module.host_name = lambda: "elsewhere"
from camtrain.runs import lock
lock.FileLock = lambda path: SimpleNamespace(acquire=lambda **_: None, release=lambda: None)
lock.LEASE, lock.BEAT = 4.0, 0.2
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
"""A process of another machine, on storage that knows no locks."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """It holds the folder."""
    monkeypatch.setattr(lock, "LEASE", 4.0)
    monkeypatch.setattr(lock, "BEAT", 0.2)
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (tmp_path / lock.NAME).touch()
        yield holder
        holder.kill()


def test_a_process_of_another_machine_is_waited_for_until_it_gives_no_sign_of_life(
    elsewhere: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = rf"is in use by process {elsewhere.pid} on elsewhere: wait for its end.*remove .*/\.lock\.lease"
    with pytest.raises(UserError, match=said), lock.held(tmp_path):
        pytest.fail("it is held")
    assert "waiting 4 s for a sign of life" in caplog.text
    elsewhere.kill()
    elsewhere.wait()
    assert not lock.is_held(tmp_path)  # or resume=auto would begin anew; whether it lives, the next line finds out
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_one_who_was_taken_for_dead_writes_no_more(elsewhere: subprocess.Popen[str], tmp_path: Path) -> None:
    elsewhere.send_signal(signal.SIGSTOP)
    with lock.held(tmp_path):
        elsewhere.send_signal(signal.SIGCONT)
        _, errors = elsewhere.communicate(timeout=60)
    assert elsewhere.returncode == MACHINE
    assert "another machine took this one for dead and goes on" in errors


def test_one_who_stands_still_on_this_machine_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z for longer than a lease."""
    monkeypatch.setattr(lock, "LEASE", 0.6)
    monkeypatch.setattr(lock, "BEAT", 0.2)
    holder_of = HOLDER.replace("with lock", "lock.LEASE, lock.BEAT = 0.6, 0.2\nwith lock")
    with subprocess.Popen([sys.executable, "-c", holder_of, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        for _ in range(2):  # a second apart
            with pytest.raises(UserError, match=f"process {holder.pid} on "), lock.held(tmp_path):
                pytest.fail("it is held")
        holder.kill()


def test_a_full_disk_does_not_keep_a_run_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SoftFileLease, "acquire", full)
    with lock.held(tmp_path), pytest.raises(UserError, match="another process"), lock.held(tmp_path):
        pytest.fail("it is held")


class Watched:
    """A lock that is held, whose signs of life come quickly."""

    def __init__(self, folder: Path) -> None:
        self.taken = threading.Event()
        self.lock = lock.Lock(folder / lock.NAME, lambda _: self.taken.set())
        self.lock.acquire(0)
        self.lease = self.lock.file


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(lock, "LEASE", 0.6)
    monkeypatch.setattr(lock, "BEAT", 0.1)
    held = Watched(tmp_path)
    yield held
    held.lock.release()


@pytest.fixture
def out_of_reach(watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Watched:
    """For so long that filelock gave up."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filelock._lease, "touch", fail)
    until(lambda: "refresh-failed" in caplog.text)
    return watched


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def of_another(lease: Path) -> None:
    """Take a lease over as another machine would."""
    other = lease.with_suffix(".other")
    other.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=abc\nduration=0.6\n")
    other.replace(lease)


def test_a_lease_that_was_removed_is_taken_again(watched: Watched, tmp_path: Path) -> None:
    for _ in range(2):
        watched.lease.unlink()
        until(watched.lease.exists)
    assert not watched.taken.is_set()
    watched.lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_signs_of_life_go_on_where_the_storage_is_back(out_of_reach: Watched) -> None:
    for _ in range(3):
        os.utime(out_of_reach.lease, (0, 0))
        until(lambda: out_of_reach.lease.stat().st_mtime > 0)
    assert not out_of_reach.taken.is_set()


def test_one_who_was_out_of_reach_sees_that_another_has_taken_over(out_of_reach: Watched) -> None:
    of_another(out_of_reach.lease)
    assert out_of_reach.taken.wait(60)


def test_one_who_was_out_of_reach_sees_that_another_was_there_and_is_done(out_of_reach: Watched) -> None:
    out_of_reach.lease.unlink()
    assert out_of_reach.taken.wait(60)


def test_one_whose_lease_was_removed_sees_that_another_has_taken_it(watched: Watched) -> None:
    watched.lease.unlink()
    until(watched.lease.exists)
    of_another(watched.lease)
    assert watched.taken.wait(60)
