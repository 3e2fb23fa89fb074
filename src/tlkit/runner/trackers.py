"""Trackers send a run's figures to TensorBoard or MLflow. A tracker that fails never ends a run."""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from tlkit.config.experiment import Experiment, Track
from tlkit.runfolder.inputs import ExperimentRecord
from tlkit.system.errors import PartError
from tlkit.train.callback import Callback, Epoch

FIGURES = tuple(field.name for field in attrs.fields(Epoch) if field.name != "epoch")


def _figures(epoch: Epoch) -> dict[str, float]:
    """Return the figures that an epoch has; `l2` is a solver's."""
    values = {name: getattr(epoch, name) for name in FIGURES}
    return {name: float(value) for name, value in values.items() if value is not None}


class Tracker(ABC):
    """Receives the figures of a run; may raise anything."""

    name: str
    where = ""  # what the user should know of the place that it writes to

    @abstractmethod
    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""

    @abstractmethod
    def end(self, scores: Mapping[str, float], done: bool) -> None:
        """The run has ended: with these scores by name if `done`, otherwise early."""


class TensorBoard(Tracker):
    """Writes event files for TensorBoard; only reading them needs the package tensorboard."""

    name = "TensorBoard"

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))
        settings = "\n".join(f"{key} = {value}" for key, value in _settings(experiment))
        fence = "`" * 40  # longer than any in the settings
        self._write("experiment", "text", f"{fence}\n{settings}\n{fence}", step=0)

    def epoch(self, epoch: Epoch) -> None:
        """Write the figures of an epoch."""
        for name, value in _figures(epoch).items():
            self._write(name, "scalars", value, epoch.epoch)
        self._writer.flush()

    def end(self, scores: Mapping[str, float], done: bool) -> None:
        """Write the scores and close the file."""
        for name, value in scores.items():
            self._write(name, "scalars", value, step=0)
        self._writer.close()

    def _write(self, tag: str, plugin: str, value: str | float, step: int) -> None:
        # As `tf.summary.scalar` and `text` do, which need the package tensorboard.
        import tensorflow as tf

        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = plugin
        metadata.data_class = 1 if plugin == "scalars" else 2  # DATA_CLASS_SCALAR, _TENSOR
        with self._writer.as_default():
            tf.summary.write(tag, tf.constant(value), step, metadata)


class MLflow(Tracker):
    """Creates an MLflow run: settings as parameters, figures per epoch, the folder as artifacts.

    Its destination is MLflow's own setting, such as the variable `MLFLOW_TRACKING_URI`. MLflow's
    global state, such as an active run, is left alone.
    """

    name = "MLflow"
    max_params = 100  # MLflow's limit per request
    max_length = 6000  # MLflow's limit per value

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Param

        self._client, self._folder = MlflowClient(), folder
        self.where = without_password(get_tracking_uri())
        title = experiment.track.experiment or experiment.name
        known = self._client.get_experiment_by_name(title)
        number = known.experiment_id if known else self._client.create_experiment(title)
        self._run = self._client.create_run(number, run_name=folder.name).info.run_id
        params = [Param(_key(k), v[: self.max_length]) for k, v in _settings(experiment)]
        for start in range(0, len(params), self.max_params):
            self._client.log_batch(self._run, params=params[start : start + self.max_params])

    def epoch(self, epoch: Epoch) -> None:
        """Send the figures of an epoch."""
        self._send(_figures(epoch), epoch.epoch)

    def end(self, scores: Mapping[str, float], done: bool) -> None:
        """Send the scores, and the folder of a finished run."""
        self._send(scores, 0)
        for path in sorted(self._folder.iterdir()) if done else ():
            if path.is_file():
                self._client.log_artifact(self._run, str(path))
            elif path.name not in {"checkpoints", "tensorboard"}:
                self._client.log_artifacts(self._run, str(path), path.name)
        self._client.set_terminated(self._run, "FINISHED" if done else "FAILED")

    def _send(self, figures: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_key(name), value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)


def without_password(uri: str) -> str:
    """Return an address without the name and password in it, if any.

    >>> without_password("https://me:secret@host.example/mlflow")
    'https://host.example/mlflow'
    """
    return re.sub(r"//[^/@]*@", "//", uri)


def _key(name: str) -> str:
    """Return a name with only the characters that MLflow allows.

    >>> _key("class_weights.weights.oak-tree"), _key("<b>")
    ('class_weights.weights.oak-tree', '_b_')
    """
    return re.sub(r"[^A-Za-z0-9_./ -]", "_", name)[:250]


def _settings(experiment: Experiment) -> list[tuple[str, str]]:
    from tlkit.reports.compare import flatten  # needs NumPy

    return list(flatten(ExperimentRecord.of(experiment).as_json()).items())


class Trackers:
    """The trackers of a run. One that raises is reported once and then left out."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._working: list[Tracker] = []

    def add(self, name: str, start: Callable[[], Tracker]) -> None:
        """Start a tracker."""
        with self._failures_reported(name):
            tracker = start()
            self._working.append(tracker)
            if tracker.where:
                self._callback.on_note(f"{name} writes to {tracker.where}")

    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        self._for_each(lambda tracker: tracker.epoch(epoch))

    def end(self, scores: Mapping[str, float], done: bool) -> None:
        """The run has ended; later calls do nothing."""
        self._for_each(lambda tracker: tracker.end(scores, done))
        self._working = []

    def _for_each(self, send: Callable[[Tracker], None]) -> None:
        for tracker in list(self._working):
            with self._failures_reported(tracker.name, tracker):
                send(tracker)

    @contextmanager
    def _failures_reported(self, name: str, tracker: Tracker | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a tracker's package may raise anything
            text = " ".join(str(error).split())[:200]
            self._callback.on_note(
                f"{name} failed ({type(error).__name__}: {text}); continuing without it"
            )
            if tracker is not None:
                self._working.remove(tracker)


def require_trackers(track: Track) -> None:
    """Raise `PartError` if a tracker needs a package that is not installed."""
    if track.mlflow and importlib.util.find_spec("mlflow") is None:
        raise PartError(
            "track.mlflow: needs MLflow, which is not installed; pip install tlkit[mlflow]"
        )


@contextmanager
def tracked(experiment: Experiment, folder: Path, callback: Callback) -> Iterator[Trackers]:
    """Yield the trackers of a run; if it ends early, they are told that it failed."""
    trackers = Trackers(callback)
    if experiment.track.tensorboard:
        trackers.add("TensorBoard", lambda: TensorBoard(folder, experiment))
    if experiment.track.mlflow:
        trackers.add("MLflow", lambda: MLflow(folder, experiment))
    try:
        yield trackers
    finally:
        trackers.end({}, done=False)
