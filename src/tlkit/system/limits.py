"""How much memory there is, and what one file may cost: an environment variable sets each limit.

Nothing here imports anything of tlkit but the errors: exported scripts carry it along.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tlkit.system.errors import ResourceError

MAX_PIXELS = 81_000_000  # 9,000 × 9,000
LIMITS: Mapping[str, int] = {
    "TLKIT_MAX_PIXELS": MAX_PIXELS,  # that an image declares
    "TLKIT_MAX_FILE_MB": 512,  # of an image file: the largest picture at 6 bytes per pixel
    "TLKIT_MAX_UNPACKED_MB": 64,  # of a deflated DICOM file
    "TLKIT_MAX_SCANS": 50,  # of a JPEG
    "TLKIT_MAX_PAGES": 100,  # of a TIFF, reduced copies included
    "TLKIT_MAX_METADATA_MB": 16,  # in a JPEG's segments
    "TLKIT_DECODING_MB": 1024,  # for all images that are decoded at the same time
}
DECODED_BYTES = 12  # per pixel: the picture, its conversion, and what looks at it


def limit(name: str) -> int:
    """Return a limit: the environment variable of that name, or the default."""
    text = os.environ.get(name, "")
    if not text:
        return LIMITS[name]
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ResourceError(f"{name}: must be a whole number above 0, got {text!r}")
    return int(text)


def beyond(name: str, unit: str = "") -> str:
    """Return the end of a message: which limit was exceeded, and how it is set.

    >>> beyond("TLKIT_MAX_SCANS")
    'more than 50 (TLKIT_MAX_SCANS)'
    """
    return f"more than {limit(name):,}{unit} ({name})"


class MemoryBudget:
    """Memory that threads share: who wants more than is left waits; alone, one may have it all.

    Attributes:
        processes: How many processes have the same share of it; what needs more is refused there.
    """

    def __init__(self) -> None:
        self.used, self.processes = 0, 1
        self.changed = threading.Condition()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold `size` bytes while the body runs."""
        total = (limit("TLKIT_DECODING_MB") << 20) // self.processes
        if self.processes > 1 and size > total:
            raise ResourceError("more memory is needed than one of several processes may take")
        with self.changed:
            self.changed.wait_for(lambda: not self.used or self.used + size <= total)
            self.used += size
        try:
            yield
        finally:
            with self.changed:
                self.used -= size
                self.changed.notify_all()


decoding_budget = MemoryBudget()


CGROUPS = (  # the limit of a container and what it uses, version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_bytes() -> int | None:
    """Return how much memory this process may still take; None where nobody knows."""
    return min(_bounds(), default=None)


def _bounds() -> Iterator[int]:
    if os.name != "posix":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and (text := _text("/proc/self/statm")):
        yield max(0, soft - int(text.split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10
    for limit, used in CGROUPS:
        if (most := _text(limit).strip()).isdigit() and (now := _text(used).strip()).isdigit():
            yield max(0, int(most) - int(now))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def require_memory(size: int, what: str) -> None:
    """Raise `ResourceError` if something needs more memory than there is."""
    available = available_bytes()
    if available is not None and size > available:
        raise ResourceError(
            f"{what} need {size / 1e9:,.1f} GB of memory, {available / 1e9:,.1f} GB are free; "
            "use fewer head.units, a smaller backbone or a larger machine"
        )
