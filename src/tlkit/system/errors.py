"""What can go wrong, one class a kind of trouble, each with the exit code the CLI ends with.

Messages have one shape: ``where: rule, got value; the way out``, one line, lower case.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen


class TlkitError(Exception):
    """A mistake or a circumstance that tlkit understands; shown without a traceback."""

    exit_code = 1


@frozen(order=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        path: The key path, such as ``fit.batch_size``; empty for the file as a whole.
        message: The rule, the value that broke it and the way out.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(TlkitError):
    """The experiment file is wrong. Holds every problem found, sorted by key path."""

    exit_code = 3

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems = tuple(sorted(problems))
        self.source = source
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        return "\n".join(f"{head}{problem}" for problem in self.problems)


class FieldError(ValueError):
    """A part found one of its own keys wrong while doing its work.

    Parts do not know where they stand in a file; whoever does turns it into a `ConfigError`.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(f"{field}: {message}")


class DataError(TlkitError):
    """Images, labels or splits are missing or broken."""

    exit_code = 4


class WeightsError(TlkitError):
    """A weights or model file is missing, broken or does not fit."""

    exit_code = 5


class PartError(TlkitError):
    """A registered part cannot be used."""

    exit_code = 6


class UnknownPart(PartError):
    """No part of that name is registered."""


class DuplicatePart(PartError):
    """Two parts claim one name."""


class RunFolderError(TlkitError):
    """A run folder exists already, is unfinished or is not a run folder."""

    exit_code = 7


class ResourceError(TlkitError):
    """The machine has too little of something, or a package is too old."""

    exit_code = 8


class NumericalError(TlkitError):
    """Training produced a number that is not finite."""

    exit_code = 9
