"""A finished run as the start of another: the arrays of its backbone, or of its head."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.model.layers import HEAD, LayerTable
from tlkit.system.errors import WeightsError
from tlkit.system.notebook import hint
from tlkit.system.seal import MAX_FILE_BYTES, check_content
from tlkit.system.untrusted import TEXT_BYTES, exists, is_folder, parse_json, read_bytes, reason

WEIGHTS, PLAN, METRICS = "weights.safetensors", "plan.json", "metrics.json"
Row = tuple[str, int, int]  # a layer's name, its trainable and its other parameters


@frozen
class EarlierRun:
    """A finished run whose weights another run starts from.

    Attributes:
        folder: Its folder.
        classes: The classes that its head tells apart.
        backbone: The layers of its backbone.
        head: The layers of its head.
        began_with: What it began with itself.
        trained: Whether its backbone was trained, or its BatchNorm statistics followed the images.
    """

    folder: Path
    classes: tuple[str, ...]
    backbone: tuple[Row, ...]
    head: tuple[Row, ...]
    began_with: str
    trained: bool = True

    @classmethod
    def at(cls, path: Path) -> EarlierRun | None:
        """Return the run in a folder, or the one that a weights file belongs to, if any."""
        folder = path if is_folder(path) else path.parent
        if not exists(folder / PLAN) or (path != folder and path.name != WEIGHTS):
            return None
        if not exists(folder / METRICS):
            raise WeightsError(
                f"{folder}: the run is not finished; finish it with {hint('resume', folder)}"
            )
        plan, metrics = (_read_json(folder, name) for name in (PLAN, METRICS))
        try:
            rows = [(x["block"] == HEAD, _row(x)) for x in plan["layers"]]
            return cls(
                folder=folder,
                classes=tuple(map(str, plan["classes"])),
                backbone=tuple(row for in_head, row in rows if not in_head),
                head=tuple(row for in_head, row in rows if in_head),
                began_with=lineage(metrics["weights"]),
                trained=any(
                    rate and layer["block"] != HEAD
                    for stage in plan["stages"]
                    for rate, layer in zip(stage["rates"], plan["layers"], strict=True)
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{folder}: is not a run as tlkit writes it: {error}") from None

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return self.folder.resolve().name

    @property
    def record(self) -> dict[str, str]:
        """Return the lineage for the record of a run that starts from this one."""
        return {"run": self.name, "began_with": self.began_with}

    def check_backbone(self, layers: LayerTable) -> None:
        """Check that a model has the same backbone."""
        own = tuple(_table_row(x) for _, x in layers if x.block != HEAD)
        self._check("backbone", self.backbone, own)

    def check_head(self, layers: LayerTable, classes: tuple[str, ...]) -> None:
        """Check that a model has the same head for the same classes in the same order."""
        if classes != self.classes:
            raise WeightsError(
                f"fit.head_weights: the head of {self.folder} tells {', '.join(self.classes)} "
                f"apart, these data have {', '.join(classes)}; leave it out for a new head"
            )
        self._check("head", self.head, tuple(_table_row(x) for _, x in layers if x.block == HEAD))

    def _check(self, what: str, theirs: tuple[Row, ...], ours: tuple[Row, ...]) -> None:
        if theirs == ours:
            return
        pairs = [*zip(theirs, ours, strict=False)]
        place = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
        has, expected = (
            f"{rows[place][0]!r} with {rows[place][1] + rows[place][2]:,} parameters"
            if place < len(rows)
            else "no more layers"
            for rows in (theirs, ours)
        )
        key = "backbone.weights" if what == "backbone" else "fit.head_weights"
        raise WeightsError(
            f"{key}: {self.folder} has another {what}: {has}, expected {expected}; "
            f"use the same [{what}] as that run"
        )

    def arrays(self, what: str) -> tuple[dict[str, Any], str]:
        """Return arrays of the `backbone` or `head` by `LAYER/VARIABLE`, and the file's hash."""
        from safetensors.numpy import load

        path = self.folder / WEIGHTS
        try:
            content = _read(self.folder, WEIGHTS, MAX_FILE_BYTES)
            arrays = load(content)
        except WeightsError:
            raise
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
        except Exception as error:  # safetensors' own, and NumPy's
            raise WeightsError(f"{path}: cannot be read: {error}; is it complete?") from None
        names = {name for name, *_ in (self.backbone if what == "backbone" else self.head)}
        plain = {re.sub(r"^\d{3,}\.", "", name): array for name, array in arrays.items()}
        own = {name: a for name, a in plain.items() if name.rpartition("/")[0] in names}
        return own, hashlib.sha256(content).hexdigest()


def _read(folder: Path, name: str, max_bytes: int = TEXT_BYTES) -> bytes:
    """Return the content of a finished run's file, which must be as it was sealed."""
    content = read_bytes(folder / name, max_bytes)
    check_content(folder, name, content, WeightsError)
    return content


def _read_json(folder: Path, name: str) -> Any:
    try:
        return parse_json(_read(folder, name).decode())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / name}: cannot be read: {reason(error)}") from None


def _row(layer: Mapping[str, Any]) -> Row:
    return str(layer["name"]), int(layer["params"]), int(layer["other_params"])


def _table_row(layer: Any) -> Row:
    return layer.name, layer.params, layer.other_params


def lineage(weights: Mapping[str, str]) -> str:
    """Return what weights are, for people.

    >>> lineage({"source": "imagenet", "sha256": "…"})
    'imagenet'
    >>> lineage({"source": "path", "run": "b", "began_with": "imagenet"})
    'the run b, which began with imagenet'
    """
    if "run" not in weights:
        return weights.get("source", "unknown")
    return f"the run {weights['run']}, which began with {weights['began_with']}"
