"""What every part must do, whatever its kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import NOTHING, fields, frozen

from tlkit.config import structure as tables
from tlkit.config.schema import describe_keys, meanings
from tlkit.config.structure import keys
from tlkit.config.structure import part as part_field
from tlkit.parts.registry import Registry
from tlkit.system.errors import ConfigError
from tlkit.testing.checks import KIND_CHECKS
from tlkit.testing.process_state import ProcessState

T = TypeVar("T")

UNKNOWN = "a_key_that_no_part_has"


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
    for name in meanings(cls):
        assert hasattr(fields(cls), name), (
            f"the docstring tells of {name}, which is no field: a field has a type"
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
    """Check that nothing has changed but by what the first use imported; put all of it back."""
    try:
        if before.changed():
            before.restore()
            with suppress(AssertionError):  # that is told of `kind`
                use()
        assert not before.changed(), f"it changes {' and '.join(before.changed())}"
    finally:
        before.restore()


def _kind_check(part: Any) -> Callable[[Any], object]:
    """Return this module's check of a part's kind; one that does nothing for a kind without."""
    return next((check for kind, check in KIND_CHECKS.items() if isinstance(part, kind)), bool)


def _problems(cls: type, table: Mapping[str, Any]) -> list[str]:
    try:
        tables.structure(cls, table)
    except ConfigError as error:
        return [problem.path for problem in error.problems]
    return []
