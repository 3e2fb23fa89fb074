"""An experiment's settings as pairs of a key and its value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested table's values by key path, as JSON.

    >>> flattened({"fit": {"epochs": 3}, "seed": 0})
    {'fit.epochs': '3', 'seed': '0'}
    """
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return found
