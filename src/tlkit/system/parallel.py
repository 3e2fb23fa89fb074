"""Work in several threads, or in forked processes.

Threads take turns in Python code, so where nearly all work is Python, they are no quicker than one,
and wait while Python is busy elsewhere. A forked process has all that its parent has loaded and
costs a few milliseconds, but only a process without threads of its own and without TensorFlow can
be forked safely.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import Any, Generic, NoReturn, TypeVar

from tlkit.system.errors import named_shortage
from tlkit.system.keras import is_own_process, is_started
from tlkit.system.signals import SIGNALS

A = TypeVar("A")
B = TypeVar("B")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(
    work: Callable[[A], B], items: Iterable[A], workers: int, ahead: int = 64
) -> Iterator[B]:
    """Yield `work(item)` for each item, in order, computed by threads at most `ahead` ahead."""
    with named_shortage("images"), ThreadPoolExecutor(workers) as pool:
        left = iter(items)
        waiting = deque(pool.submit(work, item) for item in itertools.islice(left, ahead))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in itertools.islice(left, 1))
        finally:
            for future in waiting:
                future.cancel()


def can_fork() -> bool:
    """Tell whether this process is tlkit's own, on Linux, and still small enough to be forked."""
    small = not is_started() and threading.active_count() == 1
    return sys.platform == "linux" and is_own_process() and small


class Forked(Generic[A, B]):
    """`work(item)` for each item, in order, begun at once by forked processes.

    Process n of N does the items n, n + N, and so on. What a process leaves undone, because `work`
    raised or the process died, is done here in its turn, so errors are those of a plain loop.

    Args:
        work: What is done.
        items: What it is done for.
        processes: How many do it.
        pack: Makes plain values of a result, which JSON can hold.
        unpack: Returns the result for an item, given these.
        on_start: Called in each process before its first item.
    """

    def __init__(
        self,
        work: Callable[[A], B],
        items: Sequence[A],
        processes: int,
        pack: Callable[[B], Any],
        unpack: Callable[[A, Any], B],
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.work, self.items, self.pack, self.unpack = work, items, pack, unpack
        self._children: list[_Child] = []
        for number in range(processes):
            try:
                child = self._fork(items[number::processes], on_start)
            except OSError:  # no more processes, memory or files
                break
            self._children.append(child)
        self._processes = processes
        for child in self._children:
            child.listen()  # only now: a thread must not be forked

    def _fork(self, items: Sequence[A], on_start: Callable[[], None]) -> _Child:
        receiver, sender = Pipe(duplex=False)
        with sender:
            process = os.fork()
            if process == 0:
                receiver.close()  # or this one would not notice that its parent has ended
                _serve(lambda item: self.pack(self.work(item)), items, sender, on_start)
        return _Child(process, receiver)

    def __iter__(self) -> Iterator[B]:
        for number, item in enumerate(self.items):
            place = number % self._processes
            child = self._children[place] if place < len(self._children) else None
            message = child.next() if child else None
            yield self.unpack(item, json.loads(message)) if message else self.work(item)

    def end(self) -> None:
        """End the processes, whatever they are doing; nothing if they have been ended."""
        while self._children:
            self._children.pop().end()


class _Child:
    """A process and what has come from it."""

    def __init__(self, process: int, receiver: Connection) -> None:
        self.process, self.receiver = process, receiver
        self.messages: SimpleQueue[bytes | None] = SimpleQueue()
        self.ended = False
        self.thread = threading.Thread(target=self._receive, daemon=True)

    def listen(self) -> None:
        """Collect results as they come: a full pipe would stop the process."""
        self.thread.start()

    def _receive(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self.messages.put(self.receiver.recv_bytes())
        self.messages.put(None)

    def next(self) -> bytes | None:
        """Return the next result; None if the process has ended."""
        message = None if self.ended else self.messages.get()
        self.ended = message is None
        return message

    def end(self) -> None:
        """End the process, whatever it is doing."""
        with suppress(ProcessLookupError, ChildProcessError):  # where SIGCHLD is ignored
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        self.thread.join()
        self.receiver.close()


def _serve(
    work: Callable[[A], Any], items: Sequence[A], sender: Connection, on_start: Callable[[], None]
) -> NoReturn:
    """Send the result for each item, an empty one where `work` raises, and end the process."""
    try:
        for number in SIGNALS:  # the parent ends its processes
            signal.signal(number, signal.SIG_IGN)
        gc.freeze()  # what has been loaded stays in memory that is shared
        on_start()
        for item in items:
            try:
                message = json.dumps(work(item)).encode()
            except Exception:  # the parent will see it too
                message = b""
            sender.send_bytes(message)
    finally:  # nothing of the parent's is flushed or cleaned up here
        os._exit(0)
