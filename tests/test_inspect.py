"""The report on a data set."""

from __future__ import annotations

from pathlib import Path

from tests.pictures import write

from tlkit.inspect.inspect import Inspection, inspect_data


def test_an_inspection_of_nothing_readable_is_still_one(tmp_path: Path) -> None:
    found = inspect_data(write(tmp_path, {"a/1.png": b"", "b/2.png": b"x"}))
    assert isinstance(found, Inspection)
    assert (found.images, len(found.problems), found.shortcuts) == (0, 2, ())
