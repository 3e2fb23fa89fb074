"""Checkpoints: the state of training after an epoch, in a folder that is complete or absent.

`checkpoints/epoch-0007/` holds arrays as safetensors, the rest as JSON, and a manifest with the
size and SHA-256 of each file. A checkpoint needs no other one; the last two are kept.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen
from safetensors import SafetensorError
from safetensors.numpy import load

from tlkit.system.errors import ResourceError, WeightsError
from tlkit.system.files import (
    copy_file,
    link,
    partial_folder,
    remove_folder,
    rename_folder,
    write_text,
)
from tlkit.system.seal import MAX_FILE_BYTES, hash_of
from tlkit.system.untrusted import read_bytes, read_json, reason, require_own_folder
from tlkit.train.callback import Epoch
from tlkit.train.step import Probabilities
from tlkit.weights.tensors import Tensors, Variables, read_tensors, write_arrays, write_tensors

KEPT = 2
NAME = re.compile(r"epoch-\d{4,}")
# The frozen layers' weights are not saved; their hash is in the state.
WEIGHTS, OPTIMIZER, BEST, ON_VAL, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "best.safetensors",
    "on_val.safetensors",
    "state.json",
    "manifest.json",
)


@frozen(kw_only=True)
class State:
    """The state of training after an epoch: everything that later epochs depend on.

    Learning rate and early stopping follow from the history; the order of the images, their
    augmentation and the dropout seeds follow from the epoch's number. None of them is saved.

    Attributes:
        history: The epochs so far.
        weights: The values of all variables that the plan may change.
        optimizer: The values of the optimizer's variables; empty at the end of a stage.
        on_val: The validation probabilities, `(images, classes)`.
        best: The number of the best epoch.
        best_weights: The weights after the best epoch; None if they are `weights` or in the
            previous checkpoint.
        best_on_val: The validation probabilities after the best epoch.
        frozen_sha256: The hash of all weights that the plan never changes.
    """

    history: tuple[Epoch, ...]
    weights: Tensors
    optimizer: Tensors
    on_val: Probabilities
    best: int
    best_weights: Tensors | None
    best_on_val: Probabilities
    frozen_sha256: str

    @property
    def epoch(self) -> int:
        """Return the number of the last epoch."""
        return self.history[-1].epoch

    @property
    def size_bytes(self) -> int:
        """Return the size of its arrays on disk."""
        groups = (self.weights, self.optimizer, self.best_weights or {})
        return sum(math.prod(t.shape) * t.dtype.size for group in groups for t in group.values())


@frozen
class Checkpoint:
    """A verified checkpoint on disk.

    Attributes:
        path: Its folder.
        history: The epochs so far.
        best: The number of the best epoch.
        frozen_sha256: The hash of the weights that are not in it.
        files: Size and hash of each file, by name.
    """

    path: Path
    history: tuple[Epoch, ...]
    best: int
    frozen_sha256: str
    files: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read and verify a checkpoint."""
        try:
            files = read_json(path / MANIFEST)["files"]
            if missing := sorted({WEIGHTS, ON_VAL, STATE} - files.keys()):
                raise ValueError(f"{MANIFEST} does not list {missing[0]}")
            for name, wanted in files.items():
                if Path(name).name != name or not _is_as_written(path / name, wanted):
                    raise ValueError(f"{name} has changed since it was written")
            state = read_json(path / STATE)
            history = tuple(Epoch(**epoch) for epoch in state["history"])
            return cls(path, history, state["best"], state["frozen_sha256"], files)
        except FileNotFoundError as error:
            raise ValueError(f"{Path(error.filename).name} is missing") from None
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"cannot be read: {reason(error)}") from None

    @property
    def best_file(self) -> str:
        """Return the name of the file with the best epoch's weights."""
        return BEST if BEST in self.files else WEIGHTS

    def on_val(self) -> tuple[Probabilities, Probabilities]:
        """Return the validation probabilities after its epoch and after the best epoch."""
        self._check(ON_VAL)
        try:
            probabilities = load(read_bytes(self.path / ON_VAL, MAX_FILE_BYTES))
            return probabilities["last"], probabilities["best"]
        except (OSError, KeyError, SafetensorError) as error:
            raise WeightsError(f"{self.path / ON_VAL}: cannot be read: {reason(error)}") from None

    def load(self, name: str, variables: Variables) -> None:
        """Load the arrays of one of its files into variables."""
        self._check(name)
        read_tensors(self.path / name, variables)

    def _check(self, name: str) -> None:
        wanted = self.files.get(name)
        if wanted is None or not _is_as_written(self.path / name, wanted):
            raise WeightsError(f"{self.path / name}: has changed since it was written")


@define
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        folder: Their folder; created with the first checkpoint.
        last: The newest valid one, once one has been written or read.
    """

    folder: Path
    last: Checkpoint | None = None
    _damaged: list[Path] = field(factory=list, init=False, repr=False)

    def commit(self, state: State) -> None:
        """Write a checkpoint and remove all but the last two."""
        try:
            self.last = self._write(state)
        except OSError as error:
            raise ResourceError(
                f"{self.folder}: a checkpoint of {state.size_bytes / 1e6:.1f} MB cannot be written"
                f": {error.strerror}; {_free(self.folder)}"
            ) from error
        for path in self._damaged:
            if path != self.last.path:
                remove_folder(path)
        self._damaged = []
        for path in self._paths()[KEPT:]:
            remove_folder(path)

    def newest(self, on_damage: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest valid checkpoint; None if there are none at all."""
        problems = []
        for path in self._paths():
            try:
                self.last = Checkpoint.read(path)
            except ValueError as error:
                problems.append(f"{path}: {error}")
                self._damaged.append(path)
                continue
            for problem in problems:
                on_damage(f"{problem}; continuing from {path.name}")
            return self.last
        if problems:
            lines = "\n".join(problems)
            raise WeightsError(f"{lines}\nno checkpoint is valid; start the run again")
        return None

    def _paths(self) -> list[Path]:
        """Return the checkpoints' folders, newest first."""
        require_own_folder(self.folder)
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        named = [path for path in entries if NAME.fullmatch(path.name) and not path.is_symlink()]
        return sorted(named, key=lambda path: path.name, reverse=True)

    def _write(self, state: State) -> Checkpoint:
        path = self.folder / f"epoch-{state.epoch:04d}"
        require_own_folder(self.folder)
        self.folder.mkdir(exist_ok=True)
        with partial_folder(path) as partial:
            files = self._fill(partial, state)
            write_text(partial / MANIFEST, json.dumps({"files": files}, indent=2))
            if path.exists():  # a damaged one
                remove_folder(path)
            rename_folder(partial, path)
        return Checkpoint(path, state.history, state.best, state.frozen_sha256, files)

    def _second_copy(self, wanted: Mapping[str, Any]) -> Path | None:
        """Return the best epoch's weights in the checkpoint before the last one, if it has them.

        Two checkpoints in a row never share one copy, so that one bad bit costs only one of them.
        """
        assert self.last is not None
        older = [path for path in self._paths() if path not in {self.last.path, *self._damaged}]
        for path in older[:1]:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                files = read_json(path / MANIFEST)["files"]
                name = BEST if BEST in files else WEIGHTS
                if files[name] == wanted and _is_as_written(path / name, wanted):
                    return path / name
        return None

    def _fill(self, folder: Path, state: State) -> dict[str, Any]:
        """Write all files but the manifest; return the manifest's entries."""
        write_tensors(folder / WEIGHTS, state.weights)
        if state.optimizer:
            write_tensors(folder / OPTIMIZER, state.optimizer)
        probabilities = {"last": state.on_val, "best": state.best_on_val}
        write_arrays(folder / ON_VAL, probabilities)
        content = {
            "best": state.best,
            "frozen_sha256": state.frozen_sha256,
            "history": [attrs.asdict(epoch) for epoch in state.history],
        }
        write_text(folder / STATE, json.dumps(content, indent=2, allow_nan=False))
        linked = {}
        if state.best_weights is not None:
            write_tensors(folder / BEST, state.best_weights)
        elif state.best != state.epoch:
            assert self.last is not None
            linked[BEST] = self.last.files[self.last.best_file]
            if second := self._second_copy(linked[BEST]):
                link(folder / BEST, second)
            else:
                copy_file(folder / BEST, self.last.path / self.last.best_file)
        names = sorted(entry.name for entry in os.scandir(folder))
        return {name: linked.get(name) or _described(folder / name) for name in names}


def _described(path: Path) -> dict[str, Any]:
    """Return a file's size and hash."""
    return attrs.asdict(hash_of(path))


def _is_as_written(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a file has a size and hash; one of another size is not read."""
    return path.lstat().st_size == wanted["bytes"] and _described(path) == wanted


def _free(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB are free there"
