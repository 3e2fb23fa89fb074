"""The feature cache: whole or not at all, checked when read, never more than it may take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlkit.system.cache import ABANDONED_S, FeatureCache, default_folder, entry_key

Floats = npt.NDArray[np.float32]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def chunks(rows: Floats = ROWS) -> Iterator[Floats]:
    yield rows[:3]
    yield rows[3:]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def fill(cache: FeatureCache, *keys: str) -> int:
    """Write an entry under each key, used in this order, and return the size of one."""
    for second, key in enumerate(keys):
        cache.put(key, ROWS.shape, ROWS.dtype, chunks())
        os.utime(cache.folder / key / "meta.json", (second, second))
    return cache.entries()[0].size_bytes


def keys(cache: FeatureCache) -> list[str]:
    return [entry.key for entry in cache.entries()]


def test_what_is_put_is_got(cache: FeatureCache) -> None:
    assert cache.get("a") is None
    written = cache.put("a", ROWS.shape, ROWS.dtype, chunks())
    found = cache.get("a")
    assert found is not None
    assert found[:].tobytes() == written[:].tobytes() == ROWS.tobytes()


def test_what_is_said_of_an_entry_is_told_the_last_used_first(cache: FeatureCache) -> None:
    fill(cache, "a", "b")
    cache.put("c", ROWS.shape, ROWS.dtype, chunks(), {"rows": ["x"]})
    assert list(cache.about()) == [("c", {"rows": ["x"]}), ("b", {}), ("a", {})]
    (cache.folder / "b" / "meta.json").write_text("[]")
    (cache.folder / "c" / "meta.json").write_text("{")
    assert [key for key, _ in cache.about()] == ["a"]


@pytest.mark.parametrize("file", ["data.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_entry_is_removed_and_can_be_written_again(
    cache: FeatureCache, file: str, damage: str
) -> None:
    fill(cache, "a")
    path = cache.folder / "a" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    kinds = {"cut": bytes(content[:-1]), "flipped": bytes(content), "emptied": b""}
    path.write_bytes(kinds[damage])
    assert cache.get("a") is None
    assert keys(cache) == []
    cache.put("a", ROWS.shape, ROWS.dtype, chunks())
    assert cache.get("a") is not None


def test_an_entry_whose_making_fails_leaves_nothing(cache: FeatureCache) -> None:
    def failing() -> Iterator[Floats]:
        yield ROWS[:3]
        raise RuntimeError("the image has gone")

    with pytest.raises(RuntimeError, match="the image has gone"):
        cache.put("a", ROWS.shape, ROWS.dtype, failing())
    assert list(cache.folder.iterdir()) == []


def test_what_was_not_used_for_longest_makes_room(cache: FeatureCache) -> None:
    size = fill(cache, "a", "b", "c")
    cache.get("a")
    full = FeatureCache(cache.folder, 4 * size)
    assert full.make_room(2 * size)
    assert keys(cache) == ["c", "a"]
    assert full.make_room(3 * size, keep=["c"])
    assert keys(cache) == ["c"]


def test_what_does_not_fit_removes_nothing(cache: FeatureCache) -> None:
    size = fill(cache, "a", "b")
    small = FeatureCache(cache.folder, 3 * size)
    assert not small.make_room(4 * size)
    assert not small.make_room(2 * size, keep=["a", "b"])
    assert keys(cache) == ["a", "b"]


def test_the_limit_is_a_quarter_of_what_is_free_or_the_caches_own(cache: FeatureCache) -> None:
    assert 0 < cache.limit() <= 20 << 30
    assert FeatureCache(cache.folder, 7).limit() == 7


def test_a_stray_partial_entry_is_no_entry(cache: FeatureCache) -> None:
    fill(cache, "a")
    (cache.folder / "a").rename(cache.folder / ".partial-x")
    assert keys(cache) == []


def test_clear_removes_the_entries_and_tells_how_much(cache: FeatureCache) -> None:
    size = fill(cache, "a", "b")
    (cache.folder / ".partial-x").mkdir()
    others = cache.folder / "somebody" / "meta.json", cache.folder / "pictures.txt"
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    assert cache.clear() == 2 * size
    assert {path.name for path in cache.folder.iterdir()} == {"somebody", "pictures.txt"}
    assert all(path.exists() for path in others)
    assert cache.clear() == 0


def test_what_a_killed_process_has_left_makes_room(cache: FeatureCache) -> None:
    fill(cache, "a")
    for name, age_s in ((".partial-old", 2 * ABANDONED_S), (".partial-new", 0)):
        folder = Path(shutil.copytree(cache.folder / "a", cache.folder / name))
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - age_s,) * 2)
    assert cache.make_room(0)
    assert {path.name for path in cache.folder.iterdir()} == {"a", ".partial-new"}


@pytest.mark.parametrize("file", ["data.npy", "meta.json"])
def test_what_a_power_cut_has_left_of_an_entry_is_never_taken_for_it(
    cache: FeatureCache, file: str
) -> None:
    fill(cache, "a")
    (cache.folder / "a" / file).unlink()
    if file == "meta.json":
        np.save(cache.folder / "a" / "data.npy", np.zeros_like(ROWS))
    assert cache.get("a") is None
    assert cache.put("a", ROWS.shape, ROWS.dtype, chunks())[:].tobytes() == ROWS.tobytes()
    again = cache.get("a")
    assert again is not None
    assert again[:].tobytes() == ROWS.tobytes()


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from tlkit.system.cache import FeatureCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # stands for a disk that is full
rows = np.zeros((1 << 20, 1), np.float32)
try:
    FeatureCache(Path(sys.argv[1])).put("a", rows.shape, rows.dtype, iter([rows]))
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing(cache: FeatureCache) -> None:
    command = [sys.executable, "-c", FULL, str(cache.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "File too large\n"), done.stderr
    assert list(cache.folder.iterdir()) == []


WRITER = """
import sys
import numpy as np
from pathlib import Path
from tlkit.system.cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]))
rows = np.arange(1 << 20, dtype=np.float32).reshape(-1, 64)
for number in range(5):
    found = cache.get(str(number))
    if found is None:
        found = cache.put(str(number), rows.shape, rows.dtype, iter([rows]))
    assert found[:].tobytes() == rows.tobytes()
"""


def test_two_processes_share_a_cache_without_damage(cache: FeatureCache) -> None:
    command = [sys.executable, "-c", WRITER, str(cache.folder)]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert sorted(path.name for path in cache.folder.iterdir()) == list("01234")


@given(
    sizes=st.lists(st.integers(1, 40), max_size=6),
    wanted=st.integers(0, 8000),
    limit=st.integers(0, 8000),
)
@settings(max_examples=40)
def test_after_making_room_everything_fits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], wanted: int, limit: int
) -> None:
    cache = FeatureCache(tmp_path_factory.mktemp("features"), limit)
    for number, rows in enumerate(sizes):
        cache.put(str(number), (rows, 8), np.float32, iter([np.zeros((rows, 8), np.float32)]))
    before = cache.entries()
    fits = cache.make_room(wanted)
    after = cache.entries()
    assert fits == (wanted <= limit)
    assert sum(entry.size_bytes for entry in after) + wanted <= limit if fits else after == before


def test_a_key_changes_with_everything_in_it() -> None:
    tables = [{}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": [1, 2]}, {"a": [2, 1]}, {"a": {"b": None}}]
    assert len({entry_key(**table) for table in tables}) == len(tables)  # type: ignore[arg-type]  # any values
    assert entry_key(a=1, b=2) == entry_key(b=2, a=1)


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_CACHE", "/one")
    assert default_folder() == Path("/one")
    monkeypatch.delenv("TLKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert default_folder() == Path("/two/tlkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/three")
    assert default_folder() == Path("/three/.cache/tlkit")


def test_what_is_said_of_an_entry_is_checked_too(cache: FeatureCache) -> None:
    cache.put("a", ROWS.shape, ROWS.dtype, chunks(), {"rows": ["x"]})
    meta = cache.folder / "a" / "meta.json"
    meta.write_text(meta.read_text(encoding="utf-8").replace('"x"', '"y"'), encoding="utf-8")
    assert list(cache.about()) == []
    assert cache.get("a") is None


def test_an_entry_under_another_name_is_none(cache: FeatureCache) -> None:
    cache.put("a", ROWS.shape, ROWS.dtype, chunks())
    shutil.copytree(cache.folder / "a", cache.folder / "b")
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_an_entry_that_is_evicted_while_in_use_stays_whole_for_its_reader(
    cache: FeatureCache,
) -> None:
    used = cache.put("a", ROWS.shape, ROWS.dtype, chunks())
    small = FeatureCache(cache.folder, max_bytes=cache.entries()[0].size_bytes)
    assert small.make_room(1)
    assert cache.get("a") is None
    assert used[:].tobytes() == ROWS.tobytes()
    assert cache.put("a", ROWS.shape, ROWS.dtype, chunks())[:].tobytes() == ROWS.tobytes()
