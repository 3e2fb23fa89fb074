"""A run: the steps from an experiment to its folder, in order, once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.toml import as_experiment
from tlkit.data.splits import SPLITS
from tlkit.metrics.scores import EpochScores, Scores
from tlkit.parts.datasets import load_splits
from tlkit.runfolder.folder import CALIBRATION, METRICS, WEIGHTS, RunFolder, folder_exists
from tlkit.runfolder.record import CalibrationRecord, DataFacts, MetricsRecord, write_inputs
from tlkit.runfolder.tables import read_seconds, write_history, write_predictions
from tlkit.runner.trackers import Trackers, require_trackers, tracked
from tlkit.system.cache import FeatureCache, default_folder
from tlkit.system.errors import ConfigError, Problem, ResourceError, RunFolderError
from tlkit.system.keras import start_keras
from tlkit.system.lock import locked
from tlkit.system.renames import renamed_keywords
from tlkit.system.signals import Interrupted, graceful_stop, stop_if_asked
from tlkit.system.text import shell_quoted
from tlkit.train.callback import Callback, Epoch
from tlkit.train.plan import Plan, make_plan

if TYPE_CHECKING:
    import keras

    from tlkit.train.stage import PreparedRun


@contextmanager
def disk_and_memory_errors(folder: Path) -> Iterator[None]:
    """Turn a lack of disk or memory in the body into an error that says how to go on.

    Args:
        folder: The run folder; its checkpoints are good whatever happens.

    Raises:
        ResourceError: If there was one.
    """
    start_keras()
    import tensorflow as tf

    try:
        yield
    except ResourceError as error:
        raise ResourceError(f"{error}\n{_then(folder)}") from error
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ResourceError(
            f"{folder}: the memory is not enough; give the run more, "
            f"or start another one with a smaller fit.batch_size\n{_then(folder)}"
        ) from error
    except OSError as error:
        what = f"{folder}: cannot be written to: {error.strerror or error}"
        if isinstance(error.filename, str) and not Path(error.filename).is_relative_to(folder):
            what = f"{error.filename}: {error.strerror}"  # a part's own file, it may be
        raise ResourceError(f"{what}\n{_then(folder)}") from error


def _then(folder: Path) -> str:
    return f"when that is mended: tlkit resume {shell_quoted(folder)}"


def prepare_run(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: Path | None,
    overrides: Sequence[str],
    callback: Callback,
) -> PreparedRun:
    """Find and check everything that training needs, down to the last image.

    Args:
        experiment: An experiment, the path of its TOML file, or a dict with the same keys.
        out: The folder that results will go to, which must not exist.
        overrides: ``a.b=value`` expressions for an experiment given as a path or a dict.
        callback: Told how it goes.

    Raises:
        TlkitError: Of the kind that says what is wrong.
    """
    experiment = as_experiment(experiment, overrides)
    require_trackers(experiment.track)
    splits = load_splits(experiment.data)
    plan = make_plan(experiment, splits)

    from tlkit.data.checks import check_images
    from tlkit.data.images import DecodedImageIndex
    from tlkit.train.assemble import assemble
    from tlkit.train.stage import PreparedRun

    if out is not None and out.exists():
        raise RunFolderError(folder_exists(out))
    _refuse_among_images(out, experiment)
    callback.on_plan(plan, splits)
    checked = check_images(
        splits,
        skip_bad=experiment.data.on_bad_image == "skip",
        allow_leakage=experiment.data.allow_leakage,
        on_image=callback.on_image_checked,
        index=DecodedImageIndex(default_folder()),
    )
    splits = checked.splits
    plan = make_plan(experiment, splits) if splits.skipped else evolve(plan, data=splits.facts())
    callback.on_images_checked(plan, splits)
    model, weights = assemble(
        experiment.backbone,
        experiment.head,
        len(plan.classes),
        experiment.seed,
        experiment.fit.mixed_precision,
    )
    callback.on_weights_loaded(weights)
    return PreparedRun(
        experiment=experiment,
        splits=splits,
        hashes=checked.hashes,
        plan=plan,
        model=model,
        weights=weights,
        cache=FeatureCache(default_folder()) if plan.cache else None,
    )


def _refuse_among_images(out: Path | None, experiment: Experiment) -> None:
    """Refuse a run folder whose pictures would be taken for images the next time."""
    top = getattr(experiment.data, "path", None)
    if out is None or not isinstance(top, Path):
        return
    for split in SPLITS:
        if out.absolute().is_relative_to((top / split).absolute()):
            what = f"{out}: is among the images of {top / split}; choose another"
            raise ConfigError([Problem("--out", what)])


STOPPING = "stopping after this batch; Ctrl-C once more leaves at once"


@frozen(kw_only=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        experiment: What was asked for.
        plan: What it did.
        history: Its epochs.
        last: How good the model was after the last epoch.
        best: How good it was after the best epoch, by `[fit] monitor`.
        model: The model with the weights that `[fit] keep` asks for.
    """

    folder: Path
    experiment: Experiment = field(repr=False)
    plan: Plan = field(repr=False)
    history: tuple[Epoch, ...] = field(repr=False)
    last: EpochScores
    best: EpochScores
    model: keras.Model = field(repr=False)

    @property
    def kept(self) -> EpochScores:
        """Return how good the weights are that were kept."""
        return self.best if self.experiment.fit.keep == "best" else self.last

    @property
    def scores(self) -> dict[str, Scores]:
        """Return their scores by split."""
        return self.kept.scores

    @property
    def result(self) -> Scores:
        """Return their scores on the split that the run is judged by."""
        return self.scores[self.plan.evaluated_on]


def check(
    experiment: Experiment | str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Plan:
    """Decide everything a run would do, and do nothing.

    Args:
        experiment: As for `run`.
        overrides: As for `run`.

    Raises:
        ConfigError: If the experiment does not fit its data or itself.
        DataError: If the data are missing or wrong.
    """
    experiment = as_experiment(experiment, overrides)
    return make_plan(experiment, load_splits(experiment.data))


@renamed_keywords(watcher="callback")
def run(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    callback: Callback | None = None,
) -> Run:
    """Train, evaluate and write a run folder.

    Everything that can be found wrong is found before the folder is made.

    Args:
        experiment: An experiment, the path of its TOML file, or a dict with the same keys.
        out: The run folder, which must not exist; unset: `runs/NAME-N`.
        overrides: ``a.b=value`` expressions for an experiment given as a path or a dict.
        callback: Told how it goes, such as `tlkit.Terminal()`; unset: nobody.

    Raises:
        Interrupted: If the process was asked to stop; `resume` goes on.
        TlkitError: Of the kind that says what is wrong.
    """
    out = None if out is None else Path(out)
    callback = callback or Callback()
    ready = prepare_run(experiment, out, overrides, callback)
    with ExitStack() as held:

        def begin(folder: RunFolder) -> None:
            held.enter_context(locked(folder.path))
            write_inputs(
                folder, ready.experiment, ready.plan, ready.splits, ready.hashes, ready.weights
            )

        folder = RunFolder.create(out, ready.experiment.name, begin)
        return execute(ready, folder, callback)


def execute(ready: PreparedRun, folder: RunFolder, callback: Callback) -> Run:
    """Train from where a folder's checkpoints stand, evaluate, and write the results.

    Args:
        ready: What training needs.
        folder: The run's folder, locked, with what it begins with.
        callback: Told how it goes.

    Raises:
        Interrupted: If the process was asked to stop; the run can go on later.
        TlkitError: Of the kind that says what is wrong.
    """
    from tlkit.metrics.calibration import calibrate
    from tlkit.runner.pages import write_pages
    from tlkit.train.checkpoint import Checkpoints
    from tlkit.train.checkpointer import Checkpointer
    from tlkit.train.fit import Training, fit
    from tlkit.weights.tensors import write_weights

    experiment, plan, splits, model = ready.experiment, ready.plan, ready.splits, ready.model
    keeper = Checkpointer(model, plan, experiment.fit, Checkpoints(folder.checkpoints))
    with (
        graceful_stop(lambda: callback.on_note(STOPPING)),
        disk_and_memory_errors(folder.path),
        tracked(experiment, folder.path, callback) as trackers,
    ):
        if (checkpoint := keeper.checkpoints.newest(callback.on_note)) is not None:
            keeper.resume(checkpoint)
            callback.on_resume(keeper.history)
        record = _Record(folder, keeper.history, trackers)
        try:
            prepared = asdict(ready, recurse=False)
            fitted = fit(Training(**prepared, checkpointer=keeper, record=record), callback)
            stop_if_asked()
            settings = experiment.calibration
            last = calibrate(settings, splits, fitted.last.probabilities)
            best = last
            if fitted.best.epoch != fitted.last.epoch:
                best = calibrate(settings, splits, fitted.best.probabilities)
            kept = best if experiment.fit.keep == "best" else last
            done = Run(
                folder=folder.path,
                experiment=experiment,
                plan=plan,
                history=fitted.history,
                last=EpochScores(fitted.last.epoch, dict(last.scores)),
                best=EpochScores(fitted.best.epoch, dict(best.scores)),
                model=model,
            )
            write_weights(folder.path / WEIGHTS, model, plan.layers)
            if settings.wanted:
                calibration = CalibrationRecord.of(kept, splits)
                folder.write_json(CALIBRATION, calibration.as_json())
            examples = dict(splits.items())
            predictions = {
                split: (examples[split], probabilities, kept.predicted[split])
                for split, probabilities in kept.probabilities.items()
            }
            write_predictions(folder, plan.classes, predictions)
            metrics = _metrics(done, ready.weights)  # last: with them the run is finished
            folder.write_json(METRICS, metrics.as_json())
            stop_if_asked()
            write_pages(folder, experiment, splits, model)
        except Interrupted as stop:
            reached = keeper.history[-1].epoch if keeper.history else 0
            raise Interrupted(stop.signal, _stopped(folder, reached, experiment)) from None
        folder.tidy(experiment.fit.keep_checkpoints)
        trackers.end(_told(done), done=True)  # they send the folder as it is now
    return done


class _Record:
    """Writes the epochs so far to a run's folder, with how long each took; tells the trackers.

    Args:
        folder: The folder.
        history: The epochs that an earlier process has left.
        trackers: Told of every other one.
    """

    def __init__(self, folder: RunFolder, history: Sequence[Epoch], trackers: Trackers) -> None:
        self.folder, self.trackers, self.mark = folder, trackers, time.perf_counter()
        self.seconds = read_seconds(folder, history)

    def __call__(self, history: Sequence[Epoch]) -> None:
        before, self.mark = self.mark, time.perf_counter()
        self.seconds.append(self.mark - before)
        write_history(self.folder, history, self.seconds)
        self.trackers.epoch(history[-1])


def _stopped(folder: RunFolder, reached: int, experiment: Experiment) -> str:
    """Return the message that a run was stopped and how it goes on."""
    after = f"after epoch {reached} of {experiment.fit.epochs}" if reached else "in the first epoch"
    return f"stopped {after}; go on with: tlkit resume {shell_quoted(folder.path)}"


def _told(run: Run) -> dict[str, float]:
    """Return what trackers are told of how good the kept weights are."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
    found = {
        f"{split}/{name}": getattr(scores, name)
        for split, scores in run.scores.items()
        for name in names
    }
    return {name: value for name, value in found.items() if value is not None}


def _metrics(run: Run, weights: Mapping[str, str]) -> MetricsRecord:
    """Return the record of a run's scores."""
    keep = run.experiment.fit.keep
    facts: dict[str, Any] = dict(run.plan.data)
    return MetricsRecord(
        stand_in=run.plan.stand_in or None,
        evaluated_on="test" if run.plan.evaluated_on == "test" else "val",
        classes=run.plan.classes,
        data=DataFacts(**facts),
        weights={key: weights[key] for key in ("source", "file", "sha256") if key in weights},
        keep=keep,
        kept=run.kept,
        other=run.last if keep == "best" else run.best,
    )
