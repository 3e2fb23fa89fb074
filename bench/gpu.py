"""What tlkit costs on a GPU, each figure next to a bare compiled Keras step on the same card.

    python bench/gpu.py                    # under five minutes on a GPU
    python bench/gpu.py --size 32 --images 64 --networks mobilenet_v2   # a trial on a processor

Nobody has run it on a GPU yet. Images are noise and weights are random: neither changes what a step
costs. Both sides get pixels that are in memory as uint8, so that disks and decoders do not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tlkit
from tlkit.parts.augmentations import NoAugmentation
from tlkit.parts.heads import FlattenDense, Linear
from tlkit.parts.optimizers import Adam, with_rates
from tlkit.system.keras import keras, tf
from tlkit.train.features import Extractor
from tlkit.train.plan import prefix_batch
from tlkit.train.step import TrainStep
from tlkit.train.totals import DeviceTotals

CLASSES, BATCH, REPEATS, RATE = 10, 64, 3, 1e-3


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some trials, after one that compiles."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def starts(images: int, batch: int) -> range:
    """Return where whole batches begin."""
    return range(0, images - batch + 1, batch)


def features(network: str, size: int, pixels: Any) -> tuple[float, float]:
    """Return the milliseconds per image of the frozen layers: tlkit's, and Keras's own."""
    backbone = tlkit.registries.backbones.get(network)(weights="none", image_size=size)
    model = backbone.build()
    layers = backbone.layers()
    batch = min(prefix_batch(layers, len(layers), size), len(pixels))
    extractor = Extractor(model, backbone, NoAugmentation(), batch)
    bare = tf.function(
        lambda x: model(backbone.preprocess_images(tf.cast(x, tf.float32)), training=False)
    )
    work = [starts(len(pixels), batch)] * 2
    own = fastest(lambda: [extractor(pixels[n : n + batch]) for n in work[0]])
    keras_own = fastest(lambda: [bare(pixels[n : n + batch]).numpy() for n in work[1]])
    passed = len(work[0]) * batch / 1e3
    return own / passed, keras_own / passed


def steps(model: Any, x: Any, labels: Any, xla: bool) -> tuple[float, float]:
    """Return the milliseconds per image of training steps: tlkit's, and a bare one of Keras."""
    weights = np.ones(len(labels), np.float32)
    step = TrainStep(model, with_rates(Adam(), [1.0] * len(model.trainable_variables)), xla)

    together = BATCH * step.steps_at_once(x[:BATCH].nbytes)  # a small head takes several in a call
    whole = len(x) // BATCH * BATCH

    def own() -> None:
        totals = DeviceTotals()
        for n in range(0, whole, together):
            rows = slice(n, min(n + together, whole))
            rates = [RATE] * len(starts(rows.stop - n, BATCH))
            step.add_all(totals, x[rows], labels[rows], weights[rows], BATCH, rates)
        totals.read()

    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy()

    @tf.function(jit_compile=xla)  # type: ignore[untyped-decorator,unused-ignore]  # no types
    def bare(images: Any, truth: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(truth, model(images, training=True))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(value, variables), variables)
        return value

    def all_bare() -> None:
        values = [bare(x[n : n + BATCH], labels[n : n + BATCH]) for n in starts(len(x), BATCH)]
        float(values[-1])

    passed = len(starts(len(x), BATCH)) * BATCH / 1e3
    return fastest(own) / passed, fastest(all_bare) / passed


def show(what: str, own: float, bare: float) -> None:
    """Print a row."""
    print(f"{what:40} {own:10.3f} {bare:10.3f} {own / bare:7.2f}", flush=True)


def main() -> None:
    """Print a row per network and work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = ["vgg16", "resnet50", "mobilenet_v2"]
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    random, side = np.random.default_rng(0), arguments.size
    pixels = random.integers(0, 256, (arguments.images, side, side, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, arguments.images).astype(np.int32)
    print(f"devices: {[device.name for device in tf.config.list_physical_devices()]}")
    print(f"{'milliseconds per image':40} {'tlkit':>10} {'Keras':>10} {'ratio':>7}")
    for network in arguments.networks:
        show(f"{network}, frozen layers", *features(network, side, pixels))
        backbone = tlkit.registries.backbones.get(network)(weights="none", image_size=side)
        for units, xla in ((1024, False), (1024, True), (0, False)):
            base = backbone.build()
            made = FlattenDense(units=(units,)) if units else Linear()
            tail = keras.Model(base.output, made.attach(base.output, CLASSES))
            maps = random.normal(size=(arguments.images, *base.output.shape[1:]))
            what = f"{network}, {'head' if units else 'linear head'}{', XLA' if xla else ''}"
            show(what, *steps(tail, maps.astype(np.float32), labels, xla))
        base = backbone.build()
        pooled = keras.layers.GlobalAveragePooling2D()(base.output)
        whole = keras.Model(base.input, keras.layers.Dense(CLASSES, "softmax")(pooled))
        prepared = backbone.preprocess_images(tf.cast(pixels, tf.float32)).numpy()
        show(f"{network}, all layers", *steps(whole, prepared, labels, xla=False))


if __name__ == "__main__":
    main()
