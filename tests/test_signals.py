"""Signals: the first requests a stop, the second ends the process, and handlers are restored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tlkit.system.signals import Interrupted, graceful_stop, raise_on_signal, stop_if_asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_wish_that_a_check_raises(number: signal.Signals) -> None:
    heard: list[str] = []

    def work() -> None:
        with graceful_stop(lambda: heard.append("wish")):
            stop_if_asked()
            os.kill(os.getpid(), number)
            heard.append("still working")
            stop_if_asked()

    with pytest.raises(Interrupted, match=f"^stopped by {number.name}$") as caught:
        work()
    assert heard == ["wish", "still working"]
    assert (caught.value.signal, caught.value.exit_code) == (number, 128 + number)
    stop_if_asked()  # the wish was for that body only


def test_whoever_catches_a_keyboard_interrupt_catches_it_and_who_catches_errors_does_not() -> None:
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)


def test_handlers_are_as_before_afterwards() -> None:
    def mine(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with graceful_stop(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is not mine
            with graceful_stop(lambda: None):
                pass
            assert signal.getsignal(signal.SIGTERM) is not mine  # the inner one changed nothing
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with graceful_stop(lambda: None):
            os.kill(os.getpid(), signal.SIGHUP)
            stop_if_asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with graceful_stop(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_run_in_another_thread_does_not_take_the_main_thread_s_signals() -> None:
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with graceful_stop(lambda: None):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    before = signal.getsignal(signal.SIGTERM)
    with graceful_stop(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    leave.set()
    thread.join()


def test_what_fails_while_a_wish_is_told_is_passed_over() -> None:
    def told() -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with graceful_stop(told):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop_if_asked()


def test_a_terminal_that_is_closed_ends_a_body_at_once_unless_that_is_ignored() -> None:
    with pytest.raises(Interrupted, match="SIGHUP") as caught, raise_on_signal():
        os.kill(os.getpid(), signal.SIGHUP)
    assert caught.value.exit_code == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_signal():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


TWICE = """
import os, signal, time
from tlkit.system.signals import graceful_stop
with graceful_stop(lambda: None):
    os.kill(os.getpid(), signal.{name})
    print("working", flush=True)
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_the_process_at_once(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(name=name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("working\n", -getattr(signal, name))
