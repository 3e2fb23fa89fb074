"""The one place that starts Keras and TensorFlow: quietly, with the settings results depend on.

A module that needs Keras throughout imports it from here, which starts it::

    from tlkit.system.keras import keras, tf

A light module calls `start_keras` in the functions that need it, before ``import keras``. Nothing
else in tlkit touches the environment.
"""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import os
import platform
import random
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.system.errors import PartError, ResourceError

if TYPE_CHECKING:
    import keras as keras  # re-exported by `__getattr__`

# Older versions load hostile model files (CVE-2025-1550 and its successors), and their `trainable`
# and BatchNorm behave differently from what tlkit's tests pin down.
KERAS_FLOOR = "3.15.1"


# What Keras computes depends on these too. Nothing records them, so nobody may have changed them.
SETTINGS = {
    "floatx": "float32",
    "epsilon": 1e-07,
    "image_data_format": "channels_last",
    "dtype_policy": "float32",
    "run_functions_eagerly": False,
}


# Keras imports them, if they are installed, for uses of its own that tlkit's commands never make.
UNUSED = ("sklearn", "pandas", "matplotlib", "IPython")
_hidden: list[str] = []


def own_process() -> None:
    """Declare that this process runs nothing but tlkit: Keras starts without `UNUSED`, in half."""
    _hidden[:] = UNUSED


def is_own_process() -> bool:
    """Tell whether this process runs nothing but tlkit."""
    return bool(_hidden)


def is_started() -> bool:
    """Tell whether TensorFlow has been loaded, by whomever."""
    return "tensorflow" in sys.modules


def start_keras() -> None:
    """Import TensorFlow and Keras once, without their startup messages.

    Raises:
        ResourceError: If Keras is older than 3.15.1, does not run on TensorFlow, or is replaced by
            the legacy tf_keras; or if this process was forked from one that had started it.
    """
    process = _start_keras()
    if os.getpid() != process:
        raise ResourceError(
            f"TensorFlow was started in process {process}, from which this one was forked, and "
            "would wait forever; start processes with multiprocessing's method 'spawn'"
        )


@functools.cache
def _start_keras() -> int:
    """Import TensorFlow and Keras; return the process.

    oneDNN is switched on before TensorFlow loads: some processors have it off by default, which
    makes training 1.2 to 1.8 times slower and changes the last bits of features.
    """
    from importlib.metadata import version  # slow to import

    from packaging.version import Version

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
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # not the GPU's whole memory
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    with quiet_stderr(), _quick_import(_hidden):
        import keras
        import tensorflow as tf

        tf.constant(0)  # setting up the devices prints too
    if is_own_process():
        gc.freeze()  # what is loaded stays: the garbage collector need not look at it again
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # "retracing" in a second run
    if keras.backend.backend() != "tensorflow":  # as set in keras.json
        raise ResourceError(
            f"keras: the backend must be tensorflow, got {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow"
        )
    return os.getpid()


def check_settings() -> None:
    """Check that nobody has changed the global settings that results depend on."""
    import keras
    import tensorflow as tf

    now = {name: getattr(keras.config, name)() for name in ("floatx", "epsilon")}
    now["image_data_format"] = keras.config.image_data_format()
    now["dtype_policy"] = keras.config.dtype_policy().name
    now["run_functions_eagerly"] = tf.config.functions_run_eagerly()
    for name, wanted in SETTINGS.items():
        if now[name] != wanted:
            raise ResourceError(
                f"keras: {name} must be {wanted!r}, got {now[name]!r}: this program, keras.json or "
                "a part has changed it, and no record would say so; set it back"
            )


class _Draws(threading.local):
    """Python's module `random`, of which a thread may have its own generator."""

    own: random.Random | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own or random, name)


_draws = _Draws()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the seeds that Keras draws in this thread, such as for initializers, depend on `seed`.

    Keras takes them from Python's global generator, which other threads use at the same time.
    """
    _use_own_draws()
    before, _draws.own = _draws.own, random.Random(seed)  # noqa: S311  # not for secrets
    try:
        yield
    finally:
        _draws.own = before


def _use_own_draws() -> None:
    """Let Keras, and KerasCV where it is loaded, draw from `_draws`."""
    for name in ("keras.src.random.seed_generator", "keras_cv.src.backend.random"):
        if module := sys.modules.get(name):
            assert hasattr(module, "python_random"), f"{name} draws its seeds elsewhere"
            module.python_random = _draws  # type: ignore[attr-defined]  # it has


class _Values(threading.local):
    """Keras's module `random` for initializers, of which a thread may have zeros at no cost."""

    skipped = False

    def __getattr__(self, name: str) -> Any:
        from keras.src.backend import random as draws

        zeros = self.skipped and name in {"normal", "truncated_normal", "uniform"}
        return _zeros if zeros else getattr(draws, name)


def _zeros(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
    import tensorflow as tf

    return tf.zeros(shape, dtype or "float32")


_values = _Values()


@contextmanager
def uninitialized(skipped: bool = True) -> Iterator[None]:
    """Leave out random initial values in this thread: all will be replaced."""
    from keras.src.initializers import random_initializers

    random_initializers.random = _values
    before, _values.skipped = _values.skipped, skipped
    try:
        yield
    finally:
        _values.skipped = before


def extra_package(name: str, install: str) -> Any:
    """Import an optional package."""
    start_keras()
    try:
        module = importlib.import_module(name)
        _use_own_draws()
        return module
    except Exception as error:  # importing may fail in any way with other versions
        raise PartError(
            f"{name}: cannot be imported: {type(error).__name__}: {error}; pip install {install}"
        ) from None


@contextmanager
def _quick_import(hidden: Sequence[str]) -> Iterator[None]:
    """Import without looking for garbage, of which there is none, and without some packages."""
    hidden = [name for name in hidden if name not in sys.modules]
    collects = gc.isenabled()
    gc.disable()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not installed
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        if collects:
            gc.enable()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; print it if the body fails.

    TensorFlow writes its first lines before it reads its log level, so no setting stops them.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # the body may raise OSError too
    except OSError:  # nothing can be written anywhere
        yield
        return
    with file as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # a Ctrl-C needs no explanation
            os.dup2(terminal, 2)
            held.seek(0)
            with suppress(OSError):  # standard error is broken
                os.write(2, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


OWN = frozenset({"tlkit", "keras", "keras_hub"})  # whose code works untouched in a graph


def autograph(*things: object) -> bool:
    """Tell whether TensorFlow has to rewrite the code of parts, layers or functions in a graph.

    It does so for a Python `if` over tensors, which others may have written, and takes a second.
    """
    return not all(map(_is_own, things))


def _is_own(thing: object) -> bool:
    if isinstance(thing, (list, tuple)):
        return all(map(_is_own, thing))
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    if str(named.__module__).partition(".")[0] not in OWN | {"builtins"}:
        return False
    inner = [getattr(thing, a.name) for a in getattr(type(thing), "__attrs_attrs__", ())]
    return all(_is_own(value) for value in inner if callable(value) or isinstance(value, tuple))


def processor() -> str:
    """Return the processor's name, if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _works_with(instructions: set[str]) -> bool:
    """Tell whether the processor does the work, and is known to have some of these instructions."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not has_gpu() and not instructions.isdisjoint(flags)


def has_bfloat16() -> bool:
    """Tell whether the processor is known to have instructions for bfloat16, and does the work."""
    return _works_with({"amx_bf16", "avx512_bf16"})


def has_int8() -> bool:
    """Tell whether the processor is known to multiply int8 fast (VNNI), and TensorFlow Lite does.

    Without starting TensorFlow, which may come without it one day: it is announced as deprecated.
    """
    from importlib.util import find_spec

    package = find_spec("tensorflow")
    there = package and package.origin and Path(package.origin).with_name("lite").is_dir()
    return bool(there) and _works_with({"avx512_vnni", "avx_vnni"})


def has_gpu() -> bool:
    """Tell whether the system shows a GPU that TensorFlow may use, without starting it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}
    return not hidden and any(Path("/dev", name).exists() for name in ("nvidia0", "kfd"))


def threads() -> dict[str, int]:
    """Return how many threads TensorFlow uses; 0 means one per processor.

    Sums are split among the threads, so the last bits of results depend on their number.
    """
    import tensorflow as tf

    configured = tf.config.threading
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return {
        "intra_op": configured.get_intra_op_parallelism_threads()
        or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0),
        "inter_op": configured.get_inter_op_parallelism_threads()
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
