"""Every kind of error ends the command line with the exit code that the docs give it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tlkit
from tlkit import cli
from tlkit.system.errors import ConfigError, Problem, TlkitError

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "runs.md"
DOCUMENTED = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}


def children(kind: type[TlkitError]) -> Iterator[type[TlkitError]]:
    for child in kind.__subclasses__():
        if child.__module__ == "tlkit.system.errors" or child.__module__.startswith("tlkit.parts"):
            yield child
        yield from children(child)


KINDS = {kind.__name__: kind for kind in children(TlkitError)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_error_ends_with_its_documented_code(
    kind: type[TlkitError], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    error = ConfigError([Problem("a", "b")]) if kind is ConfigError else kind("what\x1b is wrong")
    assert error.exit_code in DOCUMENTED - {0, 1, 2}

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tlkit, "check", fail)
    monkeypatch.setattr("sys.argv", ["tlkit", "check", "x.toml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (error.exit_code, "")
    assert err in {"a: b\n", "what\\x1b is wrong\n"}


def test_each_kind_has_a_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in TlkitError.__subclasses__()]
    assert len(set(codes)) == len(codes)
