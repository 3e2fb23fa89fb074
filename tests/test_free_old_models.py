"""Models that are no longer used are collected before a large one is built."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import pytest

from tlkit.train.assemble import LARGE_BYTES, free_old_models


def dropped() -> weakref.ref[Any]:
    return weakref.ref(keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]))


@pytest.mark.parametrize(("params", "freed"), [(LARGE_BYTES, True), (1000, False)])
def test_only_a_large_model_makes_room(params: int, freed: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        model = dropped()
        assert model() is not None  # it refers to itself
        free_old_models(int(params))
        assert (model() is None) == freed
    finally:
        gc.enable()
