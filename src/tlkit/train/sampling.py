"""The randomness of an epoch: image order and dropout, both functions of seed and epoch alone.

Nothing is carried from epoch to epoch, so a resumed run draws what an uninterrupted one does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tlkit.model.layers import LayerTable
from tlkit.system.keras import keras
from tlkit.train.plan import seed_for

Order = npt.NDArray[np.int64]


def epoch_order(labels: npt.NDArray[np.int32], sampler: str, seed: int, epoch: int) -> Order:
    """Return the image numbers that an epoch trains on, in order, as many as there are images.

    `labels` are the class numbers of the training images, `sampler` is `shuffle` or `balanced`.
    """
    random = np.random.default_rng(seed_for(seed, "order", epoch))
    if sampler == "balanced":
        return random.permutation(_balanced(labels, seed, epoch))
    return random.permutation(len(labels))


def _balanced(labels: npt.NDArray[np.int32], seed: int, epoch: int) -> Order:
    """Return an epoch's image numbers, class by class and equally many per class.

    Each class cycles through its images in one random order for the whole run, and each epoch
    continues where the last one ended. Over any stretch of draws, two images of a class are
    therefore drawn equally often, give or take one.
    """
    classes = np.unique(labels)
    drawn = []
    for rank, label in enumerate(classes):
        images = np.flatnonzero(labels == label)
        cycle = np.random.default_rng(seed_for(seed, "cycle", label)).permutation(images)
        # After e epochs of N images, class k has drawn ⌊(e·N + k) / K⌋. Over the K classes these
        # add up to e·N (Hermite's identity), and no two differ by more than one.
        first, end = ((done * len(labels) + rank) // len(classes) for done in (epoch - 1, epoch))
        drawn.append(cycle[np.arange(first, end) % len(cycle)])
    return np.concatenate(drawn)


def reseed(model: keras.Model, layers: LayerTable, seed: int, epoch: int) -> None:
    """Set every seed generator of a model to a state that depends on the epoch alone.

    Keras advances these states at every step and saves them nowhere. The names in the layer table
    are the same in every process.
    """
    of_name = {layer.name: layer for layer in model.layers}
    for _, row in layers:
        inner = of_name[row.name]._flatten_layers()
        generators = [generator for layer in inner for generator in layer._seed_generators]
        for place, generator in enumerate(generators):
            generator.state.assign([seed_for(seed, "dropout", row.name, place, epoch), 0])
