"""`experiment.json` as an experiment again, with placeholders for parts that are not available.

Using a finished run needs its backbone, its head and its calibration; training needs all parts. A
run folder never says what code is run: plugin files are only run if the caller names them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import attrs
from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import keys, structure, with_new_names
from tlkit.parts.kinds import (
    Augmentation,
    Backbone,
    ClassWeights,
    Dataset,
    FreezePolicy,
    Loss,
    Optimizer,
    Schedule,
    registries,
)
from tlkit.parts.plugins import active, given_plugins, plugin_message
from tlkit.parts.registry import PLUGIN, Registry
from tlkit.runfolder.folder import ENVIRONMENT, EXPERIMENT, RunFolder
from tlkit.system.errors import ConfigError, DataError, PartError, RunFolderError

FROM_MODEL, FROM_IMAGES = "FromModel", "FromImages"  # parts made in Python, as recorded
NEEDED = ("backbone", "head")  # for prediction


def read_experiment(
    folder: RunFolder,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
    base: Path | None = None,
    *,
    to_train: bool = False,
) -> Experiment:
    """Return a run's experiment. Runs only the given plugin files."""
    table, source = folder.read_json(EXPERIMENT), str(folder.path / EXPERIMENT)
    listed = _listed_plugins(table, source)
    if isinstance(table, Mapping):
        table = with_new_names(Experiment, table)
    table = _with_given_backbone(folder, table, backbone)
    files = given_plugins(
        listed.modules, listed.sha256, plugins, str(folder.path), all_needed=to_train
    )
    with active(files):
        if isinstance(table, Mapping):
            for kind in _kinds() if to_train else NEEDED:
                for holder in (table, *_phases(table)):
                    _require(folder, kind, holder.get(kind), listed)

            def available(holder: Mapping[str, Any]) -> dict[str, Any]:
                return dict(holder) | {
                    kind: _available(kind, holder[kind], base or folder.path, source)
                    for kind in PLACEHOLDERS
                    if kind in holder
                    if isinstance(name := _name(holder[kind]), str)
                    if not to_train or name == FROM_IMAGES
                }

            phases = [available(phase) for phase in _phases(table)]
            table = available(table) | ({"phase": phases} if phases else {})
        return structure(
            Experiment, table, base=base or folder.path, source=source, own_record=True
        )


@frozen(kw_only=True)
class _ListedPlugins:
    """The table `plugins` of a record, in which a module is a name and not a path."""

    modules: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()


def _listed_plugins(table: Any, source: str) -> _ListedPlugins:
    recorded = table.get("plugins", {}) if isinstance(table, Mapping) else {}
    try:
        listed = structure(_ListedPlugins, recorded, own_record=True)
    except ConfigError:
        listed = None
    if listed is None or len(listed.modules) != len(listed.sha256):
        raise RunFolderError(f"{source}: plugins is not as tlkit writes it")
    return listed


def _phases(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the tables of the phases, if they are as tlkit writes them."""
    phases: Any = table.get("phase")
    whole = isinstance(phases, list) and all(isinstance(phase, Mapping) for phase in phases)
    return phases if whole else []


def _name(table: Any) -> Any:
    return table.get("name") if isinstance(table, Mapping) else None


def _kinds() -> dict[str, Registry[Any]]:
    """Return the registry of each of an experiment's tables that names a part."""
    return {
        key.name: key.metadata["registry"] for key in keys(Experiment) if "registry" in key.metadata
    }


def _with_given_backbone(folder: RunFolder, table: Any, backbone: Backbone | None) -> Any:
    """Return the table with the given backbone, which must be the recorded one."""
    recorded = table.get("backbone") if isinstance(table, Mapping) else None
    if backbone is None:
        if _name(recorded) == FROM_MODEL:
            raise PartError(
                f"{folder.path}: was made with a Keras model, which no folder can hold; give it "
                "back from Python: tlkit.load(run, backbone=tlkit.FromModel(model=...))"
            )
        return table
    if not hasattr(backbone, "record"):
        raise PartError(f"backbone: must be a tlkit.FromModel, got {type(backbone).__name__}")
    if backbone.record() != recorded:
        raise PartError(
            f"{folder.path}: was made with another backbone than the given one: "
            f"{recorded}, got {backbone.record()}"
        )
    return {**table, "backbone": backbone}


def _require(folder: RunFolder, kind: str, table: Any, listed: _ListedPlugins) -> None:
    """Raise if a part comes from a package or plugin file that is not there."""
    name, registry = _name(table), _kinds()[kind]
    if not isinstance(name, str) or name == FROM_IMAGES or name in registry.names():
        return
    parts: Any = []
    with suppress(RunFolderError, AttributeError):  # only for a better message
        parts = folder.read_json(ENVIRONMENT).get("parts", [])
    for part in parts if isinstance(parts, list) else ():
        known = dict(registries.items()).get(part.get("kind", ""))
        if known is registry and part.get("name") == name and "distribution" in part:
            raise PartError(
                f"{folder.path}: needs the {registry.kind} {name!r} of "
                f"{part['distribution']} {part['version']}; install that package"
            )
    if listed.modules:
        raise PartError(plugin_message(str(folder.path), listed.modules[0], listed.sha256[0]))


def _available(kind: str, table: Mapping[str, Any], base: Path, source: str) -> Any:
    """Return a part, or a placeholder if it is not available."""
    others = {} if kind == "data" else {"data": _placeholder("data", {})}
    without_stand_in = {key: value for key, value in table.items() if key != "stand_in"}
    for settings in (table, without_stand_in):  # data may be available without their stand-in
        try:
            given = {**others, kind: settings}
            experiment = structure(Experiment, given, base=base, source=source, own_record=True)
        except (ConfigError, PartError):
            continue
        return getattr(experiment, kind)
    return _placeholder(kind, table, source)


def _placeholder(kind: str, table: Mapping[str, Any], source: str = "") -> Any:
    """Return a placeholder with the recorded values of the keys that all parts of a kind share."""
    cls = PLACEHOLDERS[kind]
    shared = {key.name for key in keys(cls)} - {"stand_in"}  # may name a missing dataset
    known = {key: value for key, value in table.items() if key in shared}
    part = structure(cls, known, source=f"{source}: {kind}", own_record=True)
    return evolve(part, recorded=dict(table))


def _placeholder_class(
    kind: str, base: type, method: str, error: type[Exception] = PartError
) -> Any:
    """Return a kind of part that holds what was recorded and cannot be used."""

    def refuse(self: Any, *_: Any) -> NoReturn:
        name = self.recorded.get("name")
        if name == FROM_IMAGES:
            raise error("the run was made with images from memory, which its folder does not hold")
        raise error(f"this run was made with the {kind} {name!r}, which is not available here")

    fields: dict[str, Any] = {"recorded": attrs.field(factory=dict, metadata={"key": False})}
    body = {
        method: refuse,
        "record": lambda self: dict(self.recorded),
        "__doc__": f"A {base.__name__} that is not available; holds what was recorded.",
        "__module__": __name__,
    }
    name = f"Unavailable{base.__name__}"
    return attrs.make_class(name, fields, (base,), body, frozen=True, kw_only=True, slots=True)


PLACEHOLDERS = {
    "data": _placeholder_class("dataset", Dataset, "load", DataError),
    "freeze": _placeholder_class("freeze policy", FreezePolicy, "stages"),
    "class_weights": _placeholder_class("class weighting", ClassWeights, "for_counts"),
    "augmentation": _placeholder_class("augmentation", Augmentation, "augment"),
    "loss": _placeholder_class("loss", Loss, "build"),
    "optimizer": _placeholder_class("optimizer", Optimizer, "build"),
    "schedule": _placeholder_class("schedule", Schedule, "learning_rate"),
}


def foreign_parts(experiment: Experiment) -> Iterator[dict[str, str]]:
    """Yield every part that is not tlkit's, with its origin.

    The origin is `distribution` and `version` for an installed package, `file` and `sha256` for a
    plugin file, and `defined` for a class registered in the process itself.
    """
    kinds = {id(registry): kind for kind, registry in registries.items()}
    parts = {
        type(part): registry
        for key, registry in _kinds().items()
        for holder in (experiment, *experiment.phase)
        if (part := getattr(holder, key, None)) is not None
    }
    for cls, registry in parts.items():
        if registry.source_of(cls) != "tlkit":
            name = registry.name_of(cls)
            origin = _origin(experiment, registry, cls)
            yield {"kind": kinds[id(registry)], "name": name, **origin}


def _origin(experiment: Experiment, registry: Registry[Any], cls: type) -> dict[str, str]:
    source = registry.source_of(cls)
    if cls.__module__.startswith(PLUGIN):
        sha256 = source.removeprefix("plugin ")
        listed = experiment.plugins
        files = {
            known: os.path.relpath(path, experiment.base)
            for path, known in zip(listed.modules, listed.sha256, strict=False)
        }
        return {"file": Path(files.get(sha256, "")).as_posix(), "sha256": sha256}
    if source == "this process":
        return {"defined": f"{cls.__module__}:{cls.__qualname__}"}
    distribution, _, version = source.rpartition(" ")
    return {"distribution": distribution, "version": version}
