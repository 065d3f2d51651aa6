"""Signals that ask the program to stop: as exceptions, and put off while a file is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, what `kill` and batch systems send, and what a closed terminal sends."""


class Stopped(KeyboardInterrupt):
    """Another signal than Ctrl-C's asks the program to stop; `number` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within the block the signals raise :class:`KeyboardInterrupt`; one that is ignored, as under nohup, is not."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled([number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL], stop):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block the signals that raise an exception wait until its end; a second one does not."""
    waiting: list[int] = []
    handlers = {number: handler for number in STOPPING if callable(handler := signal.getsignal(number))}

    def wait(number: int, frame: FrameType | None) -> None:
        if waiting:
            handlers[number](number, frame)
        waiting.append(number)

    try:
        with _handled(handlers, wait):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption behind an error that some library made of it, if there is one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


@contextlib.contextmanager
def _handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Within the block another handler is called for these signals; only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, own in former.items():
            signal.signal(number, own)
