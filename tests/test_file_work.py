"""Work on the files of many images: with how many threads."""

from __future__ import annotations

import pytest

from tlkit.data.file_work import SMALL_FILE_BYTES, decoding_threads


@pytest.mark.parametrize(
    ("file_bytes", "threads"), [(1, 1), (SMALL_FILE_BYTES - 1, 1), (SMALL_FILE_BYTES, 8), (None, 8)]
)
def test_small_files_are_decoded_by_one_thread(
    file_bytes: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    assert decoding_threads(file_bytes) == threads
