"""For authors of parts: checks of what every part promises, and random inputs.

A check raises `AssertionError` with the broken promise, so a part's test is one line:

```python
def test_my_head() -> None:
    check_part(tlkit.registries.heads, "my_head", units=[8])
```

This package needs Hypothesis (`pip install 'tlkit[testing]'`); the rest of tlkit does not.
"""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("hypothesis") is None:
    raise ImportError("tlkit.testing needs Hypothesis: pip install 'tlkit[testing]'")

from tlkit.testing.checks import (
    KIND_CHECKS,
    check_augmentation,
    check_backbone,
    check_class_weights,
    check_dataset,
    check_freeze,
    check_head,
    check_loss,
    check_optimizer,
    check_schedule,
)
from tlkit.testing.contracts import KnownFailure, check_part
from tlkit.testing.strategies import class_counts, layer_ranges, layer_tables

__all__ = [
    "KIND_CHECKS",
    "KnownFailure",
    "check_augmentation",
    "check_backbone",
    "check_class_weights",
    "check_dataset",
    "check_freeze",
    "check_head",
    "check_loss",
    "check_optimizer",
    "check_part",
    "check_schedule",
    "class_counts",
    "layer_ranges",
    "layer_tables",
]
