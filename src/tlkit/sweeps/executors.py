"""Executors: where the processes that make a sweep's runs are started.

All they do is start processes that take part in the sweep, and wait for them. Which process makes
which run is settled in the sweep's folder (`tlkit.sweeps.board`), so results do not depend on it.
"""

from __future__ import annotations

import importlib
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tlkit.parts.registry import Registry
from tlkit.parts.validators import at_least, unless_none
from tlkit.sweeps.board import Board
from tlkit.sweeps.joining import POLL_S, take_part, thread_variables, work_off
from tlkit.sweeps.processes import Worker
from tlkit.system.cache import default_folder
from tlkit.system.errors import ConfigError, PartError, Problem
from tlkit.system.notebook import argument
from tlkit.system.parallel import available_cores

# What makes Ray's processes listen on the loopback address alone, also on Linux, by its old name.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
MOST_JOBS = 16  # of a Slurm array that names no number


@frozen(kw_only=True)
class Executor(ABC):
    """Where the processes that make a sweep's runs are started.

    Attributes:
        place: What follows the colon in ``--workers NAME:PLACE``.
        processes: How many processes to start; None: what suits the place.
        threads: TensorFlow's threads per process; None: what suits the place. The last bits of a
            result depend on it.
    """

    place: str = ""
    processes: int | None = field(default=None, validator=unless_none(at_least(1)))
    threads: int | None = field(default=None, validator=unless_none(at_least(1)))

    @abstractmethod
    def run(self, board: Board, stop: threading.Event) -> None:
        """Start the processes, and return when all of them have ended.

        Args:
            board: The sweep. Processes elsewhere call `take_part` with its folder.
            stop: When it is set, stop the processes and return.
        """


executors: Registry[Any] = Registry(
    "executor", Executor, modules=(__name__,), group="tlkit.executors"
)


@executors.register("local")
@frozen(kw_only=True)
class Local(Executor):
    """Processes on this machine, which share its processors and graphics cards."""

    def run(self, board: Board, stop: threading.Event) -> None:
        """Start the processes, and return when all of them have ended."""
        count = min(self.processes or 1, len(board.trials.trials))
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker(environment=self.environment(number, count)))
                       for number in range(count)]  # fmt: skip
            pool = stack.enter_context(ThreadPoolExecutor(count))
            begun = [pool.submit(work_off, board, worker, stop) for worker in workers]
            try:
                while not all(thread.done() for thread in begun):
                    if stop.wait(0.1):
                        break
                    for thread in begun:
                        if thread.done():
                            thread.result()  # raises what the thread raised
            finally:
                stop.set()
                for worker in workers:
                    worker.close_input()  # it stops between two batches
            for thread in begun:
                thread.result()

    def environment(self, number: int, count: int) -> dict[str, str]:
        """Return the variables that give a process its share of the machine."""
        threads = self.threads
        if threads is None and count > 1 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
            threads = max(1, available_cores() // count)
        shares = thread_variables(threads)
        cards = graphics_cards()
        if count > 1 and len(cards) > 1:
            shares["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
        return shares


@contextmanager
def ray_session(place: str) -> Iterator[Any]:
    """Connect to a Ray cluster, or start one for this user and machine only; yield the package.

    Raises:
        ConfigError: If no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not place:  # before the import, which reads them
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault(LOOPBACK, "0")
    ray = _package("ray", "ray")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    options["address"] = place or "local"  # else Ray joins whatever cluster was here last
    if not place:
        options["include_dashboard"] = False
    started_here = not ray.is_initialized()
    if started_here:
        try:
            ray.init(**options)
        except ConnectionError as error:
            raise ConfigError(
                [Problem(argument("--workers"), f"no Ray cluster answers: {error}")]
            ) from None
    try:
        yield ray
    finally:
        if started_here:
            ray.shutdown()


@executors.register("ray")
@frozen(kw_only=True)
class Ray(Executor):
    """Tasks of a Ray cluster whose nodes see the sweep's folder: ``auto``, ``HOST:PORT``, or none.

    Without a place, Ray is started on this machine alone. Each task is a process of its own, and
    Ray starts it again elsewhere if its node is lost.
    """

    def run(self, board: Board, stop: threading.Event) -> None:
        """Start the tasks, and return when all of them have ended."""
        with ray_session(self.place) as ray:
            self._run(ray, board, stop)

    def _run(self, ray: Any, board: Board, stop: threading.Event) -> None:
        threads = self.threads or 1
        most = int(ray.cluster_resources().get("CPU", 1)) // threads
        count = min(self.processes or max(1, most), len(board.trials.trials))
        task = ray.remote(num_cpus=threads, max_retries=3, max_calls=1)(take_part)
        folder = str(board.folder.path.resolve())
        waiting = [
            task.remote(folder, threads, board.plugin_files(), board.left_s) for _ in range(count)
        ]
        while waiting and not stop.is_set():
            ended, waiting = ray.wait(waiting, timeout=POLL_S)
            for task_done in ended:
                with suppress(ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
                    ray.get(task_done)  # what it had begun, the others have taken over
        for task_left in waiting:
            ray.cancel(task_left)


@executors.register("slurm")
@frozen(kw_only=True)
class Slurm(Executor):
    """An array of Slurm jobs, through submitit; the place is the partition.

    ``slurm:local`` makes the same array of processes on this machine, to try it out.
    """

    def run(self, board: Board, stop: threading.Event) -> None:
        """Submit the jobs, and return when all of them have ended."""
        submitit = _package("submitit", "submitit")
        folder = board.folder.path.resolve()
        count = min(self.processes or MOST_JOBS, len(board.trials.trials))
        array = submitit.AutoExecutor(
            folder=default_folder() / "slurm" / folder.name,  # its pickles stay out of the sweep's
            cluster="local" if self.place == "local" else "slurm",
        )
        array.update_parameters(name=f"tlkit-{folder.name}", timeout_min=24 * 60,
                                cpus_per_task=self.threads or 1)  # fmt: skip
        if self.place not in ("", "local"):
            array.update_parameters(slurm_partition=self.place)
        threads, plugins = self.threads or 1, board.plugin_files()
        jobs = array.map_array(
            take_part,
            [str(folder)] * count,
            [threads] * count,
            [plugins] * count,
            [board.left_s] * count,
        )
        while not all(job.done() for job in jobs):
            if stop.wait(POLL_S):
                for job in jobs:
                    job.cancel()
                return


def executor_of(
    workers: int | str, processes: int | None = None, threads: int | None = None
) -> Executor:
    """Return the executor that ``--workers`` names."""
    text = str(workers)
    if text.isdecimal():
        if int(text) < 1:
            raise ConfigError([Problem(argument("--workers"), f"must be at least 1, got {text}")])
        return Local(processes=int(text), threads=threads)
    name, _, place = text.partition(":")
    part: type[Executor] = executors.get(name)
    return part(place=place, processes=processes, threads=threads)


def graphics_cards() -> list[str]:
    """Return the numbers of the graphics cards that CUDA may use, without starting it."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [card for card in chosen.split(",") if card.strip()]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def _package(name: str, extra: str) -> Any:
    """Import an optional package without starting Keras."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PartError(
            f"{name}: cannot be imported: {error}; pip install 'tlkit[{extra}]'"
        ) from None
