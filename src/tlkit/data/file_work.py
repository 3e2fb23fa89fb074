"""Work on the files of many images, in forked processes or in threads."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from tlkit.data.root import ImageRoot
from tlkit.system.limits import decoding_budget
from tlkit.system.parallel import Forked, available_cores, can_fork, in_parallel

TOGETHER = 32  # images per piece of work of a thread, if there are many
# Decoding smaller files is nearly all Python, which threads cannot share: with two threads on two
# cores, files of 2 to 10 kB took 1.1 to 1.3 times as long as with one, and 1.4 times the processor.
SMALL_FILE_BYTES = 10_000
AHEAD = 64  # files that threads have done, at least, before their results are used
MANY = 500  # files for which processes are worth their start, a few hundredths of a second

A = TypeVar("A")
B = TypeVar("B")


@contextlib.contextmanager
def over_files(
    work: Callable[[Sequence[A]], Sequence[B]],
    items: Sequence[A],
    read: Callable[[str], bytes],
    pack: Callable[[B], Any],
    unpack: Callable[[A, Any], B],
    file_bytes: float | None = None,
) -> Iterator[Iterable[B]]:
    """Yield the results of work on many files, in order.

    In a process of tlkit's own, forked processes begin with many files at once; elsewhere, threads
    begin when the results are asked for.

    Args:
        work: Returns a result for each of some items, whose files it decodes.
        items: What it is done for.
        read: How it reads a file.
        pack: Makes plain values of a result, to be sent by a process.
        unpack: Returns the result for an item, given these.
        file_bytes: The mean size of the files; None: it is not known.
    """
    cores = available_cores()
    size = max(1, min(TOGETHER, len(items) // (4 * cores)))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    # Another `read` may share something with its copies in other processes, such as an archive.
    own = isinstance(getattr(read, "__self__", None), ImageRoot)
    if own and cores > 1 and len(items) >= MANY and can_fork():
        forked = Forked(
            work,
            parts,
            cores,
            pack=lambda results: [*map(pack, results)],
            unpack=lambda part, plain: [*map(unpack, part, plain)],
            on_start=partial(setattr, decoding_budget, "processes", cores),
        )
        try:
            yield itertools.chain.from_iterable(forked)
        finally:
            forked.end()
        return
    threads = decoding_threads(file_bytes)
    ahead = AHEAD // size + 2 * threads
    yield itertools.chain.from_iterable(in_parallel(work, parts, threads, ahead))


def decoding_threads(file_bytes: float | None) -> int:
    """Return how many threads should decode files of a mean size; None: it is not known."""
    small = file_bytes is not None and file_bytes < SMALL_FILE_BYTES
    return 1 if small else available_cores()
