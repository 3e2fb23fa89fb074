"""Tensors: taken without a copy that training would reach into, and to files and back."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorflow.python.framework.ops import gradient_registry

import tlkit
from tlkit.train.step import TrainStep
from tlkit.weights.tensors import (
    numbered_weights,
    read_tensors,
    sha256,
    snapshot,
    write_arrays,
    write_tensors,
)

X = np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1], np.int32)
WEIGHTS = np.ones(4, np.float32)


def small_model() -> Any:
    inputs = outputs = keras.layers.Input((6, 6, 3))
    for layer in (
        keras.layers.Conv2D(3, 3, use_bias=False, name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(2, activation="softmax", name="scores"),
    ):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def test_a_full_disk_is_an_ordinary_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, before[1]))  # stands for such a disk
    try:
        with pytest.raises(OSError, match="File too large"):
            write_arrays(tmp_path / "a.safetensors", {"a": np.zeros(1 << 12, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def contents(tensors: Any) -> dict[str, bytes]:
    return {name: np.asarray(tensor).tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("xla", [True, False], ids=["xla", "no xla"])
@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(0.1), lambda: keras.optimizers.SGD(0.1, momentum=0.9)],
    ids=["adam", "sgd"],
)
def test_training_does_not_reach_into_what_was_taken(
    optimizer: Callable[[], Any], xla: bool, tmp_path: Path
) -> None:
    """Nothing is copied when it is taken, so this would show an update in place."""
    model = small_model()
    frozen = tlkit.freeze(model, train={"norm": 0.5, "scores": 1.0}, batch_norm="train")
    stepper = TrainStep(model, frozen.optimizer(optimizer()), xla)
    slots = {str(place): one for place, one in enumerate(stepper.optimizer.variables)}
    variables = numbered_weights(model, tlkit.layer_table(model)) | slots

    def train(steps: int) -> dict[str, bytes]:
        for _ in range(steps):
            stepper.train(X, LABELS, WEIGHTS)
        return contents({name: variable.numpy() for name, variable in variables.items()})

    now = train(2)
    tensors = snapshot(variables)
    later = train(3)
    changed = {name.partition("/")[0] for name in now if now[name] != later[name]}
    assert {"002.norm", "004.scores"} <= changed
    assert "001.first" not in changed
    assert contents(tensors) == now
    write_tensors(tmp_path / "taken.safetensors", tensors)
    read_tensors(tmp_path / "taken.safetensors", variables)
    assert train(3) == later  # the optimizer's state is as it was too


@pytest.mark.parametrize("chunk_bytes", [1, 40, 8 << 20])
def test_values_of_every_kind_come_back_whatever_is_read_at_a_time(
    chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.weights.tensors.CHUNK_BYTES", chunk_bytes)
    values: dict[str, Any] = {
        "scalar": np.float32(0.1),
        "empty": np.zeros((0, 3), np.float32),
        "kernel": np.arange(42, dtype=np.float32).reshape(7, 3, 2),
        "half": np.arange(5, dtype=np.float16),
        "count": np.int64(2**53 + 1),
        "seed": np.array([2**32 - 1, 7], np.uint32),
    }
    variables = {name: keras.Variable(value, dtype=value.dtype) for name, value in values.items()}
    write_tensors(tmp_path / "some.safetensors", snapshot(variables))
    others = {name: keras.Variable(value * 0, dtype=value.dtype) for name, value in values.items()}
    read_tensors(tmp_path / "some.safetensors", others)
    assert contents({name: one.numpy() for name, one in others.items()}) == contents(values)
    assert load_file(tmp_path / "some.safetensors")["scalar"].shape == ()


def test_a_hash_is_that_of_the_bytes() -> None:
    one, same, other = (
        snapshot({"a": keras.Variable(np.full((2, 3), v, np.float32)), "b": keras.Variable(v)})
        for v in (1.0, 1.0, 2.0)
    )
    assert sha256(one) == sha256(same) != sha256(other)
    values = np.ones(6, np.float32).tobytes() + np.float32(1).tobytes()
    assert sha256(one) == hashlib.sha256(values).hexdigest()


def test_a_stepper_that_is_gone_leaves_nothing_behind() -> None:
    """Keras's own way keeps every traced step for ever, and what it has captured."""
    model = small_model()
    frozen = tlkit.freeze(model, train=["scores"], batch_norm="inference")
    stepper = TrainStep(model, frozen.optimizer(keras.optimizers.Adam()), False)
    stepper.train(X, LABELS, WEIGHTS)
    before = len(gradient_registry._registry)
    for _ in range(2):
        stepper = TrainStep(model, frozen.optimizer(keras.optimizers.Adam()), False)
        stepper.train(X, LABELS, WEIGHTS)
    assert len(gradient_registry._registry) == before
