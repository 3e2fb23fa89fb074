"""Weights files as arrays: what is read of which form, and what a damaged file does."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from tlkit.system.errors import WeightsError
from tlkit.weights.files import read_arrays

VALUES = np.array([[1, -0.5], [0.25, 1024]], np.float32)


def h5(dtype: str = "<f4", **options: object) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("layer/kernel", data=VALUES.astype(dtype), **options)
        file["layer/bias"] = np.zeros(3, np.float32)
    return buffer.getvalue()


CONTENT = {
    ".h5": h5(),
    ".safetensors": save({"layer/kernel": VALUES, "layer/bias": np.zeros(3, np.float32)}),
}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
def test_floats_of_any_kind_are_read_as_float32(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(h5(dtype))
    found = read_arrays(path).named["layer/kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


def test_compressed_zeros_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        zeros = np.zeros(1_000_000, np.float32)
        file.create_dataset("layer/kernel", data=zeros, compression="gzip")
    assert path.stat().st_size < zeros.nbytes / 100
    np.testing.assert_array_equal(read_arrays(path).named["layer/kernel"], zeros)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(CONTENT[".h5"])

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tlkit.system.untrusted.os.open", denied)
    with pytest.raises(WeightsError, match=rf"^{path}: cannot be read: Permission denied$"):
        read_arrays(path)


def test_a_whole_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"got neither; .* model\.save_weights\('x\.weights\.h5"):
        read_arrays(path)


@given(
    suffix=st.sampled_from(sorted(CONTENT)),
    place=st.integers(0),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
@settings(max_examples=400)
def test_a_changed_byte_gives_arrays_or_a_weights_error(
    suffix: str, place: int, byte: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(CONTENT[suffix])
    content[place % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / f"changed{suffix}"
    path.write_bytes(content[: place % len(content)] if cut else content)
    with contextlib.suppress(WeightsError):
        assert read_arrays(path).named
