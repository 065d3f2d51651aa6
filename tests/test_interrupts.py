"""Signals that ask the program to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from camtrain.interrupts import STOPPING, Stopped, deferred, handed_on, interruption, raised


def test_signals_become_exceptions_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, raised():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised(), deferred():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_signal_waits_and_a_second_does_not() -> None:
    sent = []

    def work(*numbers: signal.Signals) -> None:
        with raised(), deferred():
            for number in numbers:
                os.kill(os.getpid(), number)
                sent.append(number)

    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT)
    with pytest.raises(Stopped):
        work(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert sent == [signal.SIGINT, signal.SIGTERM]


def test_a_second_signal_does_not_wait_within_two_blocks() -> None:
    sent = []

    def work(*numbers: signal.Signals) -> None:
        with raised(), deferred():
            with deferred():
                for number in numbers:
                    os.kill(os.getpid(), number)
                    sent.append(number)
            sent.append(signal.SIGHUP)  # the outer block ends later

    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT)
    with pytest.raises(Stopped):
        work(signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    assert sent == [signal.SIGINT, signal.SIGHUP, signal.SIGTERM]


def test_all_handlers_come_back_also_where_a_signal_comes_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = signal.signal

    def one_comes(number: int, handler: Callable[..., object]) -> object:
        former = plain(number, handler)
        if number == signal.SIGHUP and handler in before:
            raise Stopped(number)
        return former

    with raised():
        before = [signal.getsignal(number) for number in STOPPING]
        monkeypatch.setattr(signal, "signal", one_comes)
        with pytest.raises(Stopped), deferred():
            pass
        monkeypatch.undo()
        assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads
def test_a_forked_process_has_the_handlers_of_before() -> None:
    with raised(), deferred():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_the_interruption_behind_an_error_is_found() -> None:
    def unexpected_pos() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos")

    with pytest.raises(RuntimeError) as raised_error:
        unexpected_pos()
    assert isinstance(interruption(raised_error.value), KeyboardInterrupt)
    assert interruption(ValueError()) is None


def test_signals_are_handed_on_and_the_first_one_is_raised_at_the_end() -> None:
    seen = []

    def work() -> None:
        with raised(), handed_on(seen.append) as came:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert came == seen == [signal.SIGTERM, signal.SIGINT]
            seen.append(0)

    with pytest.raises(Stopped) as stopped:
        work()
    assert (stopped.value.number, len(seen)) == (signal.SIGTERM, 3)
