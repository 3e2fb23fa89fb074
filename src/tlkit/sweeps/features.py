"""`features`: fill the feature cache before runs need it, in several processes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from tlkit.config.structure import unstructure
from tlkit.sweeps.executors import Local, Ray, executor_of
from tlkit.sweeps.joining import thread_variables
from tlkit.sweeps.processes import Worker
from tlkit.sweeps.trials import Trial, plan_trials
from tlkit.system.errors import ConfigError, Problem, ResourceError
from tlkit.system.notebook import argument
from tlkit.system.signals import raise_on_signal
from tlkit.train.cost import duration_text

# What features depend on, besides single keys of [fit]; heads share them.
TABLES = ("data", "backbone", "freeze", "augmentation", "phase")
OF_FIT = ("feature_dtype", "winograd", "cache")


@frozen
class FilledCache:
    """What `features` has done.

    Attributes:
        images: The number of images whose features are in the cache, for each backbone and data;
            each augmented version counts.
        computed: How many this call computed; others were there or came from other processes.
        seconds: How long it took.
    """

    images: int
    computed: int
    seconds: float

    def __str__(self) -> str:
        took = duration_text(self.seconds)
        return f"features of {self.images} images are in the cache; {self.computed} new, in {took}"


def features(
    file: str | Path,
    *,
    overrides: Sequence[str] = (),
    workers: int | str = 1,
    processes: int | None = None,
    threads: int | None = None,
) -> FilledCache:
    """Compute the features of all images of an experiment or a sweep into the cache.

    Processes share the work shard by shard, on any machines that see the cache (`TLKIT_CACHE`):
    call it on each. What is stopped goes on where it was. Augmented versions of the training images
    are those of each seed and fold. Only the first stage's frozen layers count. Features depend on
    the processor and on the number of threads, so use those of the runs.

    Args:
        file: An experiment or a sweep.
        overrides: As for `sweep`.
        workers: The number of processes on this machine; or ``ray``, ``ray:auto`` or
            ``ray:HOST:PORT``: actors of a Ray cluster, which get the images' bytes and need no
            files.
        processes: The number of actors.
        threads: TensorFlow's threads per process; unset: the machine's, shared out.

    Raises:
        ConfigError: If there are no features to compute ahead.
        TlkitError: If anything else is wrong; the subclass says what.
    """
    executor = executor_of(workers, processes, threads)
    if not isinstance(executor, Local | Ray):
        message = "features are computed by processes of this machine or by Ray"
        raise ConfigError([Problem(argument("--workers"), f"{message}, got {workers}")])
    trials = plan_trials(file, overrides)
    distinct = list({_depends_on(trial): trial for trial in reversed(trials.trials)}.values())
    started, jobs = time.monotonic(), [_job(trial) for trial in distinct]
    environments = [thread_variables(threads)]
    if isinstance(executor, Local):
        count = executor.processes or 1
        environments = [executor.environment(number, count) for number in range(count)]
    else:
        place = {"place": executor.place, "processes": processes, "threads": threads}
        jobs = [{**job, "ray": place} for job in jobs]
    images, computed = fill_cache(jobs, environments)
    return FilledCache(images, computed, time.monotonic() - started)


def fill_cache(
    jobs: Sequence[Mapping[str, Any]],
    environments: Sequence[Mapping[str, str]],
    *,
    skip_errors: bool = False,
) -> tuple[int, int]:
    """Fill the cache for each experiment, in a process per environment.

    Returns the numbers of images whose features are there, and of those that were computed.
    """
    with raise_on_signal(), ThreadPoolExecutor(len(environments)) as pool:
        parts = [pool.submit(_fill, jobs, some, skip_errors) for some in environments]
        answers = [part.result() for part in parts]
    return max(images for images, _ in answers), sum(computed for _, computed in answers)


def _fill(
    jobs: Sequence[Mapping[str, Any]], environment: Mapping[str, str], skip_errors: bool
) -> tuple[int, int]:
    """Take part in filling the cache for each experiment, in one process."""
    images = computed = 0
    with Worker(environment=environment) as worker:
        for job in jobs:
            answer = worker({"fill": True, **job})
            if "error" not in answer:
                images += answer["images"]
                computed += answer["computed"]
            elif not skip_errors:
                raise _error(answer)
    return images, computed


def _job(trial: Trial) -> dict[str, Any]:
    origin = trial.experiment.origin
    return {
        "file": str(trial.variant.file),
        "text": origin.text if origin else None,
        "overrides": list(trial.overrides),
        "sha256": trial.sha256,
        "plugin_sha256": list(trial.experiment.plugins.sha256),
    }


def _error(answer: dict[str, Any]) -> Exception:
    error = ResourceError(answer["error"])
    error.exit_code = answer["exit_code"]
    return error


def _depends_on(trial: Trial) -> str:
    """Return what the features of an experiment depend on; folds have the same images.

    Which of them are augmented, and how, is the seed's and the fold's.
    """
    experiment = trial.experiment
    table = unstructure(evolve(experiment, origin=None), base=experiment.base)
    fit = {key: table["fit"].get(key) for key in OF_FIT}
    if experiment.phases[0].augmentation.changes:  # which images are how augmented, and how often
        fit |= {"seed": experiment.seed, "epochs": experiment.fit.epochs}
    else:
        table["data"] = {k: v for k, v in table["data"].items() if k not in ("fold", "split_seed")}
    return json.dumps([{k: table[k] for k in TABLES if k in table}, fit], sort_keys=True)
