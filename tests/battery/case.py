"""What one case of the battery is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import field, frozen


def nothing(folder: Path) -> None:
    """Leave the folder as it is."""


@frozen
class Fault:
    """One way to make a case happen: what is typed, and what comes of it.

    Attributes:
        name: What is wrong.
        arguments: What is typed after `tlkit`; a `run` ends when its data are found sound.
        code: The exit code.
        message: A regular expression that the messages must match; empty: anything.
        make: What is done to the working folder before, which holds a sound study: `study.toml` and
            images below `data`.
    """

    name: str
    arguments: tuple[str, ...]
    code: int
    message: str = ""
    make: Callable[[Path], object] = nothing


@frozen(kw_only=True)
class Case:
    """One case of the battery: tested here, by tests elsewhere, or not, with the reason.

    Attributes:
        id: A letter and two digits.
        what: The fault or input.
        expected: What tlkit does.
        faults: Ways to make it happen, run by `test_battery.py`.
        tests: Tests elsewhere, as `FILE::NAME` below `tests`.
        moot: Why it cannot happen.
    """

    id: str
    what: str
    expected: str
    faults: tuple[Fault, ...] = ()
    tests: tuple[str, ...] = field(default=())
    moot: str = ""

    @property
    def status(self) -> str:
        """Return `tested` or `not applicable`."""
        return "not applicable" if self.moot else "tested"


def toml(
    name: str, content: str | bytes, message: str, code: int = 3, command: str = "check"
) -> Fault:
    """Return the fault of an experiment file with such content."""
    raw = content.encode() if isinstance(content, str) else content
    return Fault(
        name,
        (command, "odd.toml"),
        code,
        message,
        lambda folder: (folder / "odd.toml").write_bytes(raw),
    )


def changed(name: str, expression: str, message: str, code: int = 3) -> Fault:
    """Return the fault of one key with another value."""
    return Fault(name, ("check", "study.toml", "--set", expression), code, message)
