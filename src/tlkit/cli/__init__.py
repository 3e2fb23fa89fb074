"""The command line: one module per group of commands."""

from __future__ import annotations

from tlkit.cli.app import app, main

# In the order in which `--help` lists their commands.
from tlkit.cli import run, probe, sweep, predict, explain, results, data, parts, weights, machine  # isort: skip

COMMANDS = (run, probe, sweep, predict, explain, results, data, parts, weights, machine)

__all__ = ["COMMANDS", "app", "main"]
