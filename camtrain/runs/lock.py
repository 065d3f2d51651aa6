"""One folder, one process: a lock that is gone when its process is, however that ended."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, LeaseCompromise, SoftFileLease, Timeout

from camtrain.errors import MACHINE, UserError

log = logging.getLogger("camtrain")

NAME = ".lock"

PATIENCE = 1
"""Seconds to wait for a process that only looks whether a folder is held, which takes hold of it for a moment."""

LEASE, BEAT = 60.0, 10.0
"""Seconds without a sign of life after which another machine's process counts as dead, and between such signs."""


class Lock:
    """A lock of the system's on a file, which protects from processes of this machine, and beside it a lease, which
    protects from those of others that see the same storage, also where that knows no locks.

    The lease is a file with the name of its process that is touched every :data:`BEAT` seconds. Who waits for it takes
    it over after :data:`LEASE` seconds, by a clock of its own, without that, or at once where the process was one of
    this machine and is dead.
    """

    def __init__(self, path: Path, lost: Callable[[LeaseCompromise], None] | None = None) -> None:
        """Prepare it.

        Args:
            path: of the file.
            lost: is called when another machine has taken the lease over, because this one was thought to be dead.
        """
        self.here = FileLock(path)
        self.lease = SoftFileLease(f"{path}.lease", lease_duration=LEASE, heartbeat_interval=BEAT, on_compromise=lost)
        self.elsewhere = False  # whether the one who held it when this one tried last is on another machine

    def acquire(self, timeout: float = -1) -> None:
        """Take hold of it.

        Args:
            timeout: seconds to wait for each of the two; below 0: for ever.

        Raises:
            Timeout: another process holds it.
            OSError: nothing can be written there.
        """
        self.elsewhere = False
        self.here.acquire(timeout=timeout)
        try:
            self.lease.acquire(timeout=timeout)
        except Timeout:
            self.elsewhere = True
            self.here.release()
            raise
        except OSError as error:  # such as a full disk, on which nothing can be spoilt
            log.debug("no lease: %s", error)
        except BaseException:
            self.here.release()
            raise

    def release(self) -> None:
        """Let others have it."""
        self.lease.release()
        self.here.release()

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        owner = self.lease.owner  # the name of its machine may have an addition of filelock's
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder within the block.

    Raises:
        UserError: another process holds it.
        OSError: nothing can be written there.
    """
    lock = Lock(folder / NAME, _lost)
    try:
        try:
            lock.acquire(PATIENCE)
        except Timeout:
            if not lock.elsewhere:
                raise
            log.warning("%s was in use by %s: waiting %.0f s for a sign of life", folder, lock.holder, LEASE)
            lock.acquire(LEASE + BEAT)
    except Timeout:
        raise UserError(f"{folder} is in use by {lock.holder}: wait for its end, or end it") from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder."""
    if not (folder / NAME).exists():
        return False
    lock = Lock(folder / NAME)
    try:
        lock.acquire(0)
    except OSError:  # a timeout, too
        return True
    lock.release()
    return False


def _lost(found: LeaseCompromise) -> None:
    """End this process as SIGKILL would, if another machine goes on with the run: nothing of it is written any more."""
    if found.reason == "owner-changed":
        print(
            f"camtrain: error: {found.lock_file}: another machine took this one for dead and goes on", file=sys.stderr
        )
        os._exit(MACHINE)
    log.warning("Note: %s: %s; other machines may take this one for dead", found.lock_file, found.reason)
