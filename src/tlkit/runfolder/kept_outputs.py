"""The outputs of an evaluation so far: kept while it runs, so that it can go on after a stop."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlkit.data.pictures import Picture
from tlkit.data.splits import Example
from tlkit.system.errors import RunFolderError
from tlkit.system.untrusted import read_bytes

Look = tuple[str, Picture]  # a file's hash and what it shows
MAX_BYTES = 8 << 30


class KeptOutputs:
    """A file with a line per image that is done: its hash, the model's outputs, its picture.

    Args:
        path: The file; what it holds is taken as done.
        of: What the outputs depend on, see `named_by`; its first line.

    Raises:
        RunFolderError: If the file is of another evaluation, or damaged.
    """

    def __init__(self, path: Path, of: str) -> None:
        self.path = path
        self.rows: list[npt.NDArray[np.float32]] = []
        self.looks: list[Look] = []
        lines = read_bytes(path, MAX_BYTES).split(b"\n")[:-1] if path.exists() else []
        if lines and lines[0] != of.encode():
            what = "is of another run or other images; delete it to begin again"
            raise RunFolderError(f"{path}: {what}")
        try:
            for line in lines[1:]:
                sha256, row, picture = line.decode("ascii").split(" ", 2)
                self.rows.append(np.frombuffer(bytes.fromhex(row), "<f4"))
                self.looks.append((sha256, Picture.parse(picture)))
        except ValueError:
            raise RunFolderError(f"{path}: is damaged; delete it to begin again") from None
        if lines:
            os.truncate(path, sum(len(line) + 1 for line in lines))  # the last one may be cut
        else:
            path.write_bytes(f"{of}\n".encode())

    def add(self, rows: npt.NDArray[np.float32], looks: Sequence[Look]) -> None:
        """Keep the outputs of the images that follow."""
        with self.path.open("ab") as file:
            for row, (sha256, picture) in zip(rows, looks, strict=True):
                file.write(f"{sha256} {row.astype('<f4').tobytes().hex()} {picture}\n".encode())

    def remove(self) -> None:
        """Remove the file: the evaluation is complete."""
        self.path.unlink()


def named_by(examples: Sequence[Example], *settings: object) -> str:
    """Return a hash of what outputs depend on: images by name and label, and a model's settings."""
    rows = [[example.path, example.label] for example in examples]
    text = json.dumps([rows, [str(setting) for setting in settings]])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
