"""The check of everything that a part promises, and of the process state it must leave alone."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import NOTHING, field, fields, frozen

from tlkit.config import structure as tables
from tlkit.config.schema import describe_keys, meanings
from tlkit.config.structure import keys
from tlkit.config.structure import part as part_field
from tlkit.parts.registry import Registry
from tlkit.system.errors import ConfigError
from tlkit.system.keras import start_keras
from tlkit.testing.checks import KIND_CHECKS


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


T = TypeVar("T")

UNKNOWN = "a_key_that_no_part_has"


class KnownFailure(UserWarning):
    """A promise that a part is known to break, with its author's reason."""


def check_part(
    registry: Registry[T],
    name: str,
    *,
    check: Callable[[Any], object] | None = None,
    known_failures: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> T:
    """Check every promise of a part, and return the part made from `settings`.

    | promise | meaning |
    |---|---|
    | `documented` | it is an attrs class, and its docstring explains each key |
    | `defaults` | it can be made from its required keys |
    | `round_trip` | it can be written and read back |
    | `unknown_key` | it rejects an unknown key |
    | `kind` | it does what every part of its kind must; see the other checks |
    | `global_state` | it leaves random generators, environment, warnings, loggers and Keras alone |

    Args:
        registry: The registry of its kind.
        name: Its registered name.
        check: The check for `kind`; unset: the one of this package.
        known_failures: Promises that it is known to break, each with the reason. They are reported
            as `KnownFailure` warnings; a promise that is kept after all is an error.
        **settings: Its keys as in TOML, at least the required ones. Paths are relative: an
            absolute one is written relative to the working directory.

    Raises:
        AssertionError: If it breaks a promise; the message begins with which.
        ConfigError: If the settings are wrong.
        ValueError: If `known_failures` has an unknown promise.
    """
    cls = registry.get(name)

    @frozen
    class Holder:
        part: Any = part_field(registry)

    held = tables.structure(Holder, {"part": {"name": name, **settings}})
    check = check or _kind_check(held.part)
    before = ProcessState.now()
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
            message = f"{registry.kind} {name!r} is known to break {promise}: {reason}"
            warnings.warn(message, KnownFailure, stacklevel=2)
        else:
            assert promise not in known_failures, (
                f"{promise}: {registry.kind} {name!r} keeps it; remove it from known_failures"
            )
    part: T = held.part
    return part


def _check_documented(cls: type) -> None:
    assert "__attrs_attrs__" in vars(cls), "decorate the class with @tlkit.part"
    assert (cls.__doc__ or "").strip(), "give the class a docstring"
    for key in describe_keys(cls):
        assert key.meaning, f"the docstring has no entry `{key.name}:` below `Attributes:`"
    for name in meanings(cls):
        assert hasattr(fields(cls), name), (
            f"the docstring describes {name}, which is not a field: a field has a type"
        )


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


def _check_global_state(before: ProcessState, use: Callable[[], object]) -> None:
    """Check that nothing changes except by imports in the first use; restore everything."""
    try:
        if before.changed():
            before.restore()
            with suppress(AssertionError):  # reported under `kind`
                use()
        assert not before.changed(), f"it changes {' and '.join(before.changed())}"
    finally:
        before.restore()


def _kind_check(part: Any) -> Callable[[Any], object]:
    """Return the check of a part's kind; one that does nothing for a kind without a check."""
    return next((check for kind, check in KIND_CHECKS.items() if isinstance(part, kind)), bool)


def _problems(cls: type, table: Mapping[str, Any]) -> list[str]:
    try:
        tables.structure(cls, table)
    except ConfigError as error:
        return [problem.path for problem in error.problems]
    return []
