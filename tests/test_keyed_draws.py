"""Keyed draws: a function of the key and the place of the draw, in loops and branches too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tlkit.parts.keras_cv_augmentations import KeyedDraws

KEY = (3, 4)


def drawn(count: int, key: tuple[int, int] = KEY) -> list[Any]:
    draws = KeyedDraws()
    draws.begin(tf.constant(key))
    return [draws.uniform((3,)).numpy().tolist() for _ in range(count)]


def test_draws_differ_from_each_other_and_come_again_with_the_key() -> None:
    first = drawn(3)
    assert len({tuple(row) for row in first}) == 3
    assert drawn(3) == first
    assert drawn(3, (3, 5)) != first


def test_beginning_again_draws_the_same_again() -> None:
    draws = KeyedDraws()
    found = []
    for _ in range(2):
        draws.begin(tf.constant(KEY))
        found.append([draws.uniform(()).numpy(), draws.normal(()).numpy()])
    assert found[0] == found[1]


def test_each_round_of_a_loop_draws_anew() -> None:
    """The body of a loop is traced once, so it would count to the same number in each round."""
    draws = KeyedDraws()

    @tf.function(autograph=False)
    def loop(key: tf.Tensor) -> Any:
        draws.begin(key)

        def body(number: tf.Tensor, found: tf.TensorArray) -> Any:
            with draws.within(number):
                return number + 1, found.write(number, draws.uniform(()))

        array = tf.TensorArray(tf.float32, 6)
        rounds = tf.while_loop(lambda number, _: number < 6, body, [0, array])[1].stack()
        return tf.concat([rounds, [draws.uniform(())]], axis=0)

    found = loop(tf.constant(KEY)).numpy()
    assert len(set(found)) == 7
    np.testing.assert_array_equal(loop(tf.constant(KEY)), found)


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, None, "float32"), (2, 9, "int32")])
def test_even_draws_stay_in_their_range_and_fill_it(low: int, high: int | None, dtype: str) -> None:
    draws = KeyedDraws()
    draws.begin(tf.constant(KEY))
    found = draws.uniform((2000,), low, high, dtype).numpy()
    top = 1 if high is None else high
    assert found.dtype == dtype
    assert low <= found.min() < found.max() < top
    middle = (low + top - (dtype == "int32")) / 2
    assert found.mean() == pytest.approx(middle, rel=0.05)


def test_normal_and_gamma_draws_have_their_moments() -> None:
    draws = KeyedDraws()
    draws.begin(tf.constant(KEY))
    normal = draws.normal((4000,), 5.0, 2.0).numpy()
    gamma = draws.gamma(tf.fill((4000,), 3.0)).numpy()
    assert (normal.mean(), normal.std()) == pytest.approx((5, 2), rel=0.05)
    assert (gamma.mean(), gamma.var()) == pytest.approx((3, 3), rel=0.1)
