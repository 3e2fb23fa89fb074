"""Checks of what a part of each kind must do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tlkit.data.splits import Splits
from tlkit.model.graph import layer_table
from tlkit.model.layers import LayerTable
from tlkit.parts import kinds
from tlkit.parts.optimizers import LBFGS, with_rates
from tlkit.system.keras import start_keras
from tlkit.testing.strategies import layer_tables

CUTS_TRIED = 20
# A busy machine must not fail a part.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def _no_global_draws() -> Iterator[None]:
    """Check that the body does not use global random generators, which Hypothesis resets."""
    import numpy as np

    before = random.getstate(), str(np.random.get_state())
    yield
    drawn = before != (random.getstate(), str(np.random.get_state()))
    assert not drawn, "it draws from a global random generator"


def check_dataset(dataset: kinds.Dataset) -> None:
    """Check that `load` always returns the same splits and that every image can be read."""
    from tlkit.data.decoding import decode

    splits = dataset.load()
    assert isinstance(splits, Splits), f"load: must return Splits, got {splits!r}"
    assert dataset.load() == splits, "load: must return the same splits every time"
    for _, examples in splits.items():
        for example in examples:
            try:
                decode(splits.read(example.path))
            except (OSError, ValueError) as error:
                raise AssertionError(
                    f"read: {example.path} is not a valid image: {error}"
                ) from error


def check_backbone(backbone: kinds.Backbone) -> None:
    """Build a backbone twice; check its layer table, its arrays' names and its preprocessing.

    A second build in the process must name its arrays like the first. Otherwise one run could not
    read the files of another. Use a small image size.
    """
    start_keras()
    import tensorflow as tf

    from tlkit.train.assemble import seeded, split_at
    from tlkit.weights.tensors import numbered_weights

    names: list[str] = []
    for _ in range(2):
        with seeded(0):  # as in a run: Keras draws its seeds from Python's generator
            model, table = backbone.build(), backbone.layers()
        _check_table(table, model)
        before, names = names, [*numbered_weights(model, table)]
    changed = sorted({*names}.symmetric_difference(before))
    assert names == before, (
        f"build: a second build names arrays differently: {', '.join(changed[:4])}"
    )
    # Nothing follows the last row. Each cut builds two models, so only some are tried.
    cuts = [number for number, layer in table if layer.is_cut_point and number < len(table)]
    for number in cuts[:: -(-len(cuts) // CUTS_TRIED) or 1]:
        try:
            split_at(model, table, number)
        except ValueError as error:
            raise AssertionError(f"layers: row {number} is not a cut point") from error
    shape = (2, backbone.image_size, backbone.image_size, 3)
    assert model.input.shape[1:] == shape[1:], f"build: the input must be {shape[1:]}"
    pixels = tf.random.stateless_uniform(shape, (0, 0), 0, 255)
    prepared = backbone.preprocess_images(pixels)
    assert prepared.shape == shape, f"preprocess: must keep the shape {shape}, got {prepared.shape}"
    assert prepared.dtype == tf.float32, (
        f"preprocess: must return float32, got {prepared.dtype.name}"
    )
    same = bool(tf.reduce_all(backbone.preprocess_images(pixels) == prepared))
    assert same, "preprocess: must return the same every time"


def check_head(head: kinds.Head, features: tuple[int, ...] = (4, 4, 8), classes: int = 3) -> None:
    """Check the layer table against the built layers, and that probabilities sum to 1.

    Args:
        head: The head.
        features: The shape of its input, without the batch axis.
        classes: The number of classes.
    """
    start_keras()
    import keras
    import tensorflow as tf

    from tlkit.train.assemble import seeded

    def build() -> Any:
        inputs = keras.Input(features)
        with seeded(0):  # as in a run: Keras draws its seeds from Python's generator
            return keras.Model(inputs, head.attach(inputs, classes))

    model, table = build(), head.layers(features, classes)
    _check_table(table, model)
    for (_, stated), (_, actual) in zip(table, layer_table(model), strict=True):
        assert actual.is_cut_point or not stated.is_cut_point, (
            f"layers: {stated.name} is not a cut point"
        )
    pairs = zip(model.weights, build().weights, strict=True)
    same = all((weight.numpy() == other.numpy()).all() for weight, other in pairs)
    assert same, "attach: the same seed must give the same initial weights"
    scores = model(tf.random.stateless_normal((5, *features), (0, 0))).numpy()
    assert scores.shape == (5, classes), f"attach: must return (5, {classes}), got {scores.shape}"
    sums = scores.sum(axis=1)
    assert (scores >= 0).all(), "attach: probabilities must be at least 0"
    assert (abs(sums - 1) < 1e-5).all(), f"attach: probabilities must sum to 1, got {sums}"


def _check_table(table: LayerTable, model: Any) -> None:

    built = layer_table(model)
    assert len(table) == len(built), f"layers: {len(table)} rows, but the model has\n{built}"
    for (number, stated), (_, actual) in zip(table, built, strict=True):
        for fact in ("name", "kind", "output_shape", "params", "other_params", "batch_norm"):
            value, expected = getattr(stated, fact), getattr(actual, fact)
            assert value == expected, f"layers: row {number}: {fact} is {expected!r}, not {value!r}"


def check_freeze(
    policy: kinds.FreezePolicy, fitting: st.SearchStrategy[LayerTable] | None = None
) -> None:
    """Check on random layers that stages are pure, complete and have one multiplier per layer.

    Args:
        policy: The policy.
        fitting: Layer tables that the policy can handle, if random ones rarely are.
    """

    @patient
    @given(layer_tables() if fitting is None else fitting, st.integers(1, 30))
    def check(layers: LayerTable, epochs: int) -> None:
        for method in (policy.stages, policy.planned):
            try:
                with _no_global_draws():
                    stages = method(layers, epochs)
            except ValueError:  # does not fit these layers, or would train nothing
                reject()
            assert method(layers, epochs) == stages, "stages: must return the same every time"
            given_epochs = [stage.epochs for stage in stages]
            assert sum(given_epochs) == epochs, f"stages: {given_epochs} do not sum to {epochs}"
            assert min(given_epochs) > 0, f"stages: each needs an epoch, got {given_epochs}"
            for stage in stages:
                sound = [math.isfinite(rate) and rate >= 0 for rate in stage.lr_multipliers]
                assert len(sound) == len(layers), f"stages: needs one rate per layer, got {stage}"
                assert all(sound), f"stages: rates must be finite and at least 0, got {stage}"

    check()


def check_class_weights(weighting: kinds.ClassWeights, counts: Mapping[str, int]) -> None:
    """Check that every class always gets the same finite weight above 0, in order."""
    weights = weighting.for_counts(counts)
    assert list(weights) == list(counts), f"for_counts: classes {[*counts]}, got {[*weights]}"
    sound = [math.isfinite(weight) and weight > 0 for weight in weights.values()]
    assert all(sound), f"for_counts: weights must be finite and above 0, got {weights}"
    assert weighting.for_counts(counts) == weights, "for_counts: must return the same every time"


def check_augmentation(augmentation: kinds.Augmentation) -> None:
    """Check that shape, dtype and range are kept and that a row depends only on its key."""
    start_keras()
    import numpy as np
    import tensorflow as tf

    def augment(images: Any, keys: Any) -> Any:
        return augmentation.augment(tf.constant(images), tf.constant(keys)).numpy()

    draws = np.random.default_rng(0)
    # Vectorized arithmetic, 4, 8 or 16 at a time, may treat the last rows differently.
    for count in (1, 3, 4, 5, 8, 9, 16, 17, 18):
        images = draws.uniform(0, 255, (count, 16, 16, 3)).astype(np.float32)
        keys = draws.integers(0, 2**31 - 1, (count, 2), dtype=np.int32)
        changed = augment(images, keys)
        assert changed.shape == images.shape, f"augment: the shape became {changed.shape}"
        assert changed.dtype == np.float32, f"augment: must return float32, got {changed.dtype}"
        low, high = changed.min(), changed.max()
        assert 0 <= low <= high <= 255, f"augment: pixels left [0, 255]: {low} to {high}"
        order = draws.permutation(count)
        same = (augment(images[order], keys[order]) == changed[order]).all()
        assert same, f"augment: {count} images are changed differently in another order"
    copies = augment(np.repeat(images[:1], count, axis=0), keys)
    differ = any((row != copies[0]).any() for row in copies)
    assert differ or not augmentation.changes, "augment: every key gives the same image"
    unchanged = (copies == images[0]).all()
    assert augmentation.changes or unchanged, "changes: is False, but images change"


def check_loss(loss: kinds.Loss, counts: Mapping[str, int]) -> None:
    """Check that losses are per image and that confident wrong answers have gradients.

    Args:
        loss: The loss.
        counts: The number of training images per class.
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
    confident = tf.eye(classes) * 1e4  # image i is predicted as class i
    for xla in (False, True):
        step = tf.function(losses_and_slopes, jit_compile=xla)
        losses = step(tf.constant(logits), tf.constant(right))[0].numpy()
        assert losses.shape == (classes,), (
            f"build: must return one loss per image, got {losses.shape}"
        )
        assert losses.dtype == np.float32, f"build: must return float32, got {losses.dtype}"
        turned = step(tf.constant(logits[::-1]), tf.constant(right[::-1]))[0].numpy()[::-1]
        assert np.allclose(losses, turned), "build: an image's loss depends on other images"
        for labels in (right, wrong):
            losses, slopes = (x.numpy() for x in step(confident, tf.constant(labels)))
            sound = np.isfinite(losses).all() and np.isfinite(slopes).all()
            assert sound, f"build: confident answers have losses {losses} and gradients {slopes}"
        # `slopes` are now those of the wrong answers, by the logit that should be higher.
        corrected = (slopes[right, wrong] < -0.1).all()
        assert corrected, "build: confident wrong answers have no gradient; see `logits_of`"


def check_optimizer(optimizer: kinds.Optimizer) -> None:
    """Check that multipliers scale steps and that there is no step at multiplier 0.

    They are applied as in a run, which does it for a part that ignores them.
    """
    if isinstance(optimizer, LBFGS):
        strengths = optimizer.strengths(5)
        assert list(strengths) == sorted(strengths, reverse=True), "strengths: must not rise"
        return
    start_keras()
    import keras
    import tensorflow as tf

    start = tf.constant([1.0, -2.0])
    held, learning = keras.Variable(start), keras.Variable(start)
    built = with_rates(optimizer, (0.0, 1.0))
    for _ in range(3):  # not even a NaN gradient may reach the held variable
        built.apply([tf.constant([math.inf, math.nan]), tf.ones(2)], [held, learning])
    assert all(held.numpy() == start.numpy()), "build: multiplier 0 must leave a variable unchanged"
    assert all(learning.numpy() < start.numpy()), "build: multiplier 1 must go against the gradient"


def check_schedule(schedule: kinds.Schedule) -> None:
    """Check that rates are finite, above 0, and depend only on the history."""
    values = ("loss", "loss_unweighted", "val_loss", "accuracy", "val_accuracy")
    epoch = st.fixed_dictionaries(dict.fromkeys(values, st.floats(0, 10)))

    @patient
    @given(st.floats(1e-6, 1), st.lists(epoch, max_size=15))
    def check(base: float, history: list[dict[str, float]]) -> None:
        epochs = len(history) + 1
        with _no_global_draws():
            rate = schedule.learning_rate(base, epochs, history)
        assert 0 < rate < math.inf, f"learning_rate: must be above 0, got {rate}"
        copies = [dict(reversed(epoch.items())) for epoch in history]
        assert schedule.learning_rate(base, epochs, copies) == rate, (
            "learning_rate: the same history must give the same rate"
        )

    @given(st.floats(1e-6, 1), st.integers(1, 15), st.floats(0, 1, exclude_min=True))
    def check_steps(base: float, epochs: int, done: float) -> None:
        progress = max(1e-3, done * (epochs - 1e-3))  # the middle of a step
        with _no_global_draws():
            rate = schedule.step_rate(base, epochs, progress)
        assert rate is None or 0 < rate < math.inf, f"step_rate: must be above 0, got {rate}"
        assert schedule.step_rate(base, epochs, progress) == rate, (
            "step_rate: the same progress must give the same rate"
        )

    check()
    check_steps()


def _counts(part: Any) -> dict[str, int]:
    """Return the counts of a small dataset, with the classes that the part names, if any."""
    named = getattr(part, "weights", None)
    classes = named if isinstance(named, Mapping) else ("normal", "pneumonia", "other")
    return {name: 50 // number for number, name in enumerate(classes, start=1)}


# What `check_part` checks for each kind.
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
