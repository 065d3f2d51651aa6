"""The process of a job: how it is started, stopped and waited for, and what became of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from camtrain.errors import DIVERGED, SIGNALLED
from camtrain.files import printable
from camtrain.importing import this_program
from camtrain.interrupts import STOPPING
from camtrain.sweeps.record import COMPLETED, DIVERGENT, FAILED, INTERRUPTED

ERROR = " ERROR camtrain: "
"""What the line of an error holds in a job's log; `error: MESSAGE` follows, or `unexpected error` and a traceback."""


class Child:
    """A process in a group of its own, so that signals of the terminal reach it through its parent only, and once."""

    lost: str | None = None
    """In one line why nobody knows what became of it, where that is so: its machine or its worker is gone."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.early: list[int] = []  # signals that came before it was started

    def signal(self, number: int) -> None:
        """Hand a signal on, as soon as the process has been started; once, because a second one ends it at once."""
        if self.process is None:
            self.early.append(number)
        else:
            self.process.send_signal(number)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], quiet: bool = False) -> None:
        """Start `camtrain` with these arguments.

        Args:
            arguments: of the command.
            environment: of the process, beside that of this one.
            quiet: whether it prints nothing.
        """
        output = subprocess.DEVNULL if quiet else None
        self.process = subprocess.Popen(
            this_program(*arguments),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
        while self.early:
            self.signal(self.early.pop(0))

    def code(self) -> int | None:
        """Its exit code, negative: the number of the signal that ended it; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def stop(self) -> None:
        """End it, and wait for its end."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


@contextlib.contextmanager
def paused_together(hand_on: Callable[[int], object]) -> Iterator[None]:
    """Within the block Ctrl-Z stops this process and those that a signal is handed on to, and all go on together."""

    def pause(_number: int, _frame: FrameType | None) -> None:
        hand_on(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        hand_on(signal.SIGCONT)

    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def outcome(code: int, came: Sequence[int], complete: bool, said: str) -> tuple[str, str | None]:
    """Status of a job that has ended, and the reason in one line if it was not completed.

    Args:
        code: exit code; negative: the number of the signal that ended it.
        came: signals that were handed on to it.
        complete: whether what it should leave is there.
        said: what it wrote into its log.
    """
    if code == 0:
        return (COMPLETED, None) if complete else (FAILED, "ended without an error before it was complete")
    if came:
        return INTERRUPTED, f"stopped by {name(came[0])}"
    if code - SIGNALLED in STOPPING:
        return INTERRUPTED, f"stopped by {name(code - SIGNALLED)}"
    if code < 0:
        return FAILED, f"ended by {name(-code)}"
    return DIVERGENT if code == DIVERGED else FAILED, last_error(said) or f"exit code {code}"


def name(number: int) -> str:
    """Of a signal."""
    return {int(known): known.name for known in signal.Signals}.get(number, f"signal {number}")


def last_error(said: str) -> str | None:
    """The line of a log that says which error ended the job; None if none does."""
    _, found, rest = said.rpartition(ERROR)
    if not found:
        return None
    lines = [line for line in rest.splitlines() if line.strip()]
    return printable(lines[0].removeprefix("error: ") if rest.startswith("error: ") else lines[-1])
