"""What tlkit costs next to a hand-written Keras script, for other networks, sizes and work.

    python bench/networks.py FOLDER --networks mobilenet_v2 --size 64 --work first ten online all

FOLDER has train/CLASS and val/CLASS. The script is what a good Keras user writes:
`image_dataset_from_directory`, prefetch, the frozen base called with `training=False`, `fit`. Both
do the same work, in processes of their own, one after another, in turn. Weights are random: they
do not change what a step costs. On a busy machine, processor seconds say more than seconds.

`first`, `two` and `ten` differ in nothing but their epochs, so they share one run of the script:
two epochs are measured, and every further one costs as much as the second.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# tlkit's name: the name in keras.applications, and the module with its preprocessing.
NETWORKS = {
    "vgg16": ("VGG16", "vgg16"),
    "resnet50": ("ResNet50", "resnet"),
    "mobilenet_v2": ("MobileNetV2", "mobilenet_v2"),
    "efficientnet_b0": ("EfficientNetB0", "efficientnet"),
    "efficientnet_lite2": ("", ""),  # built by tlkit for both
}
# Epochs, whether images are augmented, whether all layers are trained.
WORK = {
    "first": (1, False, False),
    "two": (2, False, False),
    "ten": (10, False, False),
    "first-int8": (1, False, False),  # tlkit's frozen layers in int8, the script's in float32
    "online": (10, True, False),
    "all": (1, False, True),
    "cached": (10, False, False),  # features are there: by hand as arrays, for tlkit in its cache
}
Costs = tuple[float, float, float]  # seconds, processor seconds, peak memory in GB
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
CHANNELS = {"vgg16": 512, "resnet50": 2048}  # of the last layer's features; of the others 1280
ROTATION_DEG, SHIFT_FRAC = 10, 0.1


def base_and_preprocess(network: str, size: int) -> tuple[Any, Any]:
    """Return a network without its top and the function that prepares images for it."""
    import keras

    name, module = NETWORKS[network]
    if name:
        base = getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=(size, size, 3)
        )
        return base, importlib.import_module(f"keras.applications.{module}").preprocess_input
    import tlkit

    backbone = tlkit.registries.backbones.get(network)(weights="none", image_size=size)
    return backbone.build(), backbone.preprocess_images


def by_hand(data: Path, network: str, size: int, work: str, batch: int, measured: int) -> None:
    """Train as a Keras user does."""
    import keras
    import tensorflow as tf

    _, augment, whole = WORK[work]
    load, options = (
        keras.utils.image_dataset_from_directory,
        {"image_size": (size, size), "batch_size": batch},
    )
    train, val = load(data / "train", seed=1, **options), load(data / "val", **options)
    if augment:
        change = keras.Sequential(
            [
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomRotation(ROTATION_DEG / 360, fill_mode="constant"),
                keras.layers.RandomTranslation(SHIFT_FRAC, SHIFT_FRAC, fill_mode="constant"),
            ]
        )
        train = train.map(
            lambda x, y: (change(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE
        )
    base, prepare = base_and_preprocess(network, size)
    train, val = (
        d.map(lambda x, y: (prepare(x), y)).prefetch(tf.data.AUTOTUNE) for d in (train, val)
    )
    base.trainable = whole
    inputs = keras.Input((size, size, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(inputs, training=False))
    fit(inputs, x, train, val, len(folders(data / "train")), measured)


def by_hand_on_features(data: Path, channels: int, batch: int, epochs: int) -> None:
    """Train a head on arrays of features, as after a first run of one's own."""
    import keras
    import numpy as np
    import tensorflow as tf

    def arrays(split: Path) -> tf.data.Dataset:
        counts = [sum(1 for _ in folder.iterdir()) for folder in folders(split)]
        labels = np.repeat(np.arange(len(counts)), counts)
        x = np.random.default_rng(0).normal(size=(len(labels), channels)).astype(np.float32)
        rows = tf.data.Dataset.from_tensor_slices((x, labels))
        if split.name == "train":
            rows = rows.shuffle(len(labels))
        return rows.batch(batch).prefetch(tf.data.AUTOTUNE)

    inputs = keras.Input((channels,))
    train, val = arrays(data / "train"), arrays(data / "val")
    fit(inputs, inputs, train, val, len(folders(data / "train")), epochs)


def folders(split: Path) -> list[Path]:
    """Return the folder of each class."""
    return sorted(path for path in split.iterdir() if path.is_dir())


def fit(inputs: Any, x: Any, train: Any, val: Any, classes: int, epochs: int) -> None:
    """Train and validate; print the seconds and the processor seconds of each epoch."""
    import keras

    model = keras.Model(inputs, keras.layers.Dense(classes, "softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    marks: list[tuple[float, float]] = []

    def mark(*_: Any) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        marks.append((time.perf_counter(), used.ru_utime + used.ru_stime))

    mark()
    after = keras.callbacks.LambdaCallback(on_epoch_end=mark)
    model.fit(train, validation_data=val, epochs=epochs, callbacks=[after], verbose=0)
    pairs = itertools.pairwise(marks)
    print(json.dumps([(b[0] - a[0], b[1] - a[1]) for a, b in pairs]))


def recipe(data: Path, network: str, size: int, work: str, batch: int) -> str:
    """Return the experiment file that does the same."""
    epochs, augment, whole = WORK[work]
    _, _, frozen_dtype = work.partition("-")
    return f"""
[data]
name = "folder"
path = "{data.as_posix()}"
allow_leakage = true
[backbone]
name = "{network}"
weights = "none"
image_size = {size}
[head]
name = "linear"
[freeze]
name = "{"all_layers" if whole else "head_only"}"
[augmentation]
name = "{"affine" if augment else "none"}"
{f"rotation_deg = {ROTATION_DEG}" if augment else ""}
{f"shift_frac = {SHIFT_FRAC}" if augment else ""}
[fit]
epochs = {epochs}
batch_size = {batch}
{f'frozen_dtype = "{frozen_dtype}"' if frozen_dtype else ""}
"""


def used(command: list[str], environment: dict[str, str]) -> tuple[float, float, float, str]:
    """Run a command; return its seconds, processor seconds, peak memory in GB and last line."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command, stdout=out, stderr=messages, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        messages.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{messages.read()[-2000:]}")
        last = out.read().strip().splitlines()[-1]
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - began, cpu, usage.ru_maxrss / 1e6, last


def shared(works: list[str]) -> list[list[str]]:
    """Return the works in groups that differ only in their epochs."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for work in works:
        groups.setdefault((*WORK[work][1:], work == "cached"), []).append(work)
    return [*groups.values()]


def by_hand_costs(
    arguments: argparse.Namespace, network: str, works: list[str]
) -> dict[str, Costs]:
    """Run the script once for works that differ only in their epochs; return the cost of each."""
    work = works[0]
    needed = max(WORK[work][0] for work in works)
    measured = needed if work == "cached" else min(arguments.measured, needed)
    settings = arguments.data, network, arguments.size, work, arguments.batch, measured
    command = [sys.executable, __file__, "--by-hand", *map(str, settings)]
    wall, cpu, memory, last = used(command, ENVIRONMENT)
    later = json.loads(last)[min(1, measured - 1) :]  # all epochs but the first cost the same
    epoch = [sum(costs[n] for costs in later) / len(later) for n in range(2)]
    more = {work: WORK[work][0] - measured for work in works}
    return {
        work: (wall + count * epoch[0], cpu + count * epoch[1], memory)
        for work, count in more.items()
    }


def own_costs(
    arguments: argparse.Namespace, network: str, work: str, folder: Path, number: int
) -> Costs:
    """Run tlkit with an empty cache, or for `cached` with one that a first run has filled."""
    cached = work == "cached"
    cache = folder / (f"cache-{network}" if cached else f"cache-{network}-{work}-{number}")
    file = folder / "recipe.toml"
    file.write_text(recipe(arguments.data, network, arguments.size, work, arguments.batch))
    run = [sys.executable, "-m", "tlkit", "run", str(file), "--json", "--out"]
    environment = {**ENVIRONMENT, "TLKIT_CACHE": str(cache)}
    if cached and not cache.exists():
        used([*run, str(folder / f"{network}-filled")], environment)
    costs = used([*run, str(folder / f"{network}-{work}-{number}")], environment)[:3]
    if not cached:
        shutil.rmtree(cache, ignore_errors=True)
    return costs


def compare(arguments: argparse.Namespace, network: str, works: list[str], folder: Path) -> None:
    """Measure works that share the script's run and print a row for each."""
    hand, own = [], []
    for number in range(arguments.repeats):
        hand.append(by_hand_costs(arguments, network, works))
        own.append({work: own_costs(arguments, network, work, folder, number) for work in works})
    for work in works:
        means = [
            [sum(costs[work][n] for costs in side) / len(side) for n in range(3)]
            for side in (hand, own)
        ]
        cells = [f"{a:8.1f} {b:8.1f} {b / a:6.2f}" for a, b in zip(*means, strict=True)]
        print(f"{network:20} {arguments.size:4} {work:7}" + " ".join(cells), flush=True)


def main() -> None:
    """Measure the cells that were asked for."""
    if sys.argv[1:2] == ["--by-hand"]:
        data, network, size, work, batch, measured = sys.argv[2:]
        if work == "cached":
            by_hand_on_features(Path(data), CHANNELS.get(network, 1280), int(batch), int(measured))
        else:
            by_hand(Path(data), network, int(size), work, int(batch), int(measured))
        return
    summary, *_, sharing = __doc__.strip().split("\n\n")
    parser = argparse.ArgumentParser(description=f"{summary} {sharing}")
    parser.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--work", nargs="+", choices=WORK, default=["first", "ten"])
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--measured", type=int, default=2, help="hand-written epochs measured")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    print(
        "network              px   work    seconds: by hand, tlkit, ratio; "
        "processor seconds; peak GB"
    )
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            for works in shared(arguments.work):
                compare(arguments, network, works, Path(folder))


if __name__ == "__main__":
    main()
