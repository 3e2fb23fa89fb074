"""The process that makes runs of a sweep: reads one job per line, writes one answer per line.

Started by `tlkit.sweeps.processes` as `python -m tlkit.sweeps.worker`. Anything else that is
printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from attrs import asdict, evolve

from tlkit.config.experiment import Experiment
from tlkit.config.toml import load_experiment
from tlkit.reports.progress import Terminal
from tlkit.runfolder.folder import UNFINISHED
from tlkit.runfolder.resume_state import OtherInputs
from tlkit.runfolder.tables import epochs_of
from tlkit.runner.resume import resume
from tlkit.runner.run import run
from tlkit.sweeps.trials import fingerprint
from tlkit.system.errors import ConfigError, Problem, RunFolderError, TlkitError
from tlkit.system.files import remove_folder
from tlkit.system.keras import own_process
from tlkit.system.lock import is_locked
from tlkit.system.signals import Interrupted, request_stop
from tlkit.system.stdio import tolerate_broken_pipes
from tlkit.system.untrusted import exists
from tlkit.train.callback import Callback, Epoch


class Pausing(Callback):
    """Stops a run after some epochs.

    Attributes:
        until: After how many; None: it goes to its end.
        paused: Whether it was stopped.
    """

    until: int | None = None
    paused = False

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Stop the run if it is time; the epoch is saved."""
        super().on_epoch_end(epoch)
        if self.until is not None and epoch.epoch >= self.until:
            self.paused = True
            raise Interrupted(signal.SIGTERM)


class BarsOnly(Pausing, Terminal):
    """Shows a run's progress bars but not its lines, which would repeat for every run."""

    def say(self, text: str) -> None:
        """Print nothing; the run's folder has what matters."""


def work(job: Mapping[str, Any], callback: Callback | None = None) -> dict[str, Any]:
    """Make one run; return an empty dict, or `paused`, or `error`, `exit_code` and a traceback."""
    pausing = callback if isinstance(callback, Pausing) else Pausing()
    pausing.until, pausing.paused = job.get("until"), False
    if pausing.until is not None:
        if epochs_of(Path(job["out"])) >= pausing.until:  # its last owner was killed just then
            return {"paused": True}
        callback = pausing
    try:
        experiment = _load(job)
        if fingerprint(experiment) != job["sha256"]:
            message = "has changed since the sweep started"
            raise ConfigError([Problem("", message)], str(job["file"]))
        if "fill" in job:
            from tlkit.runner.fill import fill
            from tlkit.sweeps.actors import by_ray

            compute = by_ray(**job["ray"]) if "ray" in job else None
            return asdict(fill(experiment, callback or Callback(), compute=compute))
        _run(experiment, Path(job["out"]), callback)
    except Interrupted:
        if not pausing.paused:
            raise
        return {"paused": True}
    except TlkitError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except MemoryError:
        return {"error": "there is too little memory", "exit_code": 8}
    except Exception as error:  # a bug ends one run, not the sweep
        answer = {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        return {**answer, "traceback": traceback.format_exc()}
    return {}


def _load(job: Mapping[str, Any]) -> Experiment:
    """Load a job's experiment; plugin files that are not the planned ones are not executed."""
    hashes = job.get("plugin_sha256")
    experiment = load_experiment(
        job["file"],
        [*job["overrides"], *([f"plugins.sha256={json.dumps(hashes)}"] if hashes else [])],
        in_sweep=True,
        plugins=job.get("plugins"),
        text=job.get("text"),
    )
    if hashes and experiment.origin:
        origin = evolve(experiment.origin, overrides=tuple(job["overrides"]))
        return evolve(experiment, origin=origin)
    return experiment


def _run(experiment: Experiment, out: Path, callback: Callback | None) -> None:
    """Make a run, resume it, or start it again if it cannot be resumed."""
    if exists(out / UNFINISHED):
        try:
            resume(out, plugins=experiment.plugins.modules, callback=callback)
        except OtherInputs:  # finished runs used data that no longer exist
            raise
        except RunFolderError:  # such as other versions
            if is_locked(out):
                raise
            remove_folder(out)
        else:
            return
    run(experiment, out, callback=callback)


def main() -> None:
    """Work until the input ends; if it ends during a run, the sweep is gone: stop the run."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    with tolerate_broken_pipes():
        while job := jobs.get():
            callback = BarsOnly(result=False)
            try:
                answer = work(json.loads(job), callback)
            finally:
                callback.close()
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _read(jobs: SimpleQueue[str]) -> None:
    with open(0, "rb", buffering=0) as lines:  # a buffer's lock would outlive the main thread
        for line in lines:
            jobs.put(line.decode())
    request_stop()
    jobs.put("")


if __name__ == "__main__":
    own_process()
    try:
        main()
    except BrokenPipeError:  # the sweep is gone
        pass
    except KeyboardInterrupt as stop:  # the sweep reports it
        sys.exit(getattr(stop, "exit_code", 130))
