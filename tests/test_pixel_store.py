"""The pixel store: what was put is read, within the limit, and an image is decoded once."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlkit.data.images import Reader
from tlkit.data.pixel_store import PixelStore


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_image_is_decoded_once_and_mirrored_afterward(tmp_path: Path) -> None:
    reads = Counter[str]()
    files = {f"{number}.png": png(number) for number in range(9)}

    def read(path: str) -> bytes:
        reads[path] += 1
        return files[path]

    plain = Reader(read, 4)
    expected = np.concatenate(list(plain.batches([*files], 4)))
    reads.clear()
    store = PixelStore(tmp_path / "cache", files, 4)
    stored, flipped = Reader(read, 4, store=store), Reader(read, 4, flip=True, store=store)
    for reader, wanted in ((flipped, expected[:, :, ::-1]), (stored, expected)):
        np.testing.assert_array_equal(np.concatenate(list(reader.batches([*files], 4))), wanted)
    assert reads == Counter([*files])


@pytest.mark.parametrize(("images", "kept"), [(0, 0), (2, 2), (99, 3)])
def test_images_beyond_the_limit_are_not_kept(
    images: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.data.pixel_store.MAX_BYTES", images * 4 * 4 * 3 + 1)
    store = PixelStore(tmp_path, ["a", "b", "c"], 4)
    for number, path in enumerate(("a", "b", "c", "other")):
        store.put(path, bytes([number]) * 48)
    found = [store.get(path) for path in ("a", "b", "c", "other")]
    assert found == [bytes([n]) * 48 if n < kept else None for n in range(4)]


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = PixelStore(tmp_path / "file", ["a"], 4)
    store.put("a", bytes(48))
    assert store.get("a") is None
