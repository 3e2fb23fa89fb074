"""The process that makes a sweep's runs, so that a crash costs one run and not the sweep.

TensorFlow takes seconds to start and keeps memory after each run, so a process makes several runs
and is then replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from attrs import define, field

MAX_WORK_S = 60.0  # a start takes about 5 s: after a minute of work it is under a tenth
COMMAND = ("-P", "-m", "tlkit.sweeps.worker")  # -P: never import from the working directory
EXIT_TIMEOUT_S = 30.0


@define
class Worker:
    """A process that makes runs, replaced when it dies or has worked long enough.

    Attributes:
        max_work_s: Seconds of work after which a new process makes the next run.
        environment: Environment variables of the process, besides this one's.
    """

    max_work_s: float = MAX_WORK_S
    environment: Mapping[str, str] = field(factory=dict)
    _process: subprocess.Popen[str] | None = None
    _worked_s: float = 0.0

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Make one run; see `tlkit.sweeps.worker.work`."""
        started = time.monotonic()
        process = self._process = self._process or _start(self.environment)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(dict(job)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):  # ValueError: `close_input` was called
            line = ""
        if not line:
            code = self._end()
            return {"error": _cause(code), "exit_code": 8 if code == -signal.SIGKILL else 1}
        self._worked_s += time.monotonic() - started
        if self._worked_s >= self.max_work_s:
            self._end()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def close_input(self) -> None:
        """Ask the process, from another thread, to stop between two batches."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    def _end(self) -> int:
        """End the process and return its exit code."""
        process, self._process, self._worked_s = self._process, None, 0.0
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            return process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            process.stdout.close()


def _start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # starts tlkit itself
        [sys.executable, *COMMAND],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def _cause(code: int) -> str:
    """Return why a process ended in the middle of a run."""
    if code == -signal.SIGKILL:
        return "the process was killed; was there too little memory?"
    if code < 0:
        return f"the process ended with {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"
