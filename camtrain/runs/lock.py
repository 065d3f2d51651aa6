"""One folder, one process: a lock that is gone when its process is, however that ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from camtrain.errors import UserError

NAME = ".lock"

PATIENCE = 1
"""Seconds to wait for a process that only looks whether a folder is held, which takes hold of it for a moment."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder within the block.

    Raises:
        UserError: another process holds it.
        OSError: nothing can be written there.
    """
    lock = FileLock(folder / NAME, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is in use by {_holder(folder)}: wait for its end, or end it") from None
    try:
        with contextlib.suppress(OSError):  # a full disk: who holds it is not known then
            (folder / NAME).write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder."""
    if not (folder / NAME).exists():
        return False
    lock = FileLock(folder / NAME, blocking=False)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / NAME).read_text())
        return f"process {int(told['process'])} on {str(told['host'])!r}".replace("'", "")
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
