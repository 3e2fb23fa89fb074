"""The one place that starts Keras and TensorFlow: quietly, with the settings results depend on.

A module whose every line needs Keras imports it from here, and so starts it when it is imported::

    from tlkit.system.keras import keras, tf

A module that must stay light calls `start_keras` in the function that needs it, before
``import keras``. Nothing else in tlkit touches the environment.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from tlkit.system.errors import PartError, ResourceError

if TYPE_CHECKING:
    import keras as keras  # re-exported, see `__getattr__`

# Below it Keras loads hostile model files (CVE-2025-1550 and its successors), and its `trainable`
# and BatchNorm behaviour differs from what tlkit's tests pin down.
KERAS_FLOOR = "3.15.1"


@functools.cache
def start_keras() -> None:
    """Import TensorFlow and Keras once, without their chatter.

    oneDNN is switched on before TensorFlow loads: on some processors it is off by default, which
    costs 1.2 to 1.8 times the time, and features depend on it.

    Raises:
        ResourceError: If Keras is older than 3.15.1, runs on another backend than TensorFlow, or
            the legacy tf_keras is switched on.
    """
    from importlib.metadata import version  # takes longer than all of this module

    if os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() not in {"", "0", "false"}:
        raise ResourceError("TF_USE_LEGACY_KERAS: tlkit needs Keras 3; unset the variable")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ResourceError(f"KERAS_BACKEND: must be 'tensorflow', got {backend!r}; unset it")
    installed = version("keras")
    if Version(installed) < Version(KERAS_FLOOR):
        raise ResourceError(
            f"keras: {KERAS_FLOOR} or newer is needed, got {installed}; pip install --upgrade keras"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    with _quiet_stderr():
        import keras
        import tensorflow as tf

        tf.constant(0)  # the device set-up talks too
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # a second run's "retracing"
    if keras.backend.backend() != "tensorflow":  # keras.json may say otherwise
        raise ResourceError(
            f"keras: the backend must be tensorflow, got {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow"
        )


def extra_package(name: str, install: str) -> Any:
    """Return a package that not everybody has, imported.

    Args:
        name: What it is imported as.
        install: What `pip install` takes.

    Raises:
        PartError: If it is not there or does not work with what is.
    """
    start_keras()
    try:
        return importlib.import_module(name)
    except Exception as error:  # its import runs much that may not fit what is installed
        raise PartError(
            f"{name}: cannot be imported: {type(error).__name__}: {error}; pip install {install}"
        ) from None


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; show it if the body fails.

    TensorFlow's start-up lines are written before its log level is read, so no setting stops them.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(terminal, 2)
            held.seek(0)
            with suppress(OSError):  # nobody reads it
                os.write(2, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def threads() -> dict[str, int]:
    """Return on how many threads TensorFlow computes; 0: as many as there are processors.

    StepTotals are split among them, so a result's last bits follow.
    """
    import tensorflow as tf

    chosen = tf.config.threading
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return {
        "intra_op": chosen.get_intra_op_parallelism_threads()
        or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0),
        "inter_op": chosen.get_inter_op_parallelism_threads()
        or int(os.environ.get("TF_NUM_INTEROP_THREADS") or 0),
        "processors": len(usable) or os.cpu_count() or 1,
    }


def __getattr__(name: str) -> Any:
    """Start Keras when a module imports `keras` or `tf` from here."""
    packages = {"keras": "keras", "tf": "tensorflow"}
    if name not in packages:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    start_keras()
    return importlib.import_module(packages[name])
