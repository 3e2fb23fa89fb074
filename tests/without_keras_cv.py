"""The suite as if KerasCV were not installed: python -m pytest -p tests.without_keras_cv."""

from __future__ import annotations

import sys

sys.modules["keras_cv"] = None  # type: ignore[assignment]  # to Python: it cannot be imported
