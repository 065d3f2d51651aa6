"""What a batch system or a cluster carries out for a job: the plain command in a process of its own, as here."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from camtrain.sweeps.process import Child

LOOK_EVERY = 0.1
"""Seconds between looks at whether the process has ended."""

OF_ALL = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What a batch system may send to all processes of a job at once: the process hears of it through its parent only, as a
second signal ends it without a checkpoint."""


@dataclass
class Carried:
    """A job as it is handed over: called in a worker, it returns the exit code as :meth:`Child.code` does."""

    arguments: Sequence[str]  # of the command
    environment: Mapping[str, str]  # beside that of the worker
    folder: str  # that the command was given in

    def __call__(self) -> int:
        os.chdir(self.folder)
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":  # SLURM itself has queued it again: its node was lost
            self.arguments = going_on(self.arguments)
        self.child, self.interrupted = Child(), False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: self.interrupt())
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, [signal.SIGINT]
        )  # Ray blocks it, also for those that are started here
        with ignored(*OF_ALL):
            self.child.start(self.arguments, self.environment)
        return self.end()

    def end(self) -> int:
        """Wait for the end of the process."""
        while (code := self.child.code()) is None:
            time.sleep(LOOK_EVERY)
        return code

    def interrupt(self) -> None:
        """Let the process write a checkpoint and end. Several who mean the same thing are one signal to it."""
        if not self.interrupted:
            self.interrupted = True
            self.child.signal(signal.SIGINT)

    def checkpoint(self) -> Any:
        """What submitit is to queue again when the time is over, or another job more important: the job goes on from
        the checkpoint that it writes now."""
        from submitit.helpers import DelayedSubmission

        self.interrupt()
        self.end()
        return DelayedSubmission(replace(self, arguments=going_on(self.arguments)))


def going_on(arguments: Sequence[str]) -> list[str]:
    """Arguments of the command that goes on with a job, if it had begun."""
    return [*(text for text in arguments if not text.startswith("resume=")), "resume=auto"]


@contextmanager
def ignored(*numbers: int) -> Iterator[None]:
    """A process that is started within the block ignores these signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
