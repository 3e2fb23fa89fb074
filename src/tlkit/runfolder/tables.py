"""A run's CSV tables: images, epochs and predictions, each written and read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import attrs
from attrs import field, frozen

from tlkit.data.splits import Example, Splits
from tlkit.runfolder.folder import (
    EARLIER,
    HISTORY,
    LOOKS,
    MANIFEST,
    PREDICTIONS,
    SKIPPED,
    TIMING,
    RunFolder,
)
from tlkit.system.errors import RunFolderError
from tlkit.system.files import write_text
from tlkit.system.text import csv_table, csv_text
from tlkit.system.untrusted import TABLE_BYTES, read_bytes, read_text
from tlkit.train.callback import Epoch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")
INTEGERS = ("epoch", "stage")
LOOK_BYTES = 32  # of a difference hash
MAX_PROBABILITY = 1 + 1e-4  # rounding, of half precision too
# Images with their probabilities, `(images, classes)`, and predicted class numbers, `(images,)`.
Predicted: TypeAlias = "tuple[Sequence[Example], npt.NDArray[np.float32], npt.NDArray[np.int64]]"


@frozen
class Learned:
    """An image that a model was trained, chosen or calibrated on.

    Attributes:
        run: The name of the earlier run that did; empty: this one.
        split: `train` or `val`.
        sha256: The file's hash.
        bits: Its difference hash; empty if unknown.
    """

    run: str
    split: str
    sha256: str
    bits: str


@frozen
class Prediction:
    """The model's prediction for one image.

    Attributes:
        path: The image's path, relative to the data's root.
        label: Its class.
        predicted: The predicted class.
        probabilities: The probability of each class by name, in the order of the classes.
    """

    path: str
    label: str
    predicted: str
    probabilities: Mapping[str, float] = field(hash=False)

    @property
    def right(self) -> bool:
        """Whether the prediction is correct."""
        return self.predicted == self.label

    @property
    def certainty(self) -> float:
        """The predicted class's probability; not the highest if a class has a threshold."""
        return self.probabilities[self.predicted]


def manifest_text(splits: Splits, hashes: Mapping[str, str]) -> str:
    """Return `manifest.csv`: every image with its hash."""
    rows = [
        [e.path, hashes[e.path], split, e.label, e.patient, e.source, e.view]
        for split, examples in splits.items()
        for e in examples
    ]
    return csv_table(["path", "sha256", "split", "label", "patient", "source", "view"], rows)


def write_manifest(folder: RunFolder, splits: Splits, hashes: Mapping[str, str]) -> None:
    """Write the images, and `skipped.csv` if some were left out."""
    write_text(folder.path / MANIFEST, manifest_text(splits, hashes))
    if splits.skipped:
        rows = [
            [skipped.example.path, skipped.split, skipped.example.label, skipped.reason]
            for skipped in splits.skipped
        ]
        folder.write_csv(SKIPPED, ["path", "split", "label", "reason"], rows)


def write_looks(folder: RunFolder, splits: Splits, looks: Mapping[str, str]) -> None:
    """Write the difference hashes of the images that the run learns from."""
    learned = (*splits.train, *splits.val)
    folder.write_csv(LOOKS, ["path", "bits"], [[e.path, looks[e.path]] for e in learned])


def read_learned(folder: RunFolder) -> Iterator[Learned]:
    """Yield the images that a run itself has learned from; of an earlier version, without `bits`.

    Both files are written in the same order, so a million images need not be held at once.
    """
    looks = None
    if folder.has(LOOKS):
        looks = _rows(
            folder, LOOKS, lambda row: (csv_text(row["path"]), bytes.fromhex(row["bits"]))
        )
    names = ("split", "path", "sha256")
    for split, path, sha256 in _rows(
        folder, MANIFEST, lambda row: [csv_text(row[name]) for name in names]
    ):
        if split == "test":
            continue
        look, bits = next(looks, ("", b"")) if looks else (path, b"")
        if look != path:
            raise RunFolderError(f"{folder.path / LOOKS}: has other images than {MANIFEST}")
        known = bits.hex() if len(bits) == LOOK_BYTES else ""
        yield Learned("", split, sha256.lower(), known)


def write_learned_before(folder: RunFolder, images: Sequence[Learned]) -> None:
    """Write the images that the earlier runs of a run's lineage have learned from, if any."""
    if images:
        columns = [key.name for key in attrs.fields(Learned)]
        folder.write_csv(EARLIER, columns, [attrs.astuple(image) for image in images])


def read_learned_before(folder: RunFolder) -> tuple[Learned, ...]:
    """Return the images of the earlier runs; none for a run that started from no other."""
    if not folder.has(EARLIER):
        return ()
    names = [key.name for key in attrs.fields(Learned)]
    rows = _rows(folder, EARLIER, lambda row: [csv_text(row[name]) for name in names])
    return tuple(Learned(*row) for row in rows)


def read_manifest(folder: RunFolder) -> dict[str, tuple[Example, ...]]:
    """Return the images by split."""
    names = [key.name for key in attrs.fields(Example)]
    return _by_split(
        folder, MANIFEST, lambda row: Example(**{name: csv_text(row[name]) for name in names})
    )


def write_history(folder: RunFolder, history: Sequence[Epoch], seconds: Sequence[float]) -> None:
    """Write the epochs so far, and how long each took."""
    columns = [key.name for key in attrs.fields(Epoch)]
    if all(epoch.l2 is None for epoch in history):  # without a solver
        columns.remove("l2")
    values = [[getattr(epoch, name) for name in columns] for epoch in history]
    rows = [["" if value is None else repr(value) for value in row] for row in values]
    folder.write_csv(HISTORY, columns, rows)
    timing = [[e.epoch, f"{s:.3f}"] for e, s in zip(history, seconds, strict=True)]
    folder.write_csv(TIMING, ["epoch", "seconds"], timing)


def read_history(folder: RunFolder) -> tuple[Epoch, ...]:
    """Return the epochs."""
    names = [key.name for key in attrs.fields(Epoch) if key.name != "l2"]
    kinds = {name: int if name in INTEGERS else float for name in names}

    def epoch(row: Mapping[str, str]) -> Epoch:
        values: dict[str, Any] = {name: kind(row[name]) for name, kind in kinds.items()}
        return Epoch(**values, l2=float(row["l2"]) if row.get("l2") else None)

    epochs = tuple(_rows(folder, HISTORY, epoch))
    if not epochs:
        raise RunFolderError(f"{folder.path / HISTORY}: has no epochs")
    return epochs


def epochs_of(run: Path) -> int:
    """Return how many epochs a run's history has; 0 if there is none yet."""
    try:
        return max(0, read_bytes(run / HISTORY).count(b"\n") - 1)
    except OSError:
        return 0


def read_seconds(folder: RunFolder, history: Sequence[Epoch]) -> list[float]:
    """Return how long each epoch of an earlier process took; 0 if unknown."""
    try:
        lines = read_text(folder.path / TIMING).splitlines()[1:]
        known = {int(epoch): float(seconds) for epoch, seconds in csv.reader(lines)}
    except (OSError, ValueError):
        known = {}
    return [known.get(epoch.epoch, 0.0) for epoch in history]


def write_predictions(
    folder: RunFolder, classes: Sequence[str], predictions: Mapping[str, Predicted]
) -> None:
    """Write the predictions by split; probabilities have nine digits, enough for float32."""
    columns = ["path", "label", "predicted", "split", *(f"p_{name}" for name in classes)]
    rows = [
        [example.path, example.label, classes[number], split,
         *(format(float(p), ".9g") for p in row)]
        for split, (examples, probabilities, predicted) in predictions.items()
        for example, row, number in zip(examples, probabilities, predicted, strict=True)
    ]  # fmt: skip
    folder.write_csv(PREDICTIONS, columns, rows)


def read_predictions(
    folder: RunFolder, classes: Sequence[str]
) -> dict[str, tuple[Prediction, ...]]:
    """Return the predictions by split."""
    seen: set[tuple[str, str]] = set()

    def prediction(row: Mapping[str, str]) -> Prediction:
        path, label, predicted = (csv_text(row[key]) for key in ("path", "label", "predicted"))
        if (row["split"], path) in seen:
            raise ValueError(f"{path} appears twice")
        if unknown := {label, predicted} - {*classes}:
            raise ValueError(f"there is no class {min(unknown)!r}")
        seen.add((row["split"], path))
        return Prediction(path, label, predicted, {c: _probability(row[f"p_{c}"]) for c in classes})

    return _by_split(folder, PREDICTIONS, prediction)


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_PROBABILITY:  # false for nan
        raise ValueError(f"{text} is not a probability")
    return value


def _by_split(
    folder: RunFolder, name: str, make: Callable[[Mapping[str, str]], T]
) -> dict[str, tuple[T, ...]]:
    """Return what is made of each row, by its split."""
    splits: dict[str, list[T]] = {}
    for split, value in _rows(folder, name, lambda row: (row["split"], make(row))):
        splits.setdefault(split, []).append(value)
    return {split: tuple(values) for split, values in splits.items()}


def _rows(folder: RunFolder, name: str, make: Callable[[Mapping[str, str]], T]) -> Iterator[T]:
    """Yield what is made of each row; an error names the file and the line."""
    content = io.BytesIO(folder.read_bytes(name, TABLE_BYTES))
    lines = io.TextIOWrapper(content, encoding="utf-8", newline="")
    reader = csv.DictReader(lines, strict=True)
    try:
        yield from map(make, reader)
    except KeyError as error:
        raise RunFolderError(f"{folder.path / name}: has no column {error}") from None
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{folder.path / name}: cannot be read: {error}") from None
    except (TypeError, ValueError, AttributeError, csv.Error) as error:  # also cells left out
        where = f"{folder.path / name}: line {reader.line_num}"
        raise RunFolderError(f"{where}: is not as tlkit writes it: {error}") from None
