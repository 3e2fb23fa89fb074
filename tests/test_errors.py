"""Errors: exit codes that scripts rely on, and messages that tell every problem in order."""

from __future__ import annotations

import pytest

from tlkit.system import errors
from tlkit.system.errors import ConfigError, FieldError, Problem, TlkitError


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        ("TlkitError", 1),
        ("ConfigError", 3),
        ("DataError", 4),
        ("WeightsError", 5),
        ("PartError", 6),
        ("UnknownPart", 6),
        ("DuplicatePart", 6),
        ("RunFolderError", 7),
        ("ResourceError", 8),
        ("NumericalError", 9),
    ],
)
def test_each_kind_of_trouble_has_its_documented_exit_code(error: str, exit_code: int) -> None:
    cls = getattr(errors, error)
    assert issubclass(cls, TlkitError)
    assert cls.exit_code == exit_code


def test_a_config_error_tells_its_problems_sorted_by_path_one_a_line() -> None:
    problems = [Problem("fit.xla", "c"), Problem("", "a"), Problem("data", "b")]
    error = ConfigError(reversed(problems))
    assert [problem.path for problem in error.problems] == ["", "data", "fit.xla"]
    assert str(error) == "a\ndata: b\nfit.xla: c"


def test_a_config_error_names_its_source_in_every_line() -> None:
    error = ConfigError([Problem("b", "y"), Problem("a", "x")], "exp.toml")
    assert str(error) == "exp.toml: a: x\nexp.toml: b: y"


def test_a_field_error_is_a_value_error_that_knows_its_field() -> None:
    error = FieldError("train", "is wrong")
    assert isinstance(error, ValueError)
    assert (error.field, error.message, str(error)) == ("train", "is wrong", "train: is wrong")
