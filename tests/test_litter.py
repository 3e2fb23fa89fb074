"""Models that nobody needs any more are collected when they may take much."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import pytest

from tlkit.train import assemble as litter


def dropped() -> weakref.ref[Any]:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    litter.note(model)
    return weakref.ref(model)


@pytest.mark.parametrize(("enough", "freed"), [(1, True), (1e9, False)])
def test_only_much_is_looked_for(
    enough: float, freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litter, "ENOUGH_BYTES", enough)
    gc.collect()
    gc.disable()
    try:
        model = dropped()
        assert model() is not None  # it is a circle
        litter.clear()
        assert (model() is None) == freed
    finally:
        gc.enable()
