"""`run`: train, evaluate and write a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict

from tlkit.config.experiment import Experiment
from tlkit.metrics.scores import EpochScores
from tlkit.parts.plugins import guarded
from tlkit.runfolder.folder import CALIBRATION, WEIGHTS, RunFolder
from tlkit.runfolder.inputs import DataFacts, write_inputs
from tlkit.runfolder.results import CalibrationRecord, MetricsRecord
from tlkit.runfolder.tables import read_seconds, write_history, write_predictions
from tlkit.runner.finished import Run
from tlkit.runner.prepare import prepare_run
from tlkit.runner.trackers import Trackers, tracked
from tlkit.system.errors import ResourceError
from tlkit.system.files import REPLACED
from tlkit.system.keras import start_keras
from tlkit.system.lock import locked
from tlkit.system.notebook import hint
from tlkit.system.renames import renamed_keywords
from tlkit.system.signals import Interrupted, graceful_stop, stop_if_asked
from tlkit.train.callback import Callback, Epoch

if TYPE_CHECKING:
    from tlkit.metrics.calibration import CalibratedOutputs
    from tlkit.train.fit import Fitted
    from tlkit.train.stage import PreparedRun

STOPPING = "stopping after this batch; press Ctrl-C again to quit immediately"
LINEAGE = ("source", "file", "sha256", "run", "began_with", "head_run", "head_sha256")
TRACKED = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


@renamed_keywords(watcher="callback")
def run(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    callback: Callback | None = None,
) -> Run:
    """Train, evaluate and write a run folder.

    Everything is checked before the folder is created.

    Args:
        experiment: An experiment, the path of its TOML file, or a dict with the same keys.
        out: The run folder, which must not exist; default: `runs/NAME-N`.
        overrides: ``a.b=value`` expressions for an experiment given as a path or a dict.
        callback: Receives progress; `tlkit.Terminal()` shows it. Unset: shown in a notebook only.

    Raises:
        Interrupted: If a stop was requested; `resume` continues the run.
        TlkitError: If something is wrong; each kind of problem has its own subclass.
    """
    from tlkit.reports.progress import default_callback  # needs rich

    callback = callback or default_callback()
    return make_run(experiment, None if out is None else Path(out), overrides, callback)


def make_run(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: Path | None,
    overrides: Sequence[str],
    callback: Callback,
    pages: bool = True,
) -> Run:
    """Do what `run` does, without the report and the model card if nobody will see them."""
    prepared = prepare_run(experiment, out, overrides, callback)
    with ExitStack() as lock:

        def fill(folder: RunFolder) -> None:
            lock.enter_context(locked(folder.path))
            write_inputs(
                folder,
                prepared.experiment,
                prepared.plan,
                prepared.splits,
                prepared.hashes,
                prepared.looks,
                prepared.weights,
                prepared.learned_before,
            )

        folder = RunFolder.create(out, prepared.experiment.name, fill)
        return execute(prepared, folder, callback, pages)


@guarded()
def execute(
    prepared: PreparedRun, folder: RunFolder, callback: Callback, pages: bool = True
) -> Run:
    """Train from a folder's newest checkpoint on, evaluate, and write the results.

    The folder is locked and has its first files. Raises `Interrupted` if a stop was requested.
    """
    from tlkit.runner.pages import write_pages
    from tlkit.train.checkpoint import Checkpoints
    from tlkit.train.checkpointer import Checkpointer
    from tlkit.train.fit import Training, fit

    experiment, model = prepared.experiment, prepared.model
    checkpoints = Checkpoints(folder.checkpoints)
    checkpointer = Checkpointer(model, prepared.plan, experiment.fit, checkpoints)
    with (
        graceful_stop(lambda: callback.on_note(STOPPING)),
        disk_and_memory_errors(folder.path),
        tracked(experiment, folder.path, callback) as trackers,
    ):
        if (checkpoint := checkpoints.newest(callback.on_note)) is not None:
            checkpointer.resume(checkpoint)
            callback.on_resume(checkpointer.history)
        training = Training(
            **asdict(prepared, recurse=False),
            checkpointer=checkpointer,
            record=_Recorder(folder, checkpointer.history, trackers),
        )
        try:
            fitted = fit(training, callback)
            stop_if_asked()
            finished = _write_results(prepared, fitted, folder)
            stop_if_asked()
            if pages:
                write_pages(folder, experiment, prepared.splits, model)
        except Interrupted as stop:
            message = _stopped(folder, checkpointer.history, prepared.plan.epochs)
            raise Interrupted(stop.signal, message) from None
        folder.tidy(experiment.fit.keep_checkpoints)
        trackers.end(_tracked_scores(finished), done=True)  # they may send the finished folder
    callback.on_run_end(folder.path)
    return finished


class _Recorder:
    """Writes history and times after each epoch to the run folder; tells the trackers."""

    def __init__(self, folder: RunFolder, history: Sequence[Epoch], trackers: Trackers) -> None:
        self.folder, self.trackers = folder, trackers
        self.seconds, self.started = read_seconds(folder, history), time.perf_counter()

    def __call__(self, history: Sequence[Epoch]) -> None:
        started, self.started = self.started, time.perf_counter()
        self.seconds.append(self.started - started)
        write_history(self.folder, history, self.seconds)
        self.trackers.epoch(history[-1])


def _write_results(prepared: PreparedRun, fitted: Fitted, folder: RunFolder) -> Run:
    """Calibrate, score and write what training gave; the metrics last, they finish the run."""
    from tlkit.metrics.calibration import calibrate
    from tlkit.weights.tensors import write_weights

    experiment, plan, splits = prepared.experiment, prepared.plan, prepared.splits
    last = best = calibrate(experiment.calibration, splits, fitted.last.probabilities)
    if fitted.best is not fitted.last:
        best = calibrate(experiment.calibration, splits, fitted.best.probabilities)
    run = Run(
        folder=folder.path,
        experiment=experiment,
        plan=plan,
        history=fitted.history,
        last=EpochScores(fitted.last.epoch, dict(last.scores)),
        best=EpochScores(fitted.best.epoch, dict(best.scores)),
        model=prepared.model,
    )
    kept = best if fitted.kept is fitted.best else last
    write_weights(folder.path / WEIGHTS, prepared.model, plan.layers)
    if experiment.calibration.wanted:
        folder.write_json(
            CALIBRATION, CalibrationRecord.of(kept, splits, fitted.kept.flip).as_json()
        )
    write_predictions(folder, plan.classes, _predictions(prepared, kept))
    folder.finish(_metrics(run, prepared.weights, fitted.refit_images).as_json())
    return run


def _predictions(prepared: PreparedRun, outputs: CalibratedOutputs) -> dict[str, Any]:
    examples = dict(prepared.splits.items())
    return {
        split: (examples[split], probabilities, outputs.predicted[split])
        for split, probabilities in outputs.probabilities.items()
    }


def _metrics(run: Run, weights: Mapping[str, str], refit_images: int | None) -> MetricsRecord:
    keep = run.experiment.fit.keep
    facts: dict[str, Any] = dict(run.plan.data)
    return MetricsRecord(
        stand_in=run.plan.stand_in or None,
        evaluated_on="test" if run.plan.evaluated_on == "test" else "val",
        classes=run.plan.classes,
        data=DataFacts(**facts),
        weights={key: weights[key] for key in LINEAGE if key in weights},
        keep=keep,
        refit_images=refit_images,
        kept=run.kept,
        other=run.last if keep == "best" else run.best,
    )


def _tracked_scores(run: Run) -> dict[str, float]:
    """Return the scores that trackers show."""
    values = {
        f"{split}/{name}": getattr(scores, name)
        for split, scores in run.scores.items()
        for name in TRACKED
    }
    return {name: value for name, value in values.items() if value is not None}


def _stopped(folder: RunFolder, history: Sequence[Epoch], epochs: int) -> str:
    """Return the message of a run that was stopped, with the command that continues it."""
    when = f"after epoch {history[-1].epoch} of {epochs}" if history else "in the first epoch"
    return f"stopped {when}; continue with: {hint('resume', folder.path)}"


@contextmanager
def disk_and_memory_errors(folder: Path) -> Iterator[None]:
    """Turn a shortage of disk or memory into a `ResourceError` that says how to continue."""
    start_keras()
    import tensorflow as tf

    then = f"then continue with: {hint('resume', folder)}"
    try:
        yield
    except ResourceError as error:
        if getattr(error.__cause__, "strerror", "") == REPLACED:
            raise ResourceError(_replaced(folder)) from error
        raise ResourceError(f"{error}\n{then}") from error
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ResourceError(
            f"{folder}: not enough memory; give the run more, "
            f"or start another one with a smaller fit.batch_size\n{then}"
        ) from error
    except OSError as error:
        if error.strerror == REPLACED:
            raise ResourceError(_replaced(folder)) from error
        message = f"{folder}: cannot be written to: {error.strerror or error}"
        if isinstance(error.filename, str) and not Path(error.filename).is_relative_to(folder):
            message = f"{error.filename}: {error.strerror}"  # such as a part's own file
        raise ResourceError(f"{message}\n{then}") from error


def _replaced(folder: Path) -> str:
    return f"{folder}: {REPLACED}; the run can be resumed under its new name"
