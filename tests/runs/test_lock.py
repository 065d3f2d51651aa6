"""One folder, one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from camtrain.errors import UserError
from camtrain.runs import lock

HOLDER = """
import sys, time
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
