"""Signals that ask the program to stop: as exceptions, and put off while a file is written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")

STOPPING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
"""Ctrl-C, what `kill` sends, a closed terminal, and what batch systems send some time before they end a job."""


class Stopped(KeyboardInterrupt):
    """Another signal than Ctrl-C's asks the program to stop; `number` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


class _Waiting:
    """A handler that puts the first signal off, and hands further ones on."""

    def __init__(self, handlers: Mapping[int, Handler]) -> None:
        self.handlers = handlers
        self.numbers: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.numbers:
            self.handlers[number](number, frame)
        self.numbers.append(number)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within the block the signals raise :class:`KeyboardInterrupt`; one that is ignored, as under nohup, is not."""
    with _handled([number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL], _stop):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block the signals that raise an exception wait until its end; a second one does not.

    Within another such block it is that one's end.
    """
    handlers = {
        number: handler
        for number in STOPPING
        if callable(handler := signal.getsignal(number)) and not isinstance(handler, _Waiting)
    }
    waiting = _Waiting(handlers)
    try:
        with _handled(handlers, waiting):
            yield
    finally:
        if waiting.numbers:
            signal.raise_signal(waiting.numbers[0])


@contextlib.contextmanager
def handed_on(to: Callable[[int], object]) -> Iterator[list[int]]:
    """Within the block the signals that raise an exception are handed on instead; the first one raises it at the end.

    Args:
        to: is called with the number of each.

    Yields:
        The numbers of those that came.
    """
    came: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        to(number)

    try:
        with _handled([number for number in STOPPING if callable(signal.getsignal(number))], hand_on):
            yield came
    finally:
        if came:
            signal.raise_signal(came[0])


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
    with contextlib.ExitStack() as former:  # gives all of them back, also where a signal comes just then
        for number in numbers:
            former.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, handler)
        yield


def _in_child() -> None:
    """Give back the handlers in a process that was forked, such as a worker of a data loader: its end is not ours."""
    for number in STOPPING:
        handler = own = signal.getsignal(number)
        if isinstance(handler, _Waiting):
            handler = handler.handlers[number]
        if handler is _stop:
            handler = signal.SIG_DFL
        if handler is not own:
            signal.signal(number, handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
