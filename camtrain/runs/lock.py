"""One folder, one process: a lock that is gone when its process is, however that ended."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
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

    def __init__(self, path: Path, lost: Callable[[Path], None] | None = None) -> None:
        """Prepare it.

        Args:
            path: of the file.
            lost: is called with the lease's path when another machine has taken it over, because this one was thought
                to be dead; in another thread.
        """
        self.here, self.file, self.lost = FileLock(path), Path(f"{path}.lease"), lost
        self.lease = SoftFileLease(
            self.file, lease_duration=LEASE, heartbeat_interval=BEAT, on_compromise=self._see_to, thread_local=False
        )
        self.over, self.mending = threading.Event(), threading.Lock()  # released; the lease is being taken again
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
        self.over.clear()
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
        self.over.set()
        with self.mending:  # whose thread the next line waits for
            pass
        self.lease.release()
        self.here.release()

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        owner = self.lease.owner  # the name of its machine may have an addition of filelock's
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"

    def _see_to(self, found: LeaseCompromise) -> None:
        """Go on with the signs of life where filelock, in whose thread this is, gives them up: it could not give them
        for almost as long as a lease lasts, or its file is gone.
        """
        is_mine = found.reason != "owner-changed"
        if is_mine:
            log.warning("Note: %s: %s; other machines may take this one for dead", self.file, found.reason)
            is_mine = self._regained(found.token, away=found.reason == "refresh-failed")
        if not is_mine and self.lost is not None:
            self.lost(self.file)

    def _regained(self, token: str, away: bool) -> bool:
        """Look after the lease until it is released, or taken again by a thread of its own: True; or lost: False.

        It is lost when twice in a row it is another's (who looks whether it has expired changes it for a moment), or
        when its file is gone after the storage was out of reach: another can have held it and be done.

        Args:
            token: of the lease as it was.
            away: whether the storage was out of reach.
        """
        strange = 0
        while not self.over.wait(BEAT):
            with self.mending, contextlib.suppress(OSError):  # of storage that is out of reach still
                owner = self.lease.owner
                if self.over.is_set():
                    break
                if owner and owner.token == token:
                    os.utime(self.file)
                    strange, away = 0, False
                elif owner:
                    strange += 1
                elif self.file not in self.file.parent.iterdir():  # else it could only not be read
                    if away:
                        return False
                    self.lease.release(force=True)
                    self.lease.acquire(timeout=0)
                    break
            if strange == 2:
                return False
        return True


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
        lost = f"; if its machine is gone for good, remove {lock.file}" if lock.elsewhere else ""
        raise UserError(f"{folder} is in use by {lock.holder}: wait for its end, or end it{lost}") from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder that the system knows of. Of another machine's, a lease alone does not tell
    whether it lives; :func:`held` waits for a sign of life.
    """
    if not (folder / NAME).exists():
        return False
    try:
        with FileLock(folder / NAME).acquire(timeout=0):
            return False
    except OSError:  # a timeout, too
        return True


def _lost(lease: Path) -> None:
    """End this process as SIGKILL would, if another machine goes on with the run: nothing of it is written any more."""
    print(f"camtrain: error: {lease}: another machine took this one for dead and goes on", file=sys.stderr)
    os._exit(MACHINE)
