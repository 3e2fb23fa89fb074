"""A process in which hostile files are opened: little memory, no network, everything watched.

    python tests/battery/sandbox.py < [["image" or "weights", path], …]

It prints what became of each file and every event that opening a picture or arrays does not need:
code that is run, modules, connections, processes, other files.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 << 30  # of address space; the modules take half a GB of it
FORBIDDEN = ("exec", "compile", "import", "marshal.", "pickle.", "socket.", "os.system", "os.exec",
             "os.posix_spawn", "os.fork", "subprocess.", "ctypes.", "shutil.", "tempfile.",
             "os.remove", "os.rename", "os.mkdir", "os.symlink", "urllib.", "http.")  # fmt: skip


def readers() -> dict[str, Callable[[Path], object]]:
    """Return what is tried, with every module that it needs loaded by a first use."""
    import tlkit.system.keras

    # Neither needs TensorFlow, which would take half of the memory.
    tlkit.system.keras.start_keras = lambda: None
    import pillow_heif  # noqa: F401  # the first HEIC file loads it

    from tlkit.data.decoding import decode
    from tlkit.data.pictures import picture_of
    from tlkit.weights.files import read_arrays

    def image(path: Path) -> list[int]:
        found = picture_of(decode(path.read_bytes()))
        return [found.width, found.height]

    def weights(path: Path) -> dict[str, Any]:
        arrays = read_arrays(path).named
        return {name: array.ravel()[:4].tolist() for name, array in arrays.items()}

    return {"image": image, "weights": weights}


def main() -> None:
    """Try each file and print what happened."""
    tried = readers()
    from tlkit.data.decoding import ImageError
    from tlkit.system.errors import WeightsError

    work = json.load(sys.stdin)
    for kind, path in work["sound"]:  # load what the first use loads
        tried[kind](Path(path))
    for kind, path in work["warm"]:
        with contextlib.suppress(WeightsError, ImageError):
            tried[kind](Path(path))
    events: list[str] = []
    watched = [""]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watched[0]:
            return
        descriptor = event == "open" and isinstance(arguments[0], int)  # open already
        if event == "open" and not descriptor and str(arguments[0]) != watched[0]:
            events.append(f"open {arguments[0]}")
        elif event.startswith(FORBIDDEN):
            events.append(f"{event} {arguments!r:.100}")

    sys.addaudithook(hook)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = []
    for kind, path in work["hostile"]:
        events.clear()
        watched[0], start = path, time.monotonic()
        try:
            outcome, text = "accepted", json.dumps(tried[kind](Path(path)))
        except (WeightsError, ImageError) as error:
            outcome, text = "refused", str(error)
        except Exception as error:  # whatever else is a bug
            outcome, text = "crashed", repr(error)
        watched[0] = ""
        results.append([outcome, text, [*events], time.monotonic() - start])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"results": results, "grown_kb": grown}))


if __name__ == "__main__":
    main()
