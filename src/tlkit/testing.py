"""For authors of parts: random inputs, and checks that a part keeps what its kind promises.

Each check raises `AssertionError` with what was broken, so a test of a part is one line:

```python
def test_my_head() -> None:
    check_part(tlkit.registries.heads, "my_head", units=[8])
```

This module needs Hypothesis; nothing else in tlkit imports it.
"""

from __future__ import annotations

import math
import random
import string
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import NOTHING, frozen
from hypothesis import given, reject
from hypothesis import strategies as st

from tlkit.backend import prepare
from tlkit.config import structure as tables
from tlkit.config.fields import keys
from tlkit.config.fields import part as part_field
from tlkit.config.keys import describe_keys
from tlkit.errors import ConfigError
from tlkit.layers import HEAD, Layer, LayerRange, LayerTable
from tlkit.parts import kinds
from tlkit.parts.splits import Splits
from tlkit.registry import Registry
from tlkit.surroundings import Surroundings

T = TypeVar("T")

KINDS = ("Conv2D", "Dense", "BatchNormalization", "MaxPooling2D")
CUTS_TRIED = 20
UNKNOWN = "a_key_that_no_part_has"


@st.composite
def layer_tables(draw: st.DrawFn) -> LayerTable:
    """Return a strategy for layer tables: one to eight backbone rows, then one to three of a head.

    Names are unique and begin with their block's; blocks are in order; the last row has weights.
    """
    blocks = sorted(draw(st.lists(st.integers(1, 4), min_size=1, max_size=8)))
    named = [*(f"block{block}" for block in blocks), *[HEAD] * draw(st.integers(0, 2))]
    rows = [draw(_layers(block, number)) for number, block in enumerate(named, start=1)]
    scores = Layer(f"{HEAD}_scores", "Dense", HEAD, (3,), params=draw(st.integers(1, 5000)))
    return LayerTable((*rows, scores))


@st.composite
def _layers(draw: st.DrawFn, block: str, number: int) -> Layer:
    kind = draw(st.sampled_from(KINDS))
    params = 0 if kind == "MaxPooling2D" else draw(st.integers(1, 5000))
    batch_norm = kind == "BatchNormalization"
    return Layer(
        name=f"{block}_{kind.lower()}_{number}",
        kind=kind,
        block=block,
        output_shape=tuple(draw(st.lists(st.integers(1, 64), min_size=1, max_size=3))),
        params=params,
        other_params=params if batch_norm else 0,
        batch_norm=batch_norm,
        cut=draw(st.booleans()),
    )


@st.composite
def layer_ranges(draw: st.DrawFn, length: int) -> LayerRange:
    """Return a strategy for ranges that fit a table of `length` layers, open ones included."""
    first = draw(st.integers(1, length))
    return LayerRange(first, draw(st.none() | st.integers(first, length)))


def class_counts(min_classes: int = 2) -> st.SearchStrategy[dict[str, int]]:
    """Return a strategy for images a class: `min_classes` to seven classes, none empty."""
    names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=9)
    return st.dictionaries(names, st.integers(1, 100_000), min_size=min_classes, max_size=7)


class KnownFailure(UserWarning):
    """A promise that a part is known to break, with the reason its author gave."""


def check_part(
    registry: Registry[T],
    name: str,
    *,
    check: Callable[[Any], object] | None = None,
    known_failures: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> T:
    """Check every promise a part makes, tlkit's own parts too, and return the one from `settings`.

    `documented`: it is an attrs class itself, not just the child of one, whose fields would be no
    keys; its docstring says what each key means. `defaults`: it can be made from the keys that have
    no default. `round_trip`: it can be written out and read back. `unknown_key`: it refuses a key
    that it does not have. `kind`: it does what every part of its kind must, see the other checks
    here. `global_state`: none of this changes the process's random generators, environment,
    warnings, loggers or Keras settings.

    Args:
        registry: The registry of its kind.
        name: The name it is registered under.
        check: What every part of the kind must do; unset: this module's check of the kind.
        known_failures: Promises that it is known to break, each with the reason. They are reported
            as `KnownFailure` warnings; one that is kept after all is an error.
        **settings: Its keys as TOML would give them, at least those that have no default. Paths
            are relative: an absolute one is written out relative to the working directory.

    Raises:
        AssertionError: If it breaks a promise; the message begins with which.
        ConfigError: If the settings are wrong.
        ValueError: If `known_failures` names something that is no promise.
    """
    cls = registry.get(name)

    @frozen
    class Holder:
        part: Any = part_field(registry)

    held = tables.structure(Holder, {"part": {"name": name, **settings}})
    check = check or _kind_check(held.part)
    before = Surroundings.now()
    promises: dict[str, Callable[[], object]] = {
        "documented": lambda: _check_documented(cls),
        "defaults": lambda: _check_defaults(Holder, cls, name, settings),
        "round_trip": lambda: _check_round_trip(held),
        "unknown_key": lambda: _check_unknown_key(Holder, held),
        "kind": lambda: check(held.part),
        "global_state": lambda: _check_global_state(before, lambda: check(held.part)),
    }
    if unknown := known_failures.keys() - promises.keys():
        raise ValueError(
            f"known_failures: no promise named {min(unknown)!r}: {', '.join(promises)}"
        )
    for promise, keep in promises.items():
        try:
            keep()
        except Exception as error:
            if promise not in known_failures:
                raise AssertionError(f"{promise}: {registry.kind} {name!r}: {error}") from error
            reason = known_failures[promise]
            message = f"{registry.kind} {name!r} breaks {promise}, as known: {reason}"
            warnings.warn(message, KnownFailure, stacklevel=2)
        else:
            assert promise not in known_failures, (
                f"{promise}: {registry.kind} {name!r} keeps it; take it out of known_failures"
            )
    part: T = held.part
    return part


def _check_documented(cls: type) -> None:
    assert "__attrs_attrs__" in vars(cls), "decorate the class itself with attrs.frozen"
    assert (cls.__doc__ or "").strip(), "give the class a docstring"
    for key in describe_keys(cls):
        assert key.meaning, f"the docstring has no entry `{key.name}:` below `Attributes:`"


def _check_defaults(holder: type, cls: type, name: str, settings: Mapping[str, Any]) -> None:
    needed = {key.name for key in keys(cls) if key.default is NOTHING}
    required = {key: value for key, value in settings.items() if key in needed}
    tables.structure(holder, {"part": {"name": name, **required}})


def _check_round_trip(held: Any) -> None:
    table = tables.unstructure(held)
    again = tables.structure(type(held), table)
    assert again == held, f"read back from {table} it is {again.part}, not {held.part}"


def _check_unknown_key(holder: type, held: Any) -> None:
    table = tables.unstructure(held)["part"]
    problems = _problems(holder, {"part": {**table, UNKNOWN: 1}})
    assert problems == [f"part.{UNKNOWN}"], f"an unknown key gives problems at {problems}"


def _check_global_state(before: Surroundings, use: Callable[[], object]) -> None:
    """Check that nothing has changed but by what the first use imported; put all of it back."""
    try:
        if before.changed():
            before.restore()
            with suppress(AssertionError):  # that is told of `kind`
                use()
        assert not before.changed(), f"it changes {' and '.join(before.changed())}"
    finally:
        before.restore()


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Check that the body takes nothing from global generators, which Hypothesis puts back."""
    import numpy as np

    before = random.getstate(), str(np.random.get_state())
    yield
    drawn = before != (random.getstate(), str(np.random.get_state()))
    assert not drawn, "it draws from a global random generator"


def _kind_check(part: Any) -> Callable[[Any], object]:
    """Return this module's check of a part's kind; one that does nothing for a kind without."""
    return next((check for kind, check in KIND_CHECKS.items() if isinstance(part, kind)), bool)


def _problems(cls: type, table: Mapping[str, Any]) -> list[str]:
    try:
        tables.structure(cls, table)
    except ConfigError as error:
        return [problem.path for problem in error.problems]
    return []


def check_dataset(dataset: kinds.Dataset) -> None:
    """Check that loading twice gives the same splits and that every image can be read."""
    from tlkit.train.images import decode

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
    """Build a backbone of small image size; check its layer table and what `prepare` gives."""
    prepare()
    import tensorflow as tf

    from tlkit.train.model import seeded, split_at

    with seeded(0):  # as in a run: Keras takes its own seeds from Python's generator
        model, table = backbone.build(), backbone.layers()
    _check_table(table, model)
    # Behind the last row there is nothing to cut off; each cut builds two models, so not all.
    said = [number for number, layer in table if layer.cut and number < len(table)]
    for number in said[:: -(-len(said) // CUTS_TRIED) or 1]:
        try:
            split_at(model, table, number)
        except ValueError as error:
            raise AssertionError(f"layers: row {number} says cut, but is no cut") from error
    shape = (2, backbone.image_size, backbone.image_size, 3)
    assert model.input.shape[1:] == shape[1:], f"build: the input must be {shape[1:]}"
    pixels = tf.random.stateless_uniform(shape, (0, 0), 0, 255)
    prepared = backbone.prepare(pixels)
    assert prepared.shape == shape, f"prepare: must keep the shape {shape}, got {prepared.shape}"
    assert prepared.dtype == tf.float32, f"prepare: must give float32, got {prepared.dtype.name}"
    alike = bool(tf.reduce_all(backbone.prepare(pixels) == prepared))
    assert alike, "prepare: must give the same every time"


def check_head(head: kinds.Head, features: tuple[int, ...] = (4, 4, 8), classes: int = 3) -> None:
    """Check the layer table against the built layers, and that probabilities sum to 1.

    Args:
        head: The head.
        features: The shape of its input, without the batch axis.
        classes: How many classes it tells apart.
    """
    prepare()
    import keras
    import tensorflow as tf

    from tlkit.graph import layer_table
    from tlkit.train.model import seeded

    def build() -> Any:
        inputs = keras.Input(features)
        with seeded(0):  # as in a run: Keras takes its own seeds from Python's generator
            return keras.Model(inputs, head.attach(inputs, classes))

    model, table = build(), head.layers(features, classes)
    _check_table(table, model)
    for (_, said), (_, is_so) in zip(table, layer_table(model), strict=True):
        assert is_so.cut or not said.cut, f"layers: {said.name} says cut, but is no cut"
    pairs = zip(model.weights, build().weights, strict=True)
    alike = all((one.numpy() == other.numpy()).all() for one, other in pairs)
    assert alike, "attach: the same seed must give the same first weights"
    scores = model(tf.random.stateless_normal((5, *features), (0, 0))).numpy()
    assert scores.shape == (5, classes), f"attach: must give (5, {classes}), got {scores.shape}"
    sums = scores.sum(axis=1)
    assert (scores >= 0).all(), "attach: probabilities must be at least 0"
    assert (abs(sums - 1) < 1e-5).all(), f"attach: probabilities must sum to 1, got {sums}"


def _check_table(table: LayerTable, model: Any) -> None:
    from tlkit.graph import layer_table

    built = layer_table(model)
    assert len(table) == len(built), f"layers: {len(table)} rows, but the model has\n{built}"
    for (number, said), (_, is_so) in zip(table, built, strict=True):
        for fact in ("name", "kind", "output_shape", "params", "other_params", "batch_norm"):
            claimed, found = getattr(said, fact), getattr(is_so, fact)
            assert claimed == found, f"layers: row {number}: {fact} is {found!r}, not {claimed!r}"


def check_freeze(
    policy: kinds.Freeze, fitting: st.SearchStrategy[LayerTable] | None = None
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
                sound = [math.isfinite(rate) and rate >= 0 for rate in stage.rates]
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
    prepare()
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
    prepare()
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
    prepare()
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
            rate = schedule.rate(base, epochs, history)
        assert 0 < rate < math.inf, f"rate: must be above 0, got {rate}"
        copies = [dict(reversed(epoch.items())) for epoch in history]
        assert schedule.rate(base, epochs, copies) == rate, "rate: same history, another rate"

    check()


def _counts(part: Any) -> dict[str, int]:
    """Return the counts of a small study, or such of the classes that a part names itself."""
    named = getattr(part, "weights", None)
    classes = named if isinstance(named, Mapping) else ("normal", "pneumonia", "covid-19")
    return {name: 50 // number for number, name in enumerate(classes, start=1)}


# What `check_part` asks of each kind.
KIND_CHECKS: Mapping[type, Callable[[Any], object]] = {
    kinds.Dataset: check_dataset,
    kinds.Backbone: check_backbone,
    kinds.Head: check_head,
    kinds.Freeze: check_freeze,
    kinds.ClassWeights: lambda weighting: check_class_weights(weighting, _counts(weighting)),
    kinds.Augmentation: check_augmentation,
    kinds.Loss: lambda loss: check_loss(loss, _counts(loss)),
    kinds.Optimizer: check_optimizer,
    kinds.Schedule: check_schedule,
}
