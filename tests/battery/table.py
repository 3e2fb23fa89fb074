"""The battery: all 195 cases, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Mapping

from tests.battery import commands, config, data, registry, runtime, security, weights
from tests.battery.case import Case

GROUPS: Mapping[str, tuple[str, tuple[Case, ...], int]] = {
    "C": ("The experiment file", config.CASES, 24),
    "D": ("Data", data.CASES, 50),
    "W": ("Weights and model files", weights.CASES, 14),
    "R": ("Parts and packages", registry.CASES, 17),
    "F": ("During a run", runtime.CASES, 40),
    "L": ("The command line", commands.CASES, 17),
    "S": ("Attacks", security.CASES, 33),
}
CASES = tuple(case for _, cases, _ in GROUPS.values() for case in cases)
