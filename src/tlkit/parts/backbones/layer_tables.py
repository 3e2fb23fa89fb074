"""Layer tables of backbones that must be built to be numbered, kept so that it happens once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import asdict

from tlkit.model.layers import Layer, LayerTable
from tlkit.system.cache import default_folder, entry_key
from tlkit.system.files import write_text

PACKAGES = ("tlkit", "keras", "keras-cv", "keras-hub")  # whose layers they may be

log = logging.getLogger(__name__)


def kept_table(
    name: str, settings: Mapping[str, Any], build: Callable[[], LayerTable]
) -> LayerTable:
    """Return a backbone's layer table, from the user's cache if it is there.

    Args:
        name: The backbone's name.
        settings: What its layers depend on.
        build: Makes the table if it is not kept; that is said, since it may take a while.
    """
    versions = dict(_versions())
    key = entry_key(backbone=name, settings=settings, versions=versions)
    path = default_folder() / "layers" / f"{name}-{key[:16]}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        kept = tuple(Layer(**row | {"output_shape": tuple(row["output_shape"])}) for row in rows)
        if kept:
            return LayerTable(kept)
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not as it was written
        pass
    log.info("building %s once to number its layers", name)
    table = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps([asdict(layer) for layer in table.layers]))
    except OSError as error:
        log.info("the layers of %s cannot be kept: %s", name, error.strerror)
    return table


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)
