"""The process state that a part must leave unchanged.

A part that uses a global random generator or changes a global setting makes other results depend on
whether and when it was used.
"""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from tlkit.system.keras import start_keras


@frozen
class Fact:
    """One piece of shared state.

    Attributes:
        name: Its name in messages.
        get: Returns its value, comparable by `==`.
        put: Restores such a value.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


@frozen
class ProcessState:
    """The process's shared state at one moment.

    Attributes:
        values: Each fact's value, by name.
    """

    values: dict[str, Any] = field(repr=False)

    @classmethod
    def now(cls) -> ProcessState:
        """Return the current state; imports TensorFlow first, which itself changes some."""
        return cls({fact.name: fact.get() for fact in _facts()})

    def changed(self) -> list[str]:
        """Return the names of the facts that differ now."""
        return [fact.name for fact in _facts() if fact.get() != self.values[fact.name]]

    def restore(self) -> None:
        """Restore the facts that differ now."""
        for fact in _facts():
            if fact.get() != self.values[fact.name]:
                fact.put(self.values[fact.name])


def _facts() -> tuple[Fact, ...]:
    start_keras()
    import keras
    import numpy as np
    import tensorflow as tf

    generator = tf.random.get_global_generator()
    config = keras.config
    return (
        Fact("Python's random generator", random.getstate, random.setstate),
        Fact(
            "NumPy's global random generator",
            lambda: [_plain(value) for value in np.random.get_state()],
            np.random.set_state,
        ),
        Fact(
            "TensorFlow's global random generator",
            lambda: generator.state.numpy().tolist(),
            generator.state.assign,
        ),
        Fact("keras.config.floatx", config.floatx, config.set_floatx),
        Fact("keras.config.epsilon", config.epsilon, config.set_epsilon),
        Fact(
            "keras.config.image_data_format",
            config.image_data_format,
            config.set_image_data_format,
        ),
        Fact(
            "keras.config.dtype_policy",
            lambda: config.dtype_policy().name,
            config.set_dtype_policy,
        ),
        Fact("os.environ", lambda: dict(os.environ), _set_environment),
        Fact("the working directory", os.getcwd, os.chdir),
        Fact("the warning filters", lambda: list(warnings.filters), _set_filters),
        Fact("the logger levels", _levels, _set_levels),
    )


def _plain(value: Any) -> Any:
    """Return an array as a list, which `==` compares as a whole."""
    return value.tolist() if hasattr(value, "tolist") else value


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _set_filters(values: list[Any]) -> None:
    warnings.filters[:] = values  # type: ignore[index]  # typeshed calls the list a Sequence
    warnings._filters_mutated()  # type: ignore[attr-defined]  # otherwise cached results of old filters stay


def _levels() -> dict[str, int]:
    """Return the level of every logger that sets one."""
    known = logging.root.manager.loggerDict
    loggers = [logging.root, *(log for log in known.values() if isinstance(log, logging.Logger))]
    return {logger.name: logger.level for logger in loggers if logger.level}


def _set_levels(values: dict[str, int]) -> None:
    for name in _levels().keys() | values.keys():
        logging.getLogger(name).setLevel(values.get(name, logging.NOTSET))
