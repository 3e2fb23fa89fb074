"""Weights files are read as arrays by name: in every layout, never in part, never as code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

import tlkit
from tlkit.weights.files import read_arrays

SECRET = 12345.0
# Two convolutions and a BatchNorm, each array with a number of its own.
SHAPES: Mapping[str, tuple[int, ...]] = {
    "block1_conv1/kernel": (3, 3, 3, 2),
    "block1_conv1/bias": (2,),
    "block1_norm/gamma": (2,),
    "block1_norm/moving_variance": (2,),
    "block1_conv2/kernel": (3, 3, 2, 2),
    "block1_conv2/bias": (2,),
}
ARRAYS = {
    name: np.full(shape, number, np.float32)
    for number, (name, shape) in enumerate(SHAPES.items(), start=1)
}


def assert_same(found: Mapping[str, npt.NDArray[np.float32]]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def write_h5(path: Path, named: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in named.items():
            file[name] = array
    return path


def keras_1(name: str) -> str:
    layer, _, variable = name.partition("/")
    short = {"kernel": "W", "bias": "b"}.get(variable, variable)
    return f"{layer}/{layer}_{short}_1:0"


def keras_2(name: str) -> str:
    return f"{name.partition('/')[0]}/{name}:0"


def whole_keras_2_model(name: str) -> str:
    return f"model_weights/{keras_2(name)}"


@pytest.mark.parametrize("layout", [keras_1, keras_2, whole_keras_2_model])
def test_old_keras_files_are_read_by_name(layout: Callable[[str], str], tmp_path: Path) -> None:
    path = write_h5(tmp_path / "old.h5", {layout(name): a for name, a in ARRAYS.items()})
    assert_same(read_arrays(path).named)


@pytest.mark.parametrize("prefix", ["", "017."])
def test_safetensors_are_read_with_and_without_layer_numbers(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    save_file({prefix + name: array for name, array in ARRAYS.items()}, path)
    found = read_arrays(path)
    assert_same(found.named)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("suffix", ["h5", "safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tenth: int, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    if suffix == "h5":
        write_h5(path, ARRAYS)
    else:
        save_file(ARRAYS, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(tlkit.WeightsError, match=r"cannot be read: .*is it complete\?|got neither"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["weights.h5", "weights.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 58889256\n",
        b"\n  <!DOCTYPE html><html><body>Sign in</body></html>",
        b"<html><head></head></html>",
    ],
    ids=["git-lfs", "doctype", "html"],
)
def test_a_pointer_or_a_web_page_is_called_what_it_is(
    name: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(tlkit.WeightsError, match=r"is a pointer or a web page, not weights"):
        read_arrays(path)


@pytest.mark.parametrize(
    "name", ["weights.pkl", "weights.npz", "model.keras", "model.onnx", "none.txt"]
)
def test_other_formats_are_refused_unread(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 or a pickle")
    with pytest.raises(tlkit.WeightsError, match=r"must be a \.h5 or \.safetensors file"):
        read_arrays(path)


def test_a_file_without_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tlkit.WeightsError, match=r"holds no arrays$"):
        read_arrays(write_h5(tmp_path / "empty.h5", {}))


def test_arrays_of_other_things_than_numbers_are_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "text.h5", {"layer/kernel": [b"text"]})
    with pytest.raises(tlkit.WeightsError, match=r"layer/kernel must hold floating-point numbers"):
        read_arrays(path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Somebody else's file, to which hostile weights point."""
    return write_h5(tmp_path / "secret.h5", {"kernel": np.full(4, SECRET, np.float32)})


@pytest.mark.parametrize("link", ["layer/kernel", "layer"])
def test_links_out_of_an_h5_file_are_not_followed(link: str, secret: Path, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "links.h5", {"own/kernel": np.ones(4, np.float32)})
    with h5py.File(path, "a") as file:
        file[link] = h5py.ExternalLink(str(secret), "kernel" if link.endswith("kernel") else "/")
        file["soft"] = h5py.SoftLink("/own/kernel")
    assert read_arrays(path).named.keys() == {"own/kernel"}


def test_a_virtual_dataset_is_refused(secret: Path, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype=np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "kernel", shape=(4,))
    path = tmp_path / "virtual.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("layer/kernel", layout)
    with pytest.raises(tlkit.WeightsError, match=r"layer/kernel points outside the file$"):
        read_arrays(path)


def test_a_dataset_stored_outside_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "secret.raw"
    raw.write_bytes(np.full(4, SECRET, np.float32).tobytes())
    path = tmp_path / "external.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", (4,), np.float32, external=[(str(raw), 0, 16)])
    with pytest.raises(tlkit.WeightsError, match=r"kernel points outside the file$"):
        read_arrays(path)


def test_an_array_that_declares_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layer/kernel", (1 << 40,), np.float32, chunks=(1 << 20,))
    with pytest.raises(tlkit.WeightsError, match=r"layer/kernel"):
        read_arrays(path)


def test_an_attribute_that_declares_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["one/kernel:0"] = np.ones(3, np.float32)
        file.attrs["layer_names"] = np.array([b"one"] * 7777, "S3")
    content = path.read_bytes()
    dimension = (7777).to_bytes(8, "little")
    assert content.count(dimension) >= 1
    path.write_bytes(content.replace(dimension, (1 << 31).to_bytes(8, "little")))
    with pytest.raises(
        tlkit.WeightsError, match=r"layer_names declares more than the file|cannot be read"
    ):
        read_arrays(path)


def test_memory_that_is_short_is_no_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(3, np.float32)}, path)

    def load(content: bytes) -> object:
        raise MemoryError

    monkeypatch.setattr("safetensors.numpy.load", load)
    with pytest.raises(MemoryError, match=r"^$"):
        read_arrays(path)
