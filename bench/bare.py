"""What the computation itself costs: a forward pass of the base, a step of the head.

Nothing but the network runs: no images are read, nothing is augmented, kept or logged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from handwritten import SIZE, load_base

IMAGES, STEPS = 160, 60
BATCH = 8


def seconds(work: Callable[[], Any], times: int) -> float:
    """Return how long one call takes, after one that is not counted."""
    work()
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def main() -> None:
    """Measure both and print them as one line of JSON."""
    base = load_base()
    forward = tf.function(lambda x: base(x, training=False))
    images = tf.constant(np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)), tf.float32)
    forward_s = seconds(lambda: forward(images).numpy(), IMAGES // BATCH) / BATCH

    inputs = keras.Input(base.output.shape[1:])
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(1024, "relu")(x)
    x = keras.layers.Dense(1024, "relu")(x)
    head = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    optimizer = keras.optimizers.Adam(2e-5)
    optimizer.build(head.trainable_variables)

    @tf.function(jit_compile=True)
    def step(x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(labels, head(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, head.trainable_variables), head.trainable_variables)
        return loss

    features, labels = forward(images), tf.zeros(BATCH, tf.int32)
    step_s = seconds(lambda: step(features, labels).numpy(), STEPS)
    print(json.dumps({"forward_s": forward_s, "step_s": step_s}))


if __name__ == "__main__":
    main()
