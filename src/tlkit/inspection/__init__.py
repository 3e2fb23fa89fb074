"""Looking at data before anything learns from them: what is there, what leaks, what betrays.

The commands `tlkit data inspect|split|verify` are these functions.
"""

from __future__ import annotations

from tlkit.inspection.duplicates import Duplicates, Pair
from tlkit.inspection.findings import Inspection, inspect_data
from tlkit.inspection.shortcuts import Shortcut
from tlkit.inspection.splitting import SplitResult, split_data
from tlkit.inspection.verification import Verification, verify_manifest

__all__ = [
    "Duplicates",
    "Inspection",
    "Pair",
    "Shortcut",
    "SplitResult",
    "Verification",
    "inspect_data",
    "split_data",
    "verify_manifest",
]
