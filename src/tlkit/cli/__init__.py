"""The command line; its commands are in the modules of this package, by what they are about."""

from __future__ import annotations

from tlkit.cli.app import app, main

# In the order in which `--help` lists their commands.
from tlkit.cli import runs, sweeps, classifiers, explanations, comparisons, reports  # isort: skip
from tlkit.cli import exports, data, catalogue, caches, doctors  # isort: skip

__all__ = [
    "app",
    "caches",
    "catalogue",
    "classifiers",
    "comparisons",
    "data",
    "doctors",
    "explanations",
    "exports",
    "main",
    "reports",
    "runs",
    "sweeps",
]
