"""A plugin with a part for each way of not doing what a part must; its name says which."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import attrs
import keras
import numpy as np
import tensorflow as tf
import typer

import tlkit

print("printed at import")


@tlkit.part("tiny")
class Tiny(tlkit.Backbone):
    """A small one."""

    def layers(self) -> tlkit.LayerTable:
        return tlkit.LayerTable((tlkit.Layer("conv", "Conv2D", "conv", (6, 6, 2), params=56),))

    def build(self) -> Any:
        inputs = keras.layers.Input((8, 8, 3))
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))

    def preprocess_native(self, images: Any) -> Any:
        print("printed while it works")
        return images / 255

    def load_weights(self, model: Any) -> Any:
        return {"source": "none"}


@tlkit.part("tiny-none")
class TinyNone(Tiny):
    """Loads nothing."""

    def load_weights(self, model: Any) -> Any:
        return None


@tlkit.part("tiny-batch")
class TinyBatch(Tiny):
    """Divides by the brightest pixel of a batch."""

    def preprocess_native(self, images: Any) -> Any:
        return images / tf.reduce_max(images)


def lie(name: str, base: type, **members: Any) -> None:
    tlkit.part(name)(type(name, (base,), {"__doc__": "A lie.", **members}))


def log_loss(labels: Any, probabilities: Any) -> Any:
    return -tf.math.log(tf.gather(probabilities, labels, axis=1, batch_dims=1))


def leave(labels: Any, probabilities: Any) -> Any:
    raise typer.Exit(0)


def change_settings(labels: Any, probabilities: Any) -> Any:
    keras.config.set_floatx("float16")
    return log_loss(labels, probabilities)


losses: dict[str, Callable[[Any, Any], Any]] = {
    "loss-flat": lambda labels, probabilities: tf.ones_like(labels, tf.float32),
    "loss-double": lambda labels, p: tf.cast(log_loss(labels, p), tf.float64),
    "loss-none": lambda labels, probabilities: None,
    "loss-exit": lambda labels, probabilities: sys.exit(0),
    "loss-leave": leave,
    "loss-settings": change_settings,
}
for name, function in losses.items():
    lie(name, tlkit.Loss, build=lambda self, counts, function=function: function)

rates = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
lie("optimizer-none", tlkit.Optimizer, build=lambda self, multipliers: None)
lie("optimizer-schedule", tlkit.Optimizer, build=lambda self, m: keras.optimizers.SGD(rates))
lie("optimizer-rate", tlkit.Optimizer, build=lambda self, m: keras.optimizers.SGD(0.5))

rate_types: dict[str, Callable[[float], Any]] = {
    "schedule-numpy": np.float32,
    "schedule-text": str,
    "schedule-none": lambda base: None,
    "schedule-nan": lambda base: math.nan,
}
for name, made in rate_types.items():
    lie(name, tlkit.Schedule, learning_rate=lambda self, base, n, history, made=made: made(base))

changes: dict[str, Callable[[Any], Any]] = {
    "augmentation-fewer": lambda images: images[1:],
    "augmentation-size": lambda images: images[:, 1:],
    "augmentation-range": lambda images: images * 1e6 + 300,
    "augmentation-nan": lambda images: images * math.nan,
    "augmentation-type": lambda images: tf.cast(images, tf.float64),
}
for name, change in changes.items():
    lie(name, tlkit.Augmentation, augment=lambda self, images, keys, change=change: change(images))


class Ends(tlkit.Head):
    """A head that ends in one layer."""

    more, activation = 0, "softmax"

    def layers(self, features: tuple[int, ...], classes: int) -> tlkit.LayerTable:
        width, units = math.prod(features), classes + self.more
        flatten = tlkit.Layer("flatten", "Flatten", "head", (width,))
        scores = tlkit.Layer("scores", "Dense", "head", (units,), params=(width + 1) * units)
        return tlkit.LayerTable((flatten, scores))

    def attach(self, features: Any, classes: int) -> Any:
        flat = keras.layers.Flatten(name="flatten")(features)
        return keras.layers.Dense(classes + self.more, self.activation, name="scores")(flat)


lie("head-linear", Ends, activation="linear")
lie("head-sigmoid", Ends, activation="sigmoid")
lie("head-more", Ends, more=1)


@tlkit.part("data-text")
class Text(tlkit.Dataset):
    """Reads text."""

    def load(self) -> Any:
        shapes: Any = tlkit.registries.datasets.get("shapes")
        read: Any = lambda path: "text"  # noqa: E731  # the lie
        return attrs.evolve(shapes(train=3, val=3, test=3, image_px=16).load(), read=read)
