"""Small machines and odd systems: the documented exit code, one line, nothing lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.battery.hostile import saved
from tests.fakes import OneConvolution

import tlkit
from tlkit import cli
from tlkit.data.images import Reader
from tlkit.data.root import read_file
from tlkit.data.sources import Rejected, image_files
from tlkit.parts.heads import FlattenDense, Pooled
from tlkit.system import cache, limits
from tlkit.system import keras as system_keras
from tlkit.system.errors import DataError, ResourceError
from tlkit.system.files import exists, is_dir, is_file
from tlkit.train.assemble import assemble

LONG = "n" * 300


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["tlkit", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (["data", "inspect", LONG], {4}),
        (["check", "e.toml", "--set", f'data={{name="folder", path="{LONG}"}}'], {4}),
        (["check", "e.toml", "--set", f'backbone.weights="{LONG}.h5"'], {5, 8}),
        (["check", f"{LONG}.toml"], {3}),
        (["predict", LONG, "x.png"], {7, 8}),
        (["report", LONG], {7, 8}),
        (["resume", LONG], {7, 8}),
        (["compare", LONG, LONG], {7, 8}),
        (["sweep", "--resume", LONG], {7, 8}),
        (["data", "inspect", "e.toml/x"], {4}),
        (["data", "inspect", "loop"], {4}),
    ],
)
def test_a_path_that_cannot_be_has_its_documented_code(
    arguments: list[str],
    codes: set[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("e.toml").write_text('data.name = "shapes"\nbackbone.weights = "none"\n')
    assert ended(arguments, monkeypatch) in codes
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR])
def test_what_cannot_be_is_not_there(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: Path, **_: object) -> os.stat_result:
        raise OSError(error, "x")

    monkeypatch.setattr(Path, "stat", stat)
    assert not any(ask(Path("x")) for ask in (exists, is_file, is_dir))


def test_a_nul_in_a_list_rejects_that_image_and_no_other(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(saved("PNG"))
    files = [*image_files(["-"], ["a\0b.png\n", f"{good}\n"])]
    reader = Reader(read_file, 8)
    with pytest.raises(DataError, match="NUL in its name"):
        reader(str(files[0]))
    assert reader(str(files[1])).shape == (8, 8, 3)


def test_a_pattern_that_goes_down_many_times_takes_no_time(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "/".join("abcdefgh"[: number + 1])).mkdir()
    (tmp_path / "a/b/x.png").write_bytes(saved("PNG"))
    assert [*image_files([f"{tmp_path}/{'**/' * 30}x.png"])] == [str(tmp_path / "a/b/x.png")]
    (rejected,) = image_files([f"{tmp_path}/{'**/*/' * 15}x.png"])
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "the pattern has more than 3 times **"


def test_without_a_home_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("TLKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(ResourceError, match="this user has no home folder; set HOME, or TLKIT_CA"):
        cache.default_folder()
    monkeypatch.setenv("TLKIT_CACHE", "/somewhere")
    assert cache.default_folder() == Path("/somewhere")


def test_a_read_only_system_can_start_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Any:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", nowhere)
    with system_keras.quiet_stderr():
        pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "memory is too short"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "x: Too many open files"),
        (OSError(errno.ESTALE, "Stale file handle", "x"), "x: Stale file handle"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "x: File name too long"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_trouble_of_the_machine_is_no_bug(
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def app() -> None:
        raise error

    monkeypatch.setattr(sys.modules["tlkit.cli.app"], "app", app)
    assert ended([], monkeypatch) == 8
    assert message in capsys.readouterr().err


def test_a_model_larger_than_memory_is_not_begun() -> None:
    for head in (FlattenDense(units=(2_000_000_000,)), Pooled(units=(2_000_000_000,))):
        with pytest.raises(ResourceError, match=r"parameters need [\d,.]+ GB of memory, .* free"):
            assemble(OneConvolution(), head, 3, 0)


def test_memory_that_ends_while_a_model_is_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(backbone: object) -> Any:
        raise MemoryError

    monkeypatch.setattr(OneConvolution, "build", build)
    with pytest.raises(ResourceError, match=r"^memory is too short for the model's .* head\.units"):
        assemble(OneConvolution(), Pooled(), 3, 0)


def test_memory_is_what_the_tightest_bound_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8000 kB\n",
        "/sys/fs/cgroup/memory.max": "5000000\n",
        "/sys/fs/cgroup/memory.current": "1000000\n",
    }
    monkeypatch.setattr(limits, "_text", lambda path: texts.get(path, ""))
    assert limits.available_bytes() == 4_000_000
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert limits.available_bytes() == 8000 << 10
    limits.require_memory(8000 << 10, "it")
    with pytest.raises(ResourceError, match=r"^it need 0\.0 GB"):
        limits.require_memory((8000 << 10) + 1, "it")


def weights(seed: int) -> list[np.ndarray]:
    model, _ = assemble(OneConvolution(), Pooled(units=(5,), dropout=0.5), 3, seed)
    return [np.asarray(variable) for variable in model.variables]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all((a == b).all() for a, b in zip(one, other, strict=True))


def test_models_built_in_threads_begin_as_those_built_alone() -> None:
    alone = {seed: weights(seed) for seed in range(2)}
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            random.random()

    noise = threading.Thread(target=disturb)
    noise.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            built = list(pool.map(weights, [0, 1] * 6))
    finally:
        stop.set()
        noise.join()
    assert all(same(model, alone[number % 2]) for number, model in enumerate(built))


def test_the_draws_are_those_of_pythons_generator_of_that_seed() -> None:
    """As in versions that seeded the global one: the same recipe gives the same bytes."""
    from keras.src.random import seed_generator

    state = random.getstate()
    with system_keras.seeded(7):
        drawn = [seed_generator.make_default_seed() for _ in range(3)]
    assert random.getstate() == state
    expected = random.Random(7)
    assert drawn == [expected.randint(1, int(1e9)) for _ in range(3)]
    seed_generator.make_default_seed()
    assert random.getstate() != state  # outside, Keras draws where it always did


def _in_child(ask: Callable[[], object], answer: Any) -> None:
    try:
        ask()
        answer.send("done")
    except ResourceError as error:
        answer.send(str(error))


def test_a_forked_process_is_told_why_it_would_wait_forever() -> None:
    system_keras.start_keras()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_in_child, args=(system_keras.start_keras, theirs))
    child.start()
    assert ours.poll(20)
    assert "from which this one was forked" in ours.recv()
    child.join()


@pytest.mark.slow  # four runs
def test_two_runs_in_two_threads_give_what_each_gives_alone(tmp_path: Path) -> None:
    def run(place: tuple[str, int]) -> dict[str, bytes]:
        name, seed = place
        folder = tmp_path / name
        experiment = {
            "data": {"name": "shapes", "train": 6, "val": 3, "test": 3, "image_px": 32},
            "backbone": {"weights": "none", "image_size": 32},
            "head": {"name": "pooled", "units": [8], "dropout": 0.3},
            "augmentation": {"name": "affine", "rotation_deg": 10},
            "fit": {"epochs": 3, "batch_size": 4, "cache": False, "xla": False},
            "seed": seed,
        }
        tlkit.run(experiment, folder)
        names = ("weights.safetensors", "history.csv", "predictions.csv", "metrics.json")
        return {file: (folder / file).read_bytes() for file in names}

    alone = [run((f"alone{seed}", seed)) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(run, [("both1", 1), ("both2", 2)]))
    assert together == alone
