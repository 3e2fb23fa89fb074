"""Starting Keras: only where it will work, with the settings results depend on, and quietly."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from keras.src.random.seed_generator import make_default_seed

from tlkit.from_python import FromModel
from tlkit.parts.augmentations import Natural
from tlkit.parts.compose import Compose
from tlkit.parts.losses import Focal, cross_entropy
from tlkit.system.errors import ResourceError
from tlkit.system.keras import (
    KERAS_FLOOR,
    _quick_import,
    _start_keras,
    autograph,
    has_bfloat16,
    has_gpu,
    has_int8,
    quiet_stderr,
    seeded,
    uninitialized,
)

start: Callable[[], int] = _start_keras.__wrapped__  # without the cache: Keras has been started


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process, as a user's shell would start it."""
    ours = ("TF_", "KERAS_", "PYTHONWARNINGS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("installed", ["2.15.0", "3.12.4", "3.15.0", "3.15.1rc1"])
def test_a_keras_below_the_floor_is_refused(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    message = rf"^keras: 3\.15\.1 or newer is needed, got {installed}; pip install --upgrade keras$"
    with pytest.raises(ResourceError, match=message):
        start()


@pytest.mark.parametrize("installed", [KERAS_FLOOR, "3.15.10", "4.0"])
def test_the_floor_and_what_is_above_it_will_do(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    start()


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy", "TensorFlow"])
def test_another_backend_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(
        ResourceError, match=rf"^KERAS_BACKEND: must be 'tensorflow', got '{backend}'; unset it$"
    ) as caught:
        start()
    assert caught.value.exit_code == 8


def test_another_backend_in_keras_own_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ResourceError, match=r"^keras: the backend must be tensorflow, got jax"):
        start()


@pytest.mark.parametrize("value", ["1", "True", "yes"])
def test_legacy_keras_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    with pytest.raises(ResourceError, match=r"^TF_USE_LEGACY_KERAS: tlkit needs Keras 3"):
        start()


@pytest.mark.parametrize("value", ["0", "false", ""])
def test_legacy_keras_switched_off_is_fine(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    start()


def test_the_first_use_is_quiet_and_switches_onednn_on() -> None:
    found = python(
        "import tlkit, tlkit.train.assemble, os\n"
        "names = 'TF_ENABLE_ONEDNN_OPTS', 'KERAS_BACKEND', 'TF_FORCE_GPU_ALLOW_GROWTH'\n"
        "print(*map(os.environ.get, names))",
        TF_ENABLE_ONEDNN_OPTS="0",
    )
    assert (found.stderr, found.stdout, found.returncode) == ("", "1 tensorflow true\n", 0)


def test_python_without_standard_error_can_start_it_too() -> None:
    found = python(
        "import os; os.close(2)\nfrom tlkit.system.keras import quiet_stderr\n"
        "with quiet_stderr(): print('inside')"
    )
    assert (found.stdout, found.returncode) == ("inside\n", 0)


def test_what_native_code_writes_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stderr():
        os.write(2, b"chatter\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def failing_import(error: BaseException) -> None:
    with quiet_stderr():
        os.write(2, b"the reason\n")
        raise error


@pytest.mark.parametrize(
    ("error", "shown"),
    [(ImportError("no such library"), "the reason\n"), (KeyboardInterrupt("no such library"), "")],
)
def test_a_failure_shows_what_was_held_back_and_a_stop_does_not(
    error: BaseException, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error), match="no such library"):
        failing_import(error)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == f"{shown}after\n"


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [(None, "nvidia0", True), ("0,1", "kfd", True), ("", "nvidia0", False), ("-1", "kfd", False),
     (None, "null", False)],
)  # fmt: skip
def test_a_gpu_is_seen_without_tensorflow_unless_it_is_hidden(
    visible: str | None, device: str, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Path, "exists", lambda path: path == Path("/dev", device))
    assert has_gpu() is seen


@pytest.mark.parametrize(
    ("has", "flags", "gpu", "known"),
    [
        (has_bfloat16, "fpu avx512_bf16", False, True),
        (has_bfloat16, "fpu amx_bf16", False, True),
        (has_bfloat16, "fpu avx512f avx512_vnni", False, False),
        (has_bfloat16, "fpu amx_bf16", True, False),
        (has_bfloat16, None, False, False),
        (has_int8, "fpu avx512_vnni", False, True),
        (has_int8, "fpu avx_vnni", False, True),
        (has_int8, "fpu avx512f amx_bf16", False, False),
        (has_int8, "fpu avx_vnni", True, False),
        (has_int8, None, False, False),
    ],
)
def test_a_processor_with_cheaper_numbers_is_known_by_its_flags(
    has: Callable[[], bool],
    flags: str | None,
    gpu: bool,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_text(path: Path, encoding: str) -> str:
        if flags is None:
            raise FileNotFoundError(path)
        return f"processor : 0\nflags : {flags}\n"

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr("tlkit.system.keras.has_gpu", lambda: gpu)
    assert has() is known


def test_without_tensorflow_lite_there_is_no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.system.keras._works_with", lambda instructions: True)
    assert has_int8()
    monkeypatch.setattr(Path, "is_dir", lambda path: path.name != "lite")
    assert not has_int8()


def test_an_import_collects_no_garbage_and_sees_no_hidden_package() -> None:
    before = set(sys.modules)
    with _quick_import(["of_nobody", "sys"]):
        assert not gc.isenabled()
        assert sys.modules["sys"] is sys  # what has been imported stays
        with pytest.raises(ImportError, match="of_nobody"):
            importlib.import_module("of_nobody")
    assert gc.isenabled()
    assert set(sys.modules) == before


@pytest.mark.slow
def test_a_process_of_tlkit_s_own_starts_without_packages_that_it_has_no_use_for() -> None:
    code = (
        "import sys, tlkit.system.keras as system; {}; system.start_keras(); "
        "print([name for name in system.UNUSED if name in sys.modules]); import sklearn.metrics"
    )
    alone, shared = (python(code.format(line)) for line in ("system.own_process()", "pass"))
    assert (alone.stdout, alone.stderr, alone.returncode) == ("[]\n", "", 0)
    assert "'sklearn', 'pandas'" in shared.stdout


class Foreign:
    """A part of somebody else's."""


def test_code_that_is_not_tlkit_s_or_keras_s_is_rewritten_for_graphs() -> None:
    own = [Focal(), Compose(operations=(Natural(),)), keras.layers.Dense(1), cross_entropy]
    assert not autograph(*own)
    assert autograph(*own, Foreign())
    assert autograph(*own, lambda labels, probabilities: labels)
    assert autograph(
        FromModel(
            model=keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]),
            preprocess=lambda images: images,
        )
    )
    held: Any = Natural()
    object.__setattr__(held, "strength", (Foreign(),))
    assert autograph(Compose(operations=(Natural(), held)))


def test_values_that_will_be_replaced_are_zeros_though_seeds_are_drawn() -> None:
    kernels, seeds = [], []
    for skipped in (False, True):
        with seeded(3):
            with uninitialized(skipped):
                layer = keras.layers.Dense(4)
                layer.build((None, 5))
            seeds.append(make_default_seed())
        kernels.append(layer.kernel.numpy())
    assert kernels[0].all()
    assert not kernels[1].any()
    assert seeds[0] == seeds[1]
