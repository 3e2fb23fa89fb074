"""The process that makes runs of a sweep: one job a line on its input, one answer a line back.

`python -m tlkit.sweeps.worker`, started by `tlkit.sweeps.workers`. Whatever else is printed while
it works goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlkit.config.loading import load_experiment
from tlkit.console import Terminal
from tlkit.errors import ConfigError, Problem, TlkitError
from tlkit.progress import Watcher
from tlkit.run import run
from tlkit.sweeps.trials import fingerprint


class Bars(Terminal):
    """Shows a run's bars, where there is a terminal, and no lines: those would be a run's each."""

    def say(self, text: str) -> None:
        """Say nothing: what matters of a run is in its folder."""


def work(job: Mapping[str, Any], watcher: Watcher | None = None) -> dict[str, Any]:
    """Make one run.

    Args:
        job: `file`, `overrides`, `out`, and the `sha256` of the experiment that was planned.
        watcher: Told how it goes.

    Returns:
        Nothing, or `error`, its `exit_code`, and the `traceback` if it is a bug.
    """
    try:
        experiment = load_experiment(job["file"], job["overrides"], in_sweep=True)
        if fingerprint(experiment) != job["sha256"]:
            message = "has changed since the sweep began"
            raise ConfigError([Problem("", message)], str(job["file"]))
        run(experiment, Path(job["out"]), watcher=watcher)
    except TlkitError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except MemoryError:
        return {"error": "there is too little memory", "exit_code": 8}
    except Exception as error:  # a bug ends one run, not the sweep
        found = {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        return {**found, "traceback": traceback.format_exc()}
    return {}


def main() -> None:
    """Work until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        watcher = Bars()
        try:
            answer = work(json.loads(line), watcher)
        finally:
            watcher.close()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(
        KeyboardInterrupt, BrokenPipeError
    ):  # the sweep says what has happened
        main()
