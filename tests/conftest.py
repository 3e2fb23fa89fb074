"""What all tests share: Hypothesis's profile, TensorFlow as tlkit starts it, a disk that fails."""

from __future__ import annotations

import errno
import gc
import importlib.util
import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from hypothesis import HealthCheck, settings

from tlkit.parts.backbones.vgg import VGG16, VGG16_BLOCKS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"

settings.register_profile(
    "tlkit",
    deadline=None,  # the machine is shared; speed is measured in bench/
    derandomize=True,  # the same examples everywhere, so CI's verdict can be repeated
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],  # TensorFlow's first call takes seconds
)
settings.register_profile("fast", settings.get_profile("tlkit"), max_examples=20)
settings.load_profile("tlkit")


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer examples in `make test`; `make test-all` tries all 100."""
    if "not slow" in config.option.markexpr:
        settings.load_profile("fast")


@pytest.fixture(scope="session", autouse=True)
def signals() -> Iterator[None]:
    """Signals as in a terminal: `nohup` and a shell's background ignore some, subprocesses too."""
    before = [
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)),
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)),
    ]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def shortcuts() -> Iterator[None]:
    """No waiting for the disk, and Typer builds its commands once instead of for each call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        patch.setattr("typer.main.get_command", cache(typer.main.get_command))
        yield


def pytest_collection_finish() -> None:
    """Leave what is imported by now to itself: the garbage collector need not look at it again."""
    gc.freeze()


KERAS_CV = re.compile(r"keras_?cv|augmix|gridmask|randaugment", re.IGNORECASE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is about KerasCV, which the tests' names say, where it is not installed."""
    if importlib.util.find_spec("keras_cv") is None:
        for item in items:
            if KERAS_CV.search(item.nodeid):
                item.add_marker(pytest.mark.skip(reason="needs keras-cv"))


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A feature cache of the tests' own, in subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def write_preset() -> Callable[..., Path]:
    """What writes a small preset of KerasHub's, with random weights; needs the extra `hub`."""

    def write(folder: Path, kind: str = "VGGBackbone", **config: Any) -> Path:
        import keras
        import keras_hub

        config = config or {"stackwise_num_repeats": [1], "stackwise_num_filters": [4]}
        backbone = getattr(keras_hub.models, kind)(**config)
        seeds = keras.random.SeedGenerator(0)
        floats = (v for v in backbone.weights if "float" in str(v.dtype))
        for variable in floats:  # what is random or 0 or 1 at first is none of it here
            variable.assign(keras.random.uniform(variable.shape, 0.1, 0.2, seed=seeds))
        backbone.save_to_preset(str(folder))
        name = kind.replace("Backbone", "ImageConverter")
        converter = getattr(keras_hub.layers, name, keras_hub.layers.ImageConverter)
        converter(scale=0.01, offset=[0.1, 0.2, 0.3]).save_to_preset(str(folder))
        return folder

    return write


def slim_network(backbone: VGG16) -> Any:
    """Build VGG-16 as its `blocks` say."""
    from tlkit.system.keras import keras

    x = inputs = keras.layers.Input((backbone.image_size, backbone.image_size, 3))
    own = {"activation": "relu", "kernel_initializer": "he_normal", "padding": "same"}
    for _, layer in backbone.layers():
        if layer.kind == "Conv2D":
            x = keras.layers.Conv2D(layer.output_shape[-1], 3, name=layer.name, **own)(x)
        else:
            x = keras.layers.MaxPooling2D(name=layer.name)(x)
    return keras.Model(inputs, x, name="vgg16")


@pytest.fixture(scope="module")
def slim_vgg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """VGG-16 with few channels: the same layers, a half of the time for a run, a fifth to load it.

    For modules in which any backbone would do, and which start no other process.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("slim")))
        patch.setattr(VGG16, "blocks", tuple((count, 16) for count, _ in VGG16_BLOCKS))
        patch.setattr(VGG16, "build", slim_network)
        yield


@pytest.fixture(scope="module")
def no_pages() -> Iterator[None]:
    """A run writes no report and no card, which takes two fifths of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.runner.pages.write_pages", lambda *_: None)
        yield


class Crash(GeneratorExit):  # no mistake of a part, as other exceptions of its kind would be
    """The end of the process, as far as the disk can tell."""


class Disk:
    """Counts what reaches the disk, and breaks off one operation: nothing after it gets there.

    What was written and not synced is lost with a crash, and syncing is only taken note of, so the
    tests need not wait for a real disk.

    Attributes:
        done: What was done, and to which file.
        fail_at: The number of the operation to break off, from 1; None: all work.
        how: `before` or `after` it; `torn`: half of what it writes gets there; one of `ERRORS`: it
            fails with that, and so does every other that needs room.
    """

    Crash = Crash
    ERRORS: ClassVar = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}

    def __init__(self) -> None:
        self.begin()

    def begin(self, fail_at: int | None = None, how: str = "before") -> None:
        """Begin to count anew."""
        self.done: list[tuple[str, str]] = []
        self.fail_at, self.how, self.dead = fail_at, how, False
        self.unsynced: dict[int, int] = {}

    def __call__(self, what: str, path: Path, do: Callable[[], Any]) -> Any:
        if self.dead:
            raise Crash
        self.done.append((what, path.name))
        here = self.fail_at is not None and len(self.done) >= self.fail_at
        if here and self.how in self.ERRORS:
            if what in {"write", "make"}:
                number = self.ERRORS[self.how]
                raise OSError(number, os.strerror(number), str(path))
        elif here and self.how == "before":
            self.die()
        result = None
        if what == "sync":
            self.sync(path)
        else:
            result = do()
        if what == "write":
            self.unsynced[path.stat().st_ino] = os.open(path, os.O_RDWR)
            if here and self.how == "torn":
                os.truncate(path, path.stat().st_size // 2)
                self.close(path)
        if here and self.how not in self.ERRORS:
            self.die()
        return result

    def sync(self, path: Path) -> None:
        if path.is_file():
            self.close(path)

    def close(self, path: Path) -> None:
        os.close(self.unsynced.pop(path.stat().st_ino))

    def die(self) -> None:
        self.dead = True
        for handle in self.unsynced.values():
            os.ftruncate(handle, 0)
            os.close(handle)
        self.unsynced = {}
        raise Crash


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Everything that tlkit writes goes through this."""
    found = Disk()
    monkeypatch.setattr("tlkit.system.files.disk_operation", found)
    return found


@pytest.fixture
def decoding_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """With how many threads images were decoded each time, on a machine with eight cores."""
    used: list[int] = []

    def listening(work: Any, items: Any, workers: int, ahead: int = 64) -> Any:
        used.append(workers)
        return map(work, items)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    for module in ("classifier", "data.file_work", "data.images"):
        monkeypatch.setattr(f"tlkit.{module}.in_parallel", listening)
    return used
