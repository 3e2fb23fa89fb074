"""Calls of other people's parts: they print to standard error, and cannot end the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tlkit.parts.kinds import registries
from tlkit.parts.plugins import foreign_place
from tlkit.system.errors import PartError
from tlkit.system.stdio import prints_on_stderr


@contextmanager
def guarded() -> Iterator[None]:
    """Run code of which parts may be part. Also a decorator."""
    try:
        with prints_on_stderr():
            yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        end = next(filter(_ends_process, _chain(error)), None)
        if end is None or not (place := foreign_place(end)):
            raise
        what = f"{type(end).__name__}({end})"
        raise PartError(f"{place}: a part must not end the process, got {what}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it took the place of: TensorFlow replaces some."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _ends_process(error: BaseException) -> bool:
    """Tell whether an error would end a command, perhaps as if all were well, as `typer.Exit`."""
    if not isinstance(error, Exception):
        return not isinstance(error, KeyboardInterrupt | GeneratorExit)
    names = {(x.__module__.partition(".")[0], x.__name__) for x in type(error).__mro__}
    ends = {(package, name) for package in ("click", "typer") for name in ("Exit", "Abort")}
    return bool(names & ends)


def part_name(part: object) -> str:
    """Return a part's kind and registered name for messages, or those of its class.

    >>> from tlkit.parts.losses import Focal
    >>> part_name(Focal())
    "loss 'focal'"
    """
    for _, registry in registries.items():
        if isinstance(part, registry.base):
            try:
                return f"{registry.kind} {registry.name_of(type(part))!r}"
            except PartError:
                return f"{registry.kind} {type(part).__name__}"
    return type(part).__name__
