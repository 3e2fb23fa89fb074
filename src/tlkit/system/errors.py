"""Exceptions, one class per kind of problem, each with the exit code that the CLI returns.

Messages have one shape: ``where: rule, got value; the way out``, on one line, in lower case.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from attrs import frozen

# What is short may be there again later, so it says nothing about the file that is read.
SHORTAGES = frozenset(
    {errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
    | {getattr(errno, name) for name in ("ESTALE", "EREMOTEIO", "ENOLCK") if hasattr(errno, name)}
)
# A path that cannot be there, whatever the reason.
PATH_ERRORS = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
NO_THREAD = "can't start new thread"  # Python's message


class RenamedWarning(FutureWarning):
    """An old name was used that works for one more release; the message gives the new name."""


class ConflictWarning(UserWarning):
    """A package claims the name of one of tlkit's own parts, which is used instead."""


class TlkitError(Exception):
    """A problem that tlkit understands; shown without a traceback."""

    exit_code = 1


@frozen(order=True)
class Problem:
    """One problem in a configuration.

    Attributes:
        path: The key path, such as ``fit.batch_size``; empty for the file as a whole.
        message: The rule, the value that broke it and the way out.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(TlkitError):
    """An invalid experiment file; holds every problem, sorted by key path."""

    exit_code = 3

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems = tuple(sorted(problems))
        self.source = source
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        return "\n".join(f"{head}{problem}" for problem in self.problems)


class FieldError(ValueError):
    """An invalid value of one of a part's own keys.

    A part does not know its place in the file; the reader adds it and raises a `ConfigError`.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(f"{field}: {message}")


class DataError(TlkitError):
    """Missing or broken images, labels or splits."""

    exit_code = 4


class WeightsError(TlkitError):
    """A weights or model file that is missing, broken or does not fit."""

    exit_code = 5


class PartError(TlkitError):
    """A registered part that cannot be used."""

    exit_code = 6


class UnknownPart(PartError):
    """A name under which no part is registered."""


class DuplicatePart(PartError):
    """A name that two parts claim."""


class RunFolderError(TlkitError):
    """A run folder that already exists, is unfinished or is not a run folder."""

    exit_code = 7


class ResourceError(TlkitError):
    """Too little disk or memory, or a package that is too old."""

    exit_code = 8


class NumericalError(TlkitError):
    """A number that is not finite came up in training."""

    exit_code = 9


@contextmanager
def named_shortage(name: object, then: str = "") -> Iterator[None]:
    """Turn a shortage of the machine while something is read into a `ResourceError` that names it.

    A shortage is never taken for a property of what is read.
    """
    try:
        yield
    except MemoryError as error:
        raise ResourceError(f"{name}: memory is too short for it{then}") from error
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        raise ResourceError(f"{name}: cannot be read now: {error.strerror}{then}") from error
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        raise ResourceError(f"{name}: no more threads can be started{then}") from error
