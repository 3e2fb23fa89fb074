"""Random numbers for KerasCV's layers that depend on one key and the place of their drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


class KeyedDraws:
    """Stands in for a `tf.random.Generator`: the n-th draw since `begin` depends on key and n only.

    Draws are counted while a graph is traced, so the n-th is always the same operation; two
    branches of a condition have numbers of their own.
    """

    def __init__(self) -> None:
        self._key: tf.Tensor | None = None
        self._count = 0

    def begin(self, key: tf.Tensor) -> None:
        """Draw from `key` from now on."""
        self._key, self._count = key, 0

    def _next_key(self) -> tf.Tensor:
        self._count += 1
        return _folded(self._key, self._count)

    @contextmanager
    def within(self, number: tf.Tensor) -> Iterator[None]:
        """Draw from the key and a number too, such as a loop's round, while the body runs."""
        inner = _folded(self._next_key(), number)
        outer, self._key, self._count = (self._key, self._count), inner, 0
        try:
            yield
        finally:
            self._key, self._count = outer

    def uniform(
        self,
        shape: Sequence[Any],
        minval: Any = 0,
        maxval: Any = None,
        dtype: Any = "float32",
    ) -> tf.Tensor:
        """Return evenly distributed numbers, as `tf.random.Generator.uniform`."""
        import tensorflow as tf

        key = self._next_key()
        if maxval is None:
            maxval = 1
        return tf.random.stateless_uniform(shape, key, minval, maxval, dtype, alg="philox")

    def normal(
        self, shape: Sequence[Any], mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32"
    ) -> tf.Tensor:
        """Return normally distributed numbers, as `tf.random.Generator.normal`."""
        import tensorflow as tf

        return tf.random.stateless_normal(
            shape, self._next_key(), mean, stddev, dtype, alg="philox"
        )

    def gamma(self, alpha: tf.Tensor) -> tf.Tensor:
        """Return one gamma-distributed number for each `alpha`."""
        import tensorflow as tf

        return tf.random.stateless_gamma(alpha.shape, self._next_key(), alpha)


def _folded(key: Any, number: Any) -> tf.Tensor:
    """Return a new key from a key and a number."""
    import tensorflow as tf

    number = tf.reshape(number, ())
    return tf.random.experimental.stateless_fold_in(key, number, alg="philox")
