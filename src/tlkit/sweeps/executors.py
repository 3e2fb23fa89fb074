"""Processes that make a sweep's runs, so that none of them can take the others with it.

TensorFlow takes seconds to start and keeps memory after each run, so a process makes several runs
and is replaced when it has worked for a while.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from attrs import define

# A start takes 5 s on the machine where this was chosen: after 60 s of work it is under a tenth.
WORKED_S = 60.0
COMMAND = ("-P", "-m", "tlkit.sweeps.worker")  # -P: no module of the working directory's is meant
LEAVE_S = 30.0  # how long a process may take to leave once it is told to


@define
class Worker:
    """A process that makes runs, replaced by a new one when it dies or has worked long enough.

    Attributes:
        worked_s: After so much work a new process makes the next run.
    """

    worked_s: float = WORKED_S
    _process: subprocess.Popen[str] | None = None
    _worked: float = 0.0

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Make one run; see `tlkit.sweeps.worker.work`."""
        begun = time.monotonic()
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(dict(job)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._leave()
            return {"error": _death(code), "exit_code": 8 if code == -signal.SIGKILL else 1}
        self._worked += time.monotonic() - begun
        if self._worked >= self.worked_s:
            self._leave()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> int:
        """End the process and return its exit code."""
        process, self._process, self._worked = self._process, None, 0.0
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            return process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            process.stdout.close()


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # it starts tlkit itself
        [sys.executable, *COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def _death(code: int) -> str:
    """Return what to say of a process that ended in the middle of a run."""
    if code == -signal.SIGKILL:
        return "the process was killed; was there too little memory?"
    if code < 0:
        return f"the process ended with {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"
