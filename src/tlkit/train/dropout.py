"""Dropout's randomness: every epoch begins with seeds that depend on its number alone."""

from __future__ import annotations

import keras

from tlkit.layers import LayerTable
from tlkit.plan.plan import seed_for


def reseed(model: keras.Model, layers: LayerTable, seed: int, epoch: int) -> None:
    """Set the state of every seed generator in a model; Keras counts it up from step to step.

    Keras saves these states nowhere. Being a pure function of the epoch, they need not be saved,
    and a run that goes on draws what a run that never stopped does.

    Args:
        model: The model.
        layers: Its layers, whose names are the same in every process.
        seed: The run's.
        epoch: The epoch's number.
    """
    for _, row in layers:
        inner = model.get_layer(row.name)._flatten_layers()
        generators = [generator for layer in inner for generator in layer._seed_generators]
        for place, generator in enumerate(generators):
            generator.state.assign([seed_for(seed, "dropout", row.name, place, epoch), 0])
