"""Frozen is bit-identical and the rest learns, whatever the optimizer and however one trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tlkit
from tlkit.parts.optimizers import layerwise
from tlkit.train.assemble import Frozen, seeded
from tlkit.train.step import TrainStep

once = settings(max_examples=1)  # one draw a case: each traces a training step

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.3),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1),
    "clipnorm": lambda: keras.optimizers.Adam(0.1, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())

X = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 1], np.int32)

numbers = st.floats(-8, 8, width=32, allow_subnormal=False)
rate = st.sampled_from([0.0, 0.1, 1.0])
rates_by_layer = st.fixed_dictionaries(
    {"first": rate, "norm*": rate, "second": rate, "scores": rate}  # by name it is an error
).filter(lambda rates: any(rates[name] for name in ("first", "second", "scores")))
batch_norm_modes: st.SearchStrategy[Literal["inference", "train"]] = st.sampled_from(
    ["inference", "train"]
)
Training = Callable[[Any, Frozen, Any], None]


def small_model() -> Any:
    """Convolutions around a BatchNorm; every layer has a penalty, which pulls on all weights."""
    penalty = keras.regularizers.L2(0.1)
    # No bias before BatchNorm, which subtracts it again: its gradient would be 0.
    with seeded(0):
        return keras.Sequential(
            [
                keras.layers.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False, kernel_regularizer=penalty, name="first"),
                keras.layers.BatchNormalization(name="norm", gamma_regularizer=penalty),
                keras.layers.Conv2D(4, 3, activation="tanh", name="second"),
                keras.layers.Flatten(name="flatten"),
                keras.layers.Dense(
                    3, activation="softmax", kernel_regularizer=penalty, name="scores"
                ),
            ]
        )


def by_fit(model: Any, frozen: Frozen, optimizer: Any) -> None:
    """Train as a user of plain Keras does."""
    model.compile(frozen.optimizer(optimizer), "sparse_categorical_crossentropy")
    model.fit(X, LABELS, batch_size=2, epochs=1, verbose=0)


def by_xla(model: Any, frozen: Frozen, optimizer: Any) -> None:
    """Train as `tlkit.run` does where no convolution is trained."""
    by_stepper(model, frozen, optimizer, xla=True)


def by_stepper(model: Any, frozen: Frozen, optimizer: Any, xla: bool = False) -> None:
    """Train as `tlkit.run` does."""
    stepper = TrainStep(model, frozen.optimizer(optimizer), xla)
    for _ in range(2):
        stepper.train(X, LABELS, np.array([1, 2, 0.5, 1], np.float32))


def contents(model: Any) -> dict[str, bytes]:
    return {
        f"{layer.name}/{variable.name}": variable.numpy().tobytes()
        for layer in model.layers
        for variable in layer.weights
    }


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("train", "optimizer"),
    [
        pytest.param(train, make, id=f"{train.__name__}-{name}", marks=marks)
        for train, here in (
            (by_fit, {"sgd", "adamw"}),
            (by_xla, {"adamw", "clipnorm"}),  # each compiles for a second
            (by_stepper, set(OPTIMIZERS)),
        )
        for name, make in OPTIMIZERS.items()
        for marks in [() if name in here else pytest.mark.slow]
    ],
)
@once
@given(rates=rates_by_layer, batch_norm=batch_norm_modes)
@example(rates={"first": 0, "norm*": 1, "second": 0, "scores": 1}, batch_norm="inference")
def test_exactly_the_layers_with_a_rate_change(
    optimizer: Callable[[], Any],
    train: Training,
    rates: dict[str, float],
    batch_norm: Literal["inference", "train"],
) -> None:
    model = small_model()
    before = contents(model)
    train(model, tlkit.freeze(model, train=rates, batch_norm=batch_norm), optimizer())
    learning = {name.rstrip("*") for name, rate in rates.items() if rate}
    if batch_norm == "inference":
        learning -= {"norm"}
    assert changed(before, contents(model)) == {
        name for name in before if name.partition("/")[0] in learning
    }


@given(
    values=arrays(np.float32, (2, 5), elements=numbers),
    gradients=arrays(np.float32, (2, 5), elements=numbers),
)
@every_optimizer
@settings(max_examples=20)
def test_rate_0_inside_the_optimizer_leaves_every_bit(
    optimizer: Callable[[], Any], values: Any, gradients: Any
) -> None:
    values[0, 0] = -0.0  # of which even subtracting 0 would change a bit
    held, learning = (keras.Variable(row) for row in values)
    apply = layerwise(optimizer(), [0.0, 1.0]).apply
    for _ in range(3):
        apply(list(gradients), [held, learning])
    assert held.numpy().tobytes() == values[0].tobytes()


@given(
    values=arrays(np.float32, 5, elements=numbers),
    gradients=arrays(np.float32, 5, elements=numbers),
    rate=st.sampled_from([0.1, 0.5, 3.0]),
)
@every_optimizer
@settings(max_examples=20)
def test_a_rate_multiplies_the_first_step(
    optimizer: Callable[[], Any], values: Any, gradients: Any, rate: float
) -> None:
    """Weight decay is part of the step, so AdamW's is multiplied too."""
    whole, scaled_down = keras.Variable(values), keras.Variable(values)
    layerwise(optimizer(), [1.0]).apply([gradients], [whole])
    layerwise(optimizer(), [rate]).apply([gradients], [scaled_down])
    expected = rate * (whole.numpy().astype(np.float64) - values)
    found = scaled_down.numpy().astype(np.float64) - values
    rounding = 4 * np.finfo(np.float32).eps * (1 + rate) * (np.abs(values) + np.abs(expected))
    assert (np.abs(found - expected) <= rounding).all()


def test_decoupled_decay_alone_obeys_the_rate() -> None:
    variable = keras.Variable(np.ones(1, np.float32))
    layerwise(keras.optimizers.AdamW(0.1, weight_decay=0.5), [0.1]).apply([np.zeros(1)], [variable])
    assert variable.numpy() == np.float32(1) - np.float32(0.1 * 0.5 * 0.1)


def test_one_rate_is_needed_for_every_trainable_variable() -> None:
    with pytest.raises(ValueError, match=r"^expected 2 trainable variables, .* got 1$"):
        layerwise(keras.optimizers.SGD(), [0.1, 1.0]).build([keras.Variable(0.0)])


def test_all_rates_1_need_no_other_optimizer_class() -> None:
    assert type(layerwise(keras.optimizers.SGD(0.25), [1.0, 1.0])) is keras.optimizers.SGD


def test_the_given_optimizer_is_left_alone() -> None:
    original = keras.optimizers.Adam(0.25)
    assert layerwise(original, [0.5]) is not original
    assert not original.built


def test_optimizer_slots_exist_for_trainable_variables_only() -> None:
    model = small_model()
    frozen = tlkit.freeze(model, train={"second": 0.1, "scores": 1.0})
    optimizer = frozen.optimizer(keras.optimizers.Adam())
    TrainStep(model, optimizer, xla=False)
    slots = [slot for slot in optimizer.variables if len(slot.shape) > 0]
    trained = [v for name in ("second", "scores") for v in model.get_layer(name).weights]
    # Adam keeps two a variable.
    assert Counter(slot.shape for slot in slots) == Counter(v.shape for v in [*trained, *trained])


@once
@given(rates=rates_by_layer, batch_norm=batch_norm_modes)
def test_flags_do_not_change_what_the_model_says(
    rates: dict[str, float], batch_norm: Literal["inference", "train"]
) -> None:
    model = small_model()
    before = model(X, training=False).numpy()
    tlkit.freeze(model, train=rates, batch_norm=batch_norm)
    assert model(X, training=False).numpy().tobytes() == before.tobytes()


def test_frozen_batch_norm_works_in_inference_mode_while_training() -> None:
    model = small_model()
    tlkit.freeze(model, train="scores")
    trained, asked = (model(X, training=mode).numpy() for mode in (True, False))
    assert trained.tobytes() == asked.tobytes()


def test_batch_norm_of_rate_0_keeps_its_statistics_though_others_learn() -> None:
    model = small_model()
    before = contents(model)
    rates = {"first": 1.0, "norm": 0.0, "scores": 1.0}
    by_stepper(model, tlkit.freeze(model, train=rates, batch_norm="train"), OPTIMIZERS["sgd"]())
    assert changed(before, contents(model)) == {"first/kernel", "scores/kernel", "scores/bias"}


def test_freezing_after_compile_demands_a_new_compile() -> None:
    model = small_model()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, LABELS, verbose=0)
    tlkit.freeze(model, train="scores")
    with pytest.raises(ValueError, match="compile"):
        model.fit(X, LABELS, verbose=0)


def test_the_order_of_two_stages_matters() -> None:
    """The negative control of all equalities here: they are able to fail."""
    results = []
    for stages in (("first", "scores"), ("scores", "first")):
        model = small_model()
        for stage in stages:
            by_stepper(model, tlkit.freeze(model, train=stage), keras.optimizers.SGD(0.1))
        results.append(contents(model))
    assert changed(*results) == {"first/kernel", "scores/kernel", "scores/bias"}
