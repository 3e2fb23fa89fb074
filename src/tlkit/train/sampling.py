"""Dropout's randomness: every epoch begins with seeds that depend on its number alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tlkit.model.layers import LayerTable
from tlkit.system.keras import keras
from tlkit.train.plan import seed_for

Order = npt.NDArray[np.int64]


def epoch_order(labels: npt.NDArray[np.int32], sampler: str, seed: int, epoch: int) -> Order:
    """Return the numbers of the images that an epoch draws, as many as there are.

    A pure function: nothing is carried from epoch to epoch, so a resumed run goes on as if never
    stopped.

    Args:
        labels: Each training image's class number.
        sampler: `shuffle` or `balanced`.
        seed: The run's.
        epoch: The epoch's number, from 1.
    """
    random = np.random.default_rng(seed_for(seed, "order", epoch))
    if sampler == "balanced":
        return random.permutation(_balanced(labels, seed, epoch))
    return random.permutation(len(labels))


def _balanced(labels: npt.NDArray[np.int32], seed: int, epoch: int) -> Order:
    """Return the numbers of an epoch's images class by class.

    Each class has its images in one random order for the whole run and goes through it round and
    round, each epoch from where the last one ended. So any stretch of its draws, in an epoch or
    across epochs, has each of its images equally often, up to one.
    """
    classes = np.unique(labels)
    drawn = []
    for place, label in enumerate(classes):
        images = np.flatnonzero(labels == label)
        cycle = np.random.default_rng(seed_for(seed, "cycle", label)).permutation(images)
        # What class k has drawn after e epochs of N images: ⌊(e·N + k) / K⌋. Over the K classes
        # these add up to e·N (Hermite's identity), and no two differ by more than one.
        first, end = ((done * len(labels) + place) // len(classes) for done in (epoch - 1, epoch))
        drawn.append(cycle[np.arange(first, end) % len(cycle)])
    return np.concatenate(drawn)


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
