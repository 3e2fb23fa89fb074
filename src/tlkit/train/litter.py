"""Models that nobody needs any more: Python finds them late, for each is a circle of references."""

from __future__ import annotations

import gc
import weakref

import keras

# Looking for them takes 0.14 s, so it is done when they may take more than a small model does.
ENOUGH_BYTES = 100e6

_models: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def note(model: keras.Model) -> None:
    """Note that a model was made."""
    _models.add(model)


def clear() -> None:
    """Free what models of earlier runs take, if nobody has them and it may be much."""
    if sum(4 * model.count_params() for model in _models) > ENOUGH_BYTES:
        gc.collect()
