"""Rows of arrays in files: what NumPy would give, and an error if the file is cut short."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file
from tests.battery.hostile import WEIGHTS

import tlkit
from tlkit.system.rows import ArrayFile, Rows
from tlkit.weights.files import safetensors_rows


def rows_of(path: Path, array: Any, before: bytes = b"x" * 5) -> Rows:
    path.write_bytes(before + array.tobytes())
    with path.open("rb") as file:
        return Rows(ArrayFile(path, file), array.shape, array.dtype, len(before))


@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.int64, np.bool_]),
        arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
    ),
    st.data(),
)
def test_rows_are_what_numpy_gives(
    tmp_path_factory: pytest.TempPathFactory, array: Any, data: st.DataObject
) -> None:
    rows = rows_of(tmp_path_factory.mktemp("rows") / "a", array)
    numbers = data.draw(st.lists(st.integers(-len(array), len(array) - 1)) if len(array) else
                        st.just([]))  # fmt: skip
    for index in (np.array(numbers, np.int64), data.draw(st.slices(len(array)))):
        assert np.array_equal(rows[index], array[index], equal_nan=array.dtype.kind == "f")
    assert rows.whole().tobytes() == array.tobytes()
    for missing in (len(array), -len(array) - 1):
        with pytest.raises(IndexError, match=f"there are {len(array)} rows"):
            rows[np.array([missing])]


def test_a_file_that_is_cut_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    """Mapped, it would end this process with SIGBUS."""
    array = np.arange(1 << 20, dtype=np.float32).reshape(-1, 64)
    rows = rows_of(tmp_path / "a", array)
    assert np.array_equal(rows[:10], array[:10])
    os.truncate(tmp_path / "a", 1 << 12)
    assert np.array_equal(rows[:10], array[:10])
    with pytest.raises(OSError, match="was cut off while it was read"):
        rows[np.array([3, 1 << 13])]
    with pytest.raises(OSError, match="was cut off while it was read"):
        rows.whole()


def test_a_weights_file_that_is_cut_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    save_file({"a": np.ones((64, 1 << 12), np.float32)}, tmp_path / "w.safetensors")
    (rows,) = safetensors_rows(tmp_path / "w.safetensors").values()
    os.truncate(tmp_path / "w.safetensors", 1 << 13)
    with pytest.raises(OSError, match="was cut off while it was read"):
        rows[60:]


def test_a_damaged_header_of_weights_is_refused(tmp_path: Path) -> None:
    for name, make in WEIGHTS.items():
        if name.endswith(".safetensors") and name not in SOUND:
            (tmp_path / "x.safetensors").write_bytes(make(tmp_path))
            with pytest.raises(tlkit.WeightsError, match=r"cannot be read: .*; is it complete"):
                safetensors_rows(tmp_path / "x.safetensors")


SOUND = ("integers.safetensors",)  # refused elsewhere, by its type
