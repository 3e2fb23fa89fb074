"""Processes to kill: tlkit's commands, forked from one that has imported TensorFlow already.

The forking process has imported everything and started nothing: TensorFlow's threads begin in the
forked process with its first operation. So a process that costs 5 s of processor time to start
costs 1, and is as real: killed by SIGKILL, it leaves on the disk what it had written.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from attrs import define

PRELOADED = ("tests.battery.preloaded",)
BY_MACHINE = {"environment.json", "timing.csv", "report.html", "MODEL_CARD.md",
              "seal-machine.json", "workers.csv"}  # fmt: skip


@define
class Fork:
    """A command in a process of its own.

    Attributes:
        log: The file with what it says.
        process: The process.
    """

    log: Path
    process: Any

    @classmethod
    def of(cls, log: Path, *arguments: object) -> Fork:
        """Start a command; what it says goes into `log`, which begins anew."""
        log.write_bytes(b"")
        process = _context().Process(target=_command, args=(str(log), [*map(str, arguments)]))
        process.start()
        return cls(log, process)

    def said(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float) -> bool:
        """Wait; return whether it has ended."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def kill(self) -> bool:
        """Kill it; return whether it had not ended before."""
        self.process.kill()
        self.process.join()
        return bool(self.process.exitcode == -signal.SIGKILL)


@define
class ForkedWorker:
    """A sweep's worker, forked as well; stands in for the `Popen` of `tlkit.sweeps.processes`."""

    process: Any
    stdin: io.TextIOWrapper
    stdout: io.TextIOWrapper

    @classmethod
    def start(cls, environment: Mapping[str, str]) -> ForkedWorker:
        """Start a worker."""
        (job_end, jobs), (answers, answer_end) = os.pipe(), os.pipe()
        ends = DupFd(job_end), DupFd(answer_end)
        process = _context().Process(target=_worker, args=(*ends, dict(environment)))
        process.start()
        os.close(job_end)
        os.close(answer_end)
        (Path(os.environ["WORKERS"]) / str(process.pid)).touch()
        return cls(process, os.fdopen(jobs, "w"), os.fdopen(answers))

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        return int(self.process.exitcode)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _command(log: str, arguments: list[str]) -> None:
    import tlkit.sweeps.processes as processes
    from tlkit import cli
    from tlkit.system.keras import _start_keras

    threads = [*Path("/proc/self/task").iterdir()]
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True)
    processes._start = ForkedWorker.start  # type: ignore[assignment]
    sys.argv = ["tlkit", *arguments]
    os.environ["WORKERS"] = str(Path(log).parent)
    assert len(threads) <= 2, threads  # this one, and jemalloc's
    assert not _start_keras.cache_info().currsize
    cli.main()


def _worker(job_end: Any, answer_end: Any, environment: Mapping[str, str]) -> None:
    from tlkit.sweeps import worker

    os.environ.update(environment)
    os.dup2(job_end.detach(), 0)
    os.dup2(answer_end.detach(), 1)
    worker.main()


def alive(place: Path, begun: Sequence[Fork]) -> list[int]:
    """Return the numbers of the processes that have not ended, and of their workers."""
    workers = [int(path.name) for path in place.iterdir() if path.name.isdecimal()]
    here = [process.process.pid for process in begun if process.process.is_alive()]
    return here + [number for number in workers if Path(f"/proc/{number}").exists()]
