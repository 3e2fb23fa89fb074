"""What tlkit checks of other people's parts: one call finds every broken promise, and names it."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from attrs import field, frozen
from hypothesis import strategies as st

import tlkit
from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.kinds import Augmentation, ClassWeights, FreezePolicy, Stage, registries
from tlkit.parts.registry import Registry
from tlkit.system.keras import start_keras
from tlkit.testing import KIND_CHECKS, KnownFailure, check_backbone, check_freeze, check_part
from tlkit.testing.contracts import ProcessState

Act = Callable[[], object]
acts: list[Act] = []  # what the parts below do besides their work


@pytest.fixture
def weightings() -> Iterator[Registry[ClassWeights]]:
    """A registry of class weightings of the tests' own."""
    acts.clear()
    found = Registry("class weighting", registries.class_weights.base)
    found.register("good")(Good)
    yield found
    acts.clear()


@frozen(kw_only=True)
class Good(ClassWeights):
    """Weigh every class alike.

    Attributes:
        weight: The weight.
    """

    weight: float = 1.0

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        for act in acts:
            act()
        return dict.fromkeys(counts, self.weight)


@frozen(kw_only=True)
class Undocumented(Good):
    """Says nothing of its key."""

    other: int = 0


def one_less(value: float) -> float:
    return value - 1


@frozen(kw_only=True)
class Untyped(Good):
    """Forgot the type, without which attrs sees no field.

    Attributes:
        other: Said to be a key.
    """

    other = 0


@frozen(kw_only=True)
class Converting(Good):
    """Changes what it is given every time.

    Attributes:
        weight: One less than what was given.
    """

    weight: float = field(default=1.0, converter=one_less)

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        return dict.fromkeys(counts, 1.0)


@frozen(kw_only=True)
class BadDefault(Good):
    """Its default breaks its own rule.

    Attributes:
        weight: Above 1.
    """

    weight: float = field(default=1.0)

    @weight.validator
    def _check(self, attribute: Any, value: float) -> None:
        if value <= 1:
            raise ValueError("must be above 1")


@frozen(kw_only=True)
class Negative(Good):
    """Weighs classes below 0."""

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        return dict.fromkeys(counts, -1.0)


def test_a_good_part_is_returned_as_its_settings_make_it(
    weightings: Registry[ClassWeights],
) -> None:
    assert check_part(weightings, "good", weight=3) == Good(weight=3.0)


BROKEN: dict[str, tuple[type[ClassWeights], dict[str, Any], str]] = {
    "documented": (Undocumented, {}, "the docstring has no entry `other:`"),
    "defaults": (BadDefault, {"weight": 2}, r"must be above 1"),
    "round_trip": (Converting, {}, r"read back from .* it is Converting\(weight=-1\.0\)"),
    "kind": (Negative, {}, r"weights must be finite and above 0"),
}


def test_what_the_docstring_calls_a_key_must_be_one(weightings: Registry[ClassWeights]) -> None:
    weightings.register("bad")(Untyped)
    message = (
        r"^documented: .*: the docstring describes other, which is not a field: a field has a type$"
    )
    with pytest.raises(AssertionError, match=message):
        check_part(weightings, "bad")


@pytest.mark.parametrize("promise", BROKEN)
class TestBrokenPromises:
    def test_each_is_named(self, weightings: Registry[ClassWeights], promise: str) -> None:
        cls, settings, message = BROKEN[promise]
        weightings.register("bad")(cls)
        with pytest.raises(
            AssertionError, match=rf"^{promise}: class weighting 'bad': .*{message}"
        ):
            check_part(weightings, "bad", **settings)

    def test_a_known_one_is_reported_with_its_reason(
        self, weightings: Registry[ClassWeights], promise: str
    ) -> None:
        cls, settings, _ = BROKEN[promise]
        weightings.register("bad")(cls)
        message = f"^class weighting 'bad' is known to break {promise}: it was late$"
        with pytest.warns(KnownFailure, match=message):
            check_part(weightings, "bad", known_failures={promise: "it was late"}, **settings)

    def test_a_known_one_that_is_kept_is_an_error(
        self, weightings: Registry[ClassWeights], promise: str
    ) -> None:
        message = rf"^{promise}: class weighting 'good' keeps it; remove it from known_failures"
        with pytest.raises(AssertionError, match=message):
            check_part(weightings, "good", known_failures={promise: "it was late"})


def test_a_known_failure_of_no_promise_is_refused(weightings: Registry[ClassWeights]) -> None:
    with pytest.raises(ValueError, match=r"no promise named 'doc': documented, defaults, "):
        check_part(weightings, "good", known_failures={"doc": "?"})


def set_floatx() -> None:
    import keras

    keras.config.set_floatx("float16")


def set_policy() -> None:
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")


def set_format() -> None:
    import keras

    keras.config.set_image_data_format("channels_first")


def draw_with_tensorflow() -> None:
    import tensorflow as tf

    tf.random.get_global_generator().normal([1])


CHANGES: dict[str, Act] = {
    "Python's random generator": random.random,
    "NumPy's global random generator": np.random.rand,
    "TensorFlow's global random generator": draw_with_tensorflow,
    r"keras\.config\.floatx": set_floatx,
    r"keras\.config\.dtype_policy": set_policy,
    r"keras\.config\.image_data_format": set_format,
    r"os\.environ": lambda: os.environ.update(A_PART="was here"),
    "the working directory": lambda: os.chdir("/"),
    "the warning filters": lambda: warnings.simplefilter("ignore", ResourceWarning),
    "the logger levels": lambda: logging.getLogger("somebody").setLevel(7),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_part_that_changes_shared_state_is_named_and_the_state_put_back(
    weightings: Registry[ClassWeights], what: str
) -> None:
    acts.append(CHANGES[what])
    before = ProcessState.now()
    message = rf"^global_state: class weighting 'good': it changes {what}$"
    with pytest.raises(AssertionError, match=message):
        check_part(weightings, "good")
    assert before.changed() == []


def test_what_only_the_first_use_changes_is_no_fault(weightings: Registry[ClassWeights]) -> None:
    """Importing a package may add filters or loggers; that happens once a process."""

    def import_once() -> None:
        if "somebodys_package" not in sys.modules:
            sys.modules["somebodys_package"] = sys
            warnings.simplefilter("ignore", ResourceWarning)

    acts.append(import_once)
    check_part(weightings, "good")
    del sys.modules["somebodys_package"]


@frozen(kw_only=True)
class Drawing(FreezePolicy):
    """Draws a number for nothing, in a generator that Hypothesis puts back."""

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        random.random()
        return (Stage(epochs, (1.0,) * len(layers)),)


def test_a_policy_that_draws_is_named() -> None:
    found = Registry("freeze policy", registries.freezes.base)
    found.register("drawing")(Drawing)
    tables = st.just(registries.heads.get("pooled")().layers((4, 4, 8), 2))  # quick to shrink
    with pytest.raises(AssertionError, match=r"^kind: .*: it draws from a global random generator"):
        check_part(found, "drawing", check=lambda policy: check_freeze(policy, tables))


@frozen(kw_only=True)
class Moody(tlkit.Head):
    """Begins with other weights every time."""

    def layers(self, features: tuple[int, ...], classes: int) -> LayerTable:
        inner = registries.heads.get("pooled")()
        return inner.layers(features, classes)

    def attach(self, features: Any, classes: int) -> Any:
        import keras

        pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
        seed = int.from_bytes(os.urandom(3))
        start = keras.initializers.RandomNormal(seed=seed)
        scores = keras.layers.Dense(
            classes, activation="softmax", kernel_initializer=start, name="scores"
        )
        return scores(pooled)


def test_a_head_with_a_seed_of_its_own_is_named() -> None:
    start_keras()
    found = Registry("head", registries.heads.base)
    found.register("moody")(Moody)
    with pytest.raises(AssertionError, match=r"^kind: .*the same seed must give the same initial"):
        check_part(found, "moody")


class Renaming(VGG16):
    """Names a weight by how often it was built."""

    builds = 0

    def build(self) -> Any:
        import keras

        class Scale(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
            def build(self, shape: Any) -> None:
                Renaming.builds += 1
                self.factor = self.add_weight((), name=f"factor_{Renaming.builds}")

            def call(self, images: Any) -> Any:
                return images * self.factor

        inputs = keras.Input((32, 32, 3))
        return keras.Model(inputs, Scale(name="scale")(inputs))

    def layers(self) -> LayerTable:
        return LayerTable((Layer("scale", "Scale", "scale", (32, 32, 3), params=1),))


def test_a_backbone_whose_arrays_are_named_anew_is_told() -> None:
    message = r"^build: a second build names arrays differently: 001\.scale/factor_1, 001"
    with pytest.raises(AssertionError, match=message):
        check_backbone(Renaming(weights="none", image_size=32))


@frozen(kw_only=True)
class Shrinking(Augmentation):
    """Loses pixels."""

    def augment(self, images: Any, keys: Any) -> Any:
        return images[:, :-1]


def test_the_check_of_the_kind_is_found_by_itself() -> None:
    found = Registry("augmentation", registries.augmentations.base)
    found.register("shrinking")(Shrinking)
    with pytest.raises(
        AssertionError, match=r"^kind: augmentation 'shrinking': augment: the shape"
    ):
        check_part(found, "shrinking")


def test_every_kind_has_a_check() -> None:
    assert {registry.base for _, registry in registries.items()} == {*KIND_CHECKS}


def test_a_kind_of_somebody_elses_is_checked_for_what_all_parts_promise() -> None:
    @frozen(kw_only=True)
    class Tool(ABC):  # noqa: B024  # a kind without a method
        """A kind of part."""

    @frozen(kw_only=True)
    class Hammer(Tool):
        """Drive nails."""

        size: int = 3

    tools = Registry("tool", Tool)
    tools.register("hammer")(Hammer)
    with pytest.raises(AssertionError, match=r"^documented: tool 'hammer': .* `size:`"):
        check_part(tools, "hammer")
