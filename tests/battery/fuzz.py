"""Thousands of damaged files, opened in a process of its own: `python -m tests.battery.fuzz COUNT`.

Prints what became of them as JSON: how many were read and refused, by kind, what crashed or took
long, and by how much the process grew.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from tests.battery.hostile import safetensors, tensor
from tests.odd_images import all_odd_images
from tests.test_dicom import RAMP, dicom, jpeg_dicom

HANG_S = 10
EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
)


def h5_file(**options: Any) -> bytes:
    """Return a weights file as Keras 2 writes them."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        file.attrs["layer_names"] = [b"one", b"two"]
        for name in ("one", "two"):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            group.create_dataset(f"{name}/kernel:0", data=np.ones((8, 8), np.float32),
                                 chunks=(4, 4), compression="gzip")  # fmt: skip
    return buffer.getvalue()


def originals() -> dict[str, list[bytes]]:
    """Return sound files by kind."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    images = [odd.content for odd in all_odd_images() if odd.pixels is not None]
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("AVIF", {}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind, **options)
        images.append(buffer.getvalue())
    return {
        "image": images,
        "dicom": [
            dicom(RAMP),
            dicom(RAMP, WindowCenter=100, WindowWidth=100, RescaleSlope="2", RescaleIntercept="1"),
            dicom(RAMP.astype(np.uint16) * 9),
            jpeg_dicom(),
        ],
        "safetensors": [
            safetensors({"a": tensor([2], 0, 8), "b": tensor([1, 3], 8, 20)}, bytes(20)),
            safetensors({f"l{n}": tensor([4], 16 * n, 16 * n + 16) for n in range(9)}, bytes(144)),
        ],
        "h5": [h5_file(), h5_file(libver="latest")],
    }


def damaged(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a file with a few random changes."""
    file = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(file) or 1)
        match draw.randrange(7):
            case 0 | 1:
                file[place : place + 1] = bytes([draw.randrange(256)])
            case 2:
                file[place : place + 4] = draw.choice(EXTREMES)
            case 3:
                del file[place:]
            case 4:
                file[place:place] = file[place : place + draw.randrange(1, 64)] * draw.randrange(
                    1, 9
                )
            case 5:
                start = draw.randrange(len(other))
                file[place : place + 32] = other[start : start + 32]
            case 6:
                del file[place : place + draw.randrange(1, 16)]
    return bytes(file)


def files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged files with their kinds."""
    sound, draw = originals(), random.Random(seed)
    kinds = [*sound]
    for number in range(count):
        kind = kinds[number // 2 % len(kinds)] if number % 2 else "image"
        yield kind, damaged(draw.choice(sound[kind]), draw.choice(sound[kind]), draw)


def readers(folder: Path) -> Mapping[str, Callable[[bytes], object]]:
    """Return what opens each kind, and is tried."""
    from tlkit.data.images import to_pixels
    from tlkit.weights.files import read_arrays

    def arrays(content: bytes, suffix: str) -> object:
        path = folder / f"weights{suffix}"
        path.write_bytes(content)
        return read_arrays(path)

    return {
        "image": lambda content: to_pixels(content, 32),
        "dicom": lambda content: to_pixels(content, 32),
        "safetensors": lambda content: arrays(content, ".safetensors"),
        "h5": lambda content: arrays(content, ".h5"),
    }


def main(count: int, seed: int) -> None:
    """Open the files and print what happened."""
    from tlkit.data.decoding import ImageError
    from tlkit.system.errors import TlkitError

    counts, wrong = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        tried = readers(Path(folder))
        for kind, sound in originals().items():  # load what the first use loads
            for content in sound:
                tried[kind](content)
        before = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slowest = 0.0
        for number, (kind, content) in enumerate(files(count, seed)):
            start = time.monotonic()
            try:
                tried[kind](content)
                outcome = "read"
            except (ImageError, TlkitError) as error:
                outcome = "refused"
                if "\n" in str(error) or not str(error):
                    wrong.append(f"{number} {kind}: {error!r}")
            except Exception as error:  # what must not be
                outcome = "crashed"
                wrong.append(f"{number} {kind}: {error!r}")
            seconds, slowest = time.monotonic() - start, max(slowest, time.monotonic() - start)
            if seconds > HANG_S:
                wrong.append(f"{number} {kind}: took {seconds:.0f} s")
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if now - peak > 200 << 10:
                wrong.append(f"{number} {kind}: {outcome} with {(now - peak) >> 10} MB more")
            peak = max(peak, now)
            counts[f"{kind} {outcome}"] += 1
    print(json.dumps({"counts": counts, "wrong": wrong, "grown_mb": (peak - before) >> 10,
                      "slowest_s": slowest}))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
