"""How much memory there is, before something large is made of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tlkit.system.errors import ResourceError

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
