"""What a good Keras user writes after the official transfer-learning guide, and scikit-learn.

The yardsticks of `bench/defaults.py`. `keras`: train a new top on a frozen base, then the whole
network at a low rate, as in https://keras.io/guides/transfer_learning/: flips, global average
pooling, dropout 0.2, one dense layer, early stopping on validation. `sklearn`: the same base's
pooled features, standardized, and a logistic regression whose C cross-validation chooses. Scored on
`val`, or on `test` if there is one; then `sklearn` learns `val` too, which it does not need. Of
tlkit, only the base EfficientNet-Lite2 is used, which nothing else loads from that package.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from handwritten import load_base
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

PREPROCESS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "vgg16": keras.applications.vgg16.preprocess_input,
    "lite2": lambda images: (images - 127.0) / 128.0,
}


def base_of(weights: str, size: int) -> tuple[keras.Model, Callable[[tf.Tensor], tf.Tensor]]:
    """Return a base and its preprocessing.

    Args:
        weights: `bsds500` (VGG-16), `lite2` (EfficientNet-Lite2, ImageNet), or the path of a file
            of VGG-16's weights.
        size: Pixels a side.
    """
    if weights == "lite2":
        from tlkit.parts.backbones.efficientnet_lite import EfficientNetLite2

        part = EfficientNetLite2(weights="imagenet", image_size=size)
        base = part.build()
        part.load_weights(base)
        return base, PREPROCESS["lite2"]
    if weights == "bsds500":
        return load_base(size), PREPROCESS["vgg16"]
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    base.load_weights(weights)
    return base, PREPROCESS["vgg16"]


def images(data: Path, split: str, size: int, batch: int, seed: int | None) -> tf.data.Dataset:
    """Return a split's images and labels, shuffled if there is a seed."""
    return keras.utils.image_dataset_from_directory(
        data / split, image_size=(size, size), batch_size=batch, shuffle=seed is not None,
        seed=seed, verbose=False,
    )  # fmt: skip


def scored(data: Path) -> str:
    """Return the split that is scored."""
    return "test" if (data / "test").is_dir() else "val"


def two_phases(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Train as the guide says; return the scored labels, probabilities and what happened."""
    size, batch = arguments.size, arguments.batch
    train = images(arguments.data, "train", size, batch, arguments.seed)
    classes = len(train.class_names)
    val = images(arguments.data, "val", size, batch, None)
    base, prepare = base_of(arguments.weights, size)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.RandomFlip("horizontal", seed=arguments.seed)(inputs)
    x = keras.layers.Lambda(prepare)(x)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2, seed=arguments.seed)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, "softmax")(x))
    epochs: dict[str, int] = {}
    phases = (("frozen", False, 1e-3, arguments.epochs), ("all", True, 1e-5, arguments.tune_epochs))
    for name, trainable, rate, count in phases:
        if not count:
            continue
        base.trainable = trainable
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
        history = model.fit(
            train.prefetch(2), validation_data=val.prefetch(2), epochs=count, callbacks=[stop],
            verbose=0,
        )  # fmt: skip
        epochs[name] = len(history.history["loss"])
    test = images(arguments.data, scored(arguments.data), size, batch, None)
    labels = np.concatenate([y for _, y in test])
    return labels, model.predict(test, verbose=0), {"epochs": epochs}


def regression(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Fit a logistic regression on pooled features; return as `two_phases`."""
    base, prepare = base_of(arguments.weights, arguments.size)
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, x)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    test = scored(arguments.data)
    learned = ["train"] if test == "val" else ["train", "val"]
    for split in (*learned, test):
        dataset = images(arguments.data, split, arguments.size, arguments.batch, None)
        labels = np.concatenate([y for _, y in dataset])
        features = model.predict(dataset.map(lambda x, _: prepare(x)).prefetch(2), verbose=0)
        found[split] = features, labels
    fit = LogisticRegressionCV(
        Cs=np.logspace(-5, 2, 15), cv=5, max_iter=2000, scoring="neg_log_loss",
        l1_ratios=(0.0,), use_legacy_attributes=False,
    )  # fmt: skip
    with threadpool_limits(1):  # on a busy machine, many times as fast as with all threads
        own = (np.concatenate(arrays) for arrays in zip(*(found[s] for s in learned), strict=True))
        pipeline = make_pipeline(StandardScaler(), fit).fit(*own)
    features, labels = found[test]
    return labels, pipeline.predict_proba(features), {"C": float(np.ravel(fit.C_)[0])}


def main() -> None:
    """Train, and print scores and seconds as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    parser.add_argument("method", choices=("keras", "sklearn"))
    parser.add_argument("--weights", default="bsds500", help="bsds500, lite2, or a VGG-16 .h5 file")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20, help="with a frozen base, at most")
    parser.add_argument("--tune-epochs", type=int, default=10, help="with all layers, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.perf_counter()
    keras.utils.set_random_seed(arguments.seed)
    run = two_phases if arguments.method == "keras" else regression
    labels, probabilities, facts = run(arguments)
    right = probabilities.argmax(1) == labels
    balanced = np.mean([right[labels == label].mean() for label in np.unique(labels)])
    printed = {"accuracy": right.mean(), "balanced": balanced, "count": len(labels), **facts}
    files = images(arguments.data, scored(arguments.data), 1, 1, None).file_paths
    printed["wrong"] = ["/".join(Path(files[n]).parts[-2:]) for n in np.flatnonzero(~right)]
    printed["inner_s"] = time.perf_counter() - began
    print(json.dumps(printed, default=float))


if __name__ == "__main__":
    main()
