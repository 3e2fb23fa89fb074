"""Features for a probe, computed ahead by several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tlkit.config.experiment import Experiment
from tlkit.config.structure import toml_value, unstructure
from tlkit.config.toml import load_experiment
from tlkit.sweeps.executors import Local, executor_of
from tlkit.sweeps.features import fill_cache
from tlkit.sweeps.joining import thread_variables
from tlkit.sweeps.trials import fingerprint
from tlkit.system.errors import ConfigError, Problem, TlkitError
from tlkit.system.notebook import argument

TABLES = ("data", "backbone", "head", "optimizer", "fit")


def fill_ahead(experiments: Iterable[Experiment], workers: int, threads: int | None) -> None:
    """Compute the features of experiments into the cache, for this process to find there.

    It must have as many threads as the others, as features depend on them. What cannot be computed
    is left to the probe, which says why.
    """
    executor = executor_of(workers, None, threads)
    if not isinstance(executor, Local):
        raise ConfigError([Problem(argument("--workers"), f"must be a number, got {workers}")])
    if "tensorflow" in sys.modules:
        from tlkit.system.keras import threads as present

        variables = thread_variables(present()["intra_op"] or None)
    else:
        variables = executor.environment(0, workers)
        os.environ.update(variables)
    jobs = [job for experiment in experiments if (job := _job(experiment))]
    fill_cache(jobs, [variables] * workers, skip_errors=True)


def _job(experiment: Experiment) -> dict[str, Any] | None:
    """Return what a worker needs to know; None for an experiment that no file can describe."""
    file = Path("probe.toml").absolute()
    try:
        table = _without_none(unstructure(experiment, base=file.parent))
        text = "".join(f"{key} = {toml_value(table[key])}\n" for key in TABLES)
        loaded = load_experiment(file, text=text)
    except (TlkitError, TypeError, KeyError):
        return None
    return {"file": str(file), "text": text, "overrides": [], "sha256": fingerprint(loaded)}


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(inner) for k, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value
