"""tlkit's own source as a script: complete, in order, and each name with one meaning."""

from __future__ import annotations

from typing import Any

import pytest

from tlkit.data import decoding, dicom, images
from tlkit.system import limits
from tlkit.system.source import standalone


def run(*functions: Any) -> dict[str, Any]:
    imports, code = standalone(*functions)
    assert "tlkit" not in imports
    names: dict[str, Any] = {"__name__": "alone"}
    exec(f"from __future__ import annotations\n{imports}\n{code}", names)  # the point
    return names


def test_what_a_function_needs_comes_with_it() -> None:
    names = run(images.to_pixels)
    assert names["MAX_PIXELS"] == limits.MAX_PIXELS
    with pytest.raises(names["ImageError"], match="is empty"):
        names["to_pixels"](b"", 8)
    assert "Reader" not in names


def test_two_functions_of_one_name_stay_two() -> None:
    ours: list[Any] = [decoding._check_header, dicom._check_header]
    assert ours[0] is not ours[1]
    _, code = standalone(decoding.decode)
    assert code.count("def _check_header(") == 1
    assert code.count("def _check_header_decoding(") == 1
    assert "    _check_header_decoding(image, content)" in code


def imports_inside() -> Any:
    from tlkit.system.text import printable

    return printable


def test_an_import_from_tlkit_in_a_body_is_refused() -> None:
    with pytest.raises(ValueError, match=r"imports_inside: imports tlkit\.system\.text in its bod"):
        standalone(imports_inside)
