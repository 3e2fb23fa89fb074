"""What a part of each kind must do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hypothesis import given, reject
from hypothesis import strategies as st

from tlkit.data.splits import Splits
from tlkit.model.layers import LayerTable
from tlkit.parts import kinds
from tlkit.system.keras import start_keras
from tlkit.testing.strategies import layer_tables

CUTS_TRIED = 20


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Check that the body takes nothing from global generators, which Hypothesis puts back."""
    import numpy as np

    before = random.getstate(), str(np.random.get_state())
    yield
    drawn = before != (random.getstate(), str(np.random.get_state()))
    assert not drawn, "it draws from a global random generator"


def check_dataset(dataset: kinds.Dataset) -> None:
    """Check that loading twice gives the same splits and that every image can be read."""
    from tlkit.data.images import decode

    splits = dataset.load()
    assert isinstance(splits, Splits), f"load: must return Splits, got {splits!r}"
    assert dataset.load() == splits, "load: must give the same splits every time"
    for _, examples in splits.items():
        for example in examples:
            try:
                decode(splits.read(example.path))
            except (OSError, ValueError) as error:
                raise AssertionError(f"read: {example.path} is no sound image: {error}") from error


def check_backbone(backbone: kinds.Backbone) -> None:
    """Build a backbone of small image size twice; check its layer table and what `prepare` gives.

    In one process a second build must give its arrays the names that the first gave them, or what
    one run has written another could not read.
    """
    start_keras()
    import tensorflow as tf

    from tlkit.train.assemble import seeded, split_at
    from tlkit.weights.tensors import numbered_weights

    names: list[str] = []
    for _ in range(2):
        with seeded(0):  # as in a run: Keras takes its own seeds from Python's generator
            model, table = backbone.build(), backbone.layers()
        _check_table(table, model)
        before, names = names, [*numbered_weights(model, table)]
    anew = sorted({*names}.symmetric_difference(before))
    assert names == before, f"build: a second build names arrays anew: {', '.join(anew[:4])}"
    # Behind the last row there is nothing to cut off; each cut builds two models, so not all.
    said = [number for number, layer in table if layer.is_cut_point and number < len(table)]
    for number in said[:: -(-len(said) // CUTS_TRIED) or 1]:
        try:
            split_at(model, table, number)
        except ValueError as error:
            raise AssertionError(f"layers: row {number} says cut, but is no cut") from error
    shape = (2, backbone.image_size, backbone.image_size, 3)
    assert model.input.shape[1:] == shape[1:], f"build: the input must be {shape[1:]}"
    pixels = tf.random.stateless_uniform(shape, (0, 0), 0, 255)
    prepared = backbone.preprocess_images(pixels)
    assert prepared.shape == shape, f"prepare: must keep the shape {shape}, got {prepared.shape}"
    assert prepared.dtype == tf.float32, f"prepare: must give float32, got {prepared.dtype.name}"
    alike = bool(tf.reduce_all(backbone.preprocess_images(pixels) == prepared))
    assert alike, "prepare: must give the same every time"


def check_head(head: kinds.Head, features: tuple[int, ...] = (4, 4, 8), classes: int = 3) -> None:
    """Check the layer table against the built layers, and that probabilities sum to 1.

    Args:
        head: The head.
        features: The shape of its input, without the batch axis.
        classes: How many classes it tells apart.
    """
    start_keras()
    import keras
    import tensorflow as tf

    from tlkit.model.graph import layer_table
    from tlkit.train.assemble import seeded

    def build() -> Any:
        inputs = keras.Input(features)
        with seeded(0):  # as in a run: Keras takes its own seeds from Python's generator
            return keras.Model(inputs, head.attach(inputs, classes))

    model, table = build(), head.layers(features, classes)
    _check_table(table, model)
    for (_, said), (_, is_so) in zip(table, layer_table(model), strict=True):
        assert is_so.is_cut_point or not said.is_cut_point, (
            f"layers: {said.name} says cut, but is no cut"
        )
    pairs = zip(model.weights, build().weights, strict=True)
    alike = all((one.numpy() == other.numpy()).all() for one, other in pairs)
    assert alike, "attach: the same seed must give the same first weights"
    scores = model(tf.random.stateless_normal((5, *features), (0, 0))).numpy()
    assert scores.shape == (5, classes), f"attach: must give (5, {classes}), got {scores.shape}"
    sums = scores.sum(axis=1)
    assert (scores >= 0).all(), "attach: probabilities must be at least 0"
    assert (abs(sums - 1) < 1e-5).all(), f"attach: probabilities must sum to 1, got {sums}"


def _check_table(table: LayerTable, model: Any) -> None:
    from tlkit.model.graph import layer_table

    built = layer_table(model)
    assert len(table) == len(built), f"layers: {len(table)} rows, but the model has\n{built}"
    for (number, said), (_, is_so) in zip(table, built, strict=True):
        for fact in ("name", "kind", "output_shape", "params", "other_params", "batch_norm"):
            claimed, found = getattr(said, fact), getattr(is_so, fact)
            assert claimed == found, f"layers: row {number}: {fact} is {found!r}, not {claimed!r}"


def check_freeze(
    policy: kinds.FreezePolicy, fitting: st.SearchStrategy[LayerTable] | None = None
) -> None:
    """Check that on random layers the stages are pure, whole and have one rate a layer.

    Args:
        policy: The policy.
        fitting: Layer tables that it fits, if random ones hardly ever do.
    """

    @given(layer_tables() if fitting is None else fitting, st.integers(1, 30))
    def check(layers: LayerTable, epochs: int) -> None:
        for method in (policy.stages, policy.planned):
            try:
                with _nothing_drawn():
                    stages = method(layers, epochs)
            except ValueError:  # the layers do not fit the policy, or nothing would be trained
                reject()
            assert method(layers, epochs) == stages, "stages: must give the same every time"
            given_epochs = [stage.epochs for stage in stages]
            assert sum(given_epochs) == epochs, f"stages: {given_epochs} do not sum to {epochs}"
            assert min(given_epochs) > 0, f"stages: each needs an epoch, got {given_epochs}"
            for stage in stages:
                sound = [math.isfinite(rate) and rate >= 0 for rate in stage.lr_multipliers]
                assert len(sound) == len(layers), f"stages: one rate a layer, got {stage}"
                assert all(sound), f"stages: rates must be finite and at least 0, got {stage}"

    check()


def check_class_weights(weighting: kinds.ClassWeights, counts: Mapping[str, int]) -> None:
    """Check that every class gets a finite weight above 0, in the same order, every time."""
    weights = weighting.for_counts(counts)
    assert list(weights) == list(counts), f"for_counts: classes {[*counts]}, got {[*weights]}"
    sound = [math.isfinite(weight) and weight > 0 for weight in weights.values()]
    assert all(sound), f"for_counts: weights must be finite and above 0, got {weights}"
    assert weighting.for_counts(counts) == weights, "for_counts: must give the same every time"


def check_augmentation(augmentation: kinds.Augmentation) -> None:
    """Check that shape, dtype and range are kept, and that a row depends on its key alone."""
    start_keras()
    import numpy as np
    import tensorflow as tf

    def augment(images: Any, keys: Any) -> Any:
        return augmentation.augment(tf.constant(images), tf.constant(keys)).numpy()

    draws = np.random.default_rng(0)
    for count in range(1, 19):  # vectorized arithmetic may treat a batch's last rows differently
        images = draws.uniform(0, 255, (count, 16, 16, 3)).astype(np.float32)
        keys = draws.integers(0, 2**31 - 1, (count, 2), dtype=np.int32)
        changed = augment(images, keys)
        assert changed.shape == images.shape, f"augment: the shape became {changed.shape}"
        assert changed.dtype == np.float32, f"augment: must give float32, got {changed.dtype}"
        low, high = changed.min(), changed.max()
        assert 0 <= low <= high <= 255, f"augment: pixels left [0, 255]: {low} to {high}"
        order = draws.permutation(count)
        moved = augment(images[order], keys[order])
        alike = (moved == changed[order]).all()
        assert alike, f"augment: in another order, {count} images are not changed alike"
    same = augment(np.repeat(images[:1], count, axis=0), keys)
    differ = any((row != same[0]).any() for row in same)
    assert differ or not augmentation.changes, "augment: every key gives the same picture"
    assert augmentation.changes or (same == images[0]).all(), "changes: is False, but images change"


def check_loss(loss: kinds.Loss, counts: Mapping[str, int]) -> None:
    """Check that a loss is each image's own and that certain and wrong answers can be unlearnt.

    Args:
        loss: The loss.
        counts: How many training images each class has.
    """
    start_keras()
    import keras
    import numpy as np
    import tensorflow as tf

    function, classes = loss.build(counts), len(counts)
    right = np.arange(classes, dtype=np.int32)
    wrong = np.roll(right, 1)

    def losses_and_slopes(logits: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function(labels, keras.activations.softmax(logits))
        return losses, tape.gradient(losses, logits)

    logits = np.random.default_rng(0).normal(size=(classes, classes)).astype(np.float32)
    certain = tf.eye(classes) * 1e4  # image i is said to be of class i
    for xla in (False, True):
        step = tf.function(losses_and_slopes, jit_compile=xla)
        losses = step(tf.constant(logits), tf.constant(right))[0].numpy()
        assert losses.shape == (classes,), f"build: must give one loss an image, got {losses.shape}"
        assert losses.dtype == np.float32, f"build: must give float32, got {losses.dtype}"
        turned = step(tf.constant(logits[::-1]), tf.constant(right[::-1]))[0].numpy()[::-1]
        assert np.allclose(losses, turned), "build: an image's loss depends on its neighbours"
        for labels in (right, wrong):
            losses, slopes = (x.numpy() for x in step(certain, tf.constant(labels)))
            sound = np.isfinite(losses).all() and np.isfinite(slopes).all()
            assert sound, f"build: certain answers have losses {losses} and slopes {slopes}"
        # `slopes` are now those of the wrong answers, by the logit that should be higher.
        unlearnt = (slopes[right, wrong] < -0.1).all()
        assert unlearnt, "build: certain and wrong answers have no slope; see `logits_of`"


def check_optimizer(optimizer: kinds.Optimizer) -> None:
    """Check that steps are taken at the rates given, and none at rate 0."""
    start_keras()
    import keras
    import tensorflow as tf

    start = tf.constant([1.0, -2.0])
    held, learning = keras.Variable(start), keras.Variable(start)
    built = optimizer.build((0.0, 1.0))
    for _ in range(3):  # not even a gradient that is no number may reach the former
        built.apply([tf.constant([math.inf, math.nan]), tf.ones(2)], [held, learning])
    assert all(held.numpy() == start.numpy()), "build: rate 0 must leave a variable as it is"
    assert all(learning.numpy() < start.numpy()), "build: rate 1 must go against the gradient"


def check_schedule(schedule: kinds.Schedule) -> None:
    """Check that rates are finite, above 0, and depend on nothing but the history."""
    values = ("loss", "loss_unweighted", "val_loss", "accuracy", "val_accuracy")
    epoch = st.fixed_dictionaries(dict.fromkeys(values, st.floats(0, 10)))

    @given(st.floats(1e-6, 1), st.lists(epoch, max_size=15))
    def check(base: float, history: list[dict[str, float]]) -> None:
        epochs = len(history) + 1
        with _nothing_drawn():
            rate = schedule.learning_rate(base, epochs, history)
        assert 0 < rate < math.inf, f"rate: must be above 0, got {rate}"
        copies = [dict(reversed(epoch.items())) for epoch in history]
        assert schedule.learning_rate(base, epochs, copies) == rate, (
            "rate: same history, another rate"
        )

    check()


def _counts(part: Any) -> dict[str, int]:
    """Return the counts of a small study, or such of the classes that a part names itself."""
    named = getattr(part, "weights", None)
    classes = named if isinstance(named, Mapping) else ("normal", "pneumonia", "other")
    return {name: 50 // number for number, name in enumerate(classes, start=1)}


# What `check_part` asks of each kind.
KIND_CHECKS: Mapping[type, Callable[[Any], object]] = {
    kinds.Dataset: check_dataset,
    kinds.Backbone: check_backbone,
    kinds.Head: check_head,
    kinds.FreezePolicy: check_freeze,
    kinds.ClassWeights: lambda weighting: check_class_weights(weighting, _counts(weighting)),
    kinds.Augmentation: check_augmentation,
    kinds.Loss: lambda loss: check_loss(loss, _counts(loss)),
    kinds.Optimizer: check_optimizer,
    kinds.Schedule: check_schedule,
}
