"""Threads and forked processes: results as from a plain loop, whatever happens to a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.processes import command_of, output_of

from tlkit.system.parallel import in_parallel

HEAD = """
import os, signal, sys, threading, time
from tlkit.system.parallel import Forked, can_fork
from tlkit.system.keras import own_process
here = os.getpid()

def start(work, items, processes):
    return Forked(work, items, processes, lambda value: value, lambda item, value: value)
"""


@given(
    count=st.integers(0, 20), workers=st.integers(1, 4), ahead=st.integers(1, 8), taken=st.data()
)
def test_in_parallel_is_a_map_that_looks_no_further_than_it_may(
    count: int, workers: int, ahead: int, taken: st.DataObject
) -> None:
    looked_at: list[int] = []

    def items() -> Iterator[int]:
        for number in range(count):
            looked_at.append(number)
            yield number

    results = in_parallel(lambda number: number * number, items(), workers, ahead)
    stop = taken.draw(st.integers(0, count))
    for number in range(stop):
        assert next(results) == number * number
        assert len(looked_at) <= number + 1 + ahead
    assert stop < count or list(results) == []


@pytest.mark.parametrize("ahead", [1, 2, 64])
def test_the_first_error_in_order_ends_it(ahead: int) -> None:
    def work(number: int) -> int:
        if number >= 2:
            raise KeyError(f"item {number}")
        return number

    results = in_parallel(work, range(6), workers=4, ahead=ahead)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="item 2"):
        next(results)


def test_what_was_not_asked_for_is_not_done() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.005)
        done.append(number)

    results = in_parallel(work, range(100), workers=1, ahead=50)
    next(results)
    results.close()  # type: ignore[attr-defined]  # an iterator that is a generator
    assert len(done) < 25  # and not all that was looked at


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
class TestForked:
    def test_the_results_are_those_of_a_loop_in_its_order(self) -> None:
        found = output_of(
            HEAD,
            """
            for count in (0, 1, 2, 7, 40):
                for processes in (1, 2, 3, 8):
                    forked = start(lambda n: [n * n, os.getpid() == here], range(count), processes)
                    assert [*forked] == [[n * n, False] for n in range(count)]
                    forked.end()
            print(threading.active_count())
        """,
        )
        assert found == "1\n"

    def test_the_processes_work_before_anyone_asks_and_are_never_held_up(self) -> None:
        """Their results are far more than a pipe holds."""
        output_of(
            HEAD,
            """
            large = "x" * 200_000
            done = [os.pipe() for _ in range(2)]
            def work(n):
                if n >= 18:
                    os.write(done[n % 2][1], b"x")
                return large
            forked = start(work, range(20), 2)
            for out, _ in done:
                os.read(out, 1)
            assert [*forked] == [large] * 20
            forked.end()
        """,
        )

    def test_an_error_is_raised_in_its_turn_as_by_a_loop(self) -> None:
        found = output_of(
            HEAD,
            """
            def work(n):
                if n == 3:
                    raise KeyError("three")
                return n
            forked = start(work, range(6), 2)
            results = iter(forked)
            print([next(results) for _ in range(3)])
            try:
                next(results)
            except KeyError as error:
                print(error)
            forked.end()
        """,
        )
        assert found == "[0, 1, 2]\n'three'\n"

    def test_what_a_process_leaves_undone_is_done_here(self) -> None:
        found = output_of(
            HEAD,
            """
            def work(n):
                if n == 4 and os.getpid() != here:
                    os.kill(os.getpid(), signal.SIGSEGV)
                return [n, os.getpid() == here]
            forked = start(work, range(8), 2)
            print([*forked])
            forked.end()
        """,
        )
        expected = [[n, n in {4, 6}] for n in range(8)]  # 0 and 2 had been sent
        assert found == f"{expected}\n"

    def test_without_further_processes_all_is_done_here(self) -> None:
        found = output_of(
            HEAD,
            """
            count = 0
            def fork(real=os.fork):
                global count
                count += 1
                if count > 1:
                    raise BlockingIOError(11, "Resource temporarily unavailable")
                return real()
            os.fork = fork
            forked = start(lambda n: os.getpid() == here, range(6), 3)
            print([*forked])
            forked.end()
        """,
        )
        assert found == f"{[False, True, True] * 2}\n"

    def test_processes_end_with_what_they_were_for(self) -> None:
        output_of(
            HEAD,
            """
            forked = start(time.sleep, [100, 100], 2)
            began = time.monotonic()
            forked.end()
            forked.end()
            assert time.monotonic() - began < 10
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                pass
            else:
                raise SystemExit("a process is left")
        """,
        )

    def test_processes_that_the_system_buries_itself_are_ended_too(self) -> None:
        output_of(
            HEAD,
            """
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            forked = start(lambda n: n, [1, 2], 2)
            assert [*forked] == [1, 2]
            time.sleep(0.3)
            forked.end()
        """,
        )

    def test_no_process_outlives_one_that_is_killed(self) -> None:
        code = """
            def work(n):
                time.sleep(0.02)
                return "x" * 1000
            forked = start(work, range(100_000), 2)
            print(*(child.process for child in forked._children), flush=True)
            time.sleep(60)
        """
        with subprocess.Popen(command_of(HEAD, code), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            children = [int(word) for word in process.stdout.readline().split()]
            process.send_signal(signal.SIGKILL)
        assert len(children) == 2
        deadline = time.monotonic() + 20
        while any(is_running(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_signals_are_the_parents_to_handle(self) -> None:
        found = output_of(
            HEAD,
            """
            signal.signal(signal.SIGTERM, lambda *_: print("parent", flush=True))
            def work(n):
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(os.getpid(), number)
                return n
            forked = start(work, range(4), 2)
            print([*forked])
            forked.end()
        """,
        )
        assert found == "[0, 1, 2, 3]\n"

    @pytest.mark.parametrize(
        ("code", "can"),
        [
            ("own_process()", True),
            ("", False),  # a program of somebody else, whose threads and libraries nobody knows
            ("own_process(); sys.modules['tensorflow'] = sys", False),
            ("own_process(); threading.Timer(1, lambda: None).start()", False),
            ("own_process(); sys.platform = 'darwin'", False),
        ],
    )
    def test_only_a_small_process_of_tlkits_own_is_forked(self, code: str, can: bool) -> None:
        assert output_of(HEAD, f"{code}\nprint(can_fork())") == f"{can}\n"
