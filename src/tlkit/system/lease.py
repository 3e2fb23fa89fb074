"""Leases: which of several processes, on any machines, does a piece of work.

A lease is a file that only one process can create; taking over another's work means creating the
next number. Nothing depends on clocks that agree or on locks, which network file systems may lack:
an owner counts up in its file, and whoever waits measures the silence with a clock of its own.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from attrs import define, evolve, field, frozen

from tlkit.system.files import write_text
from tlkit.system.untrusted import read_json

BEAT_S = 5.0
PATIENCE_S = 60.0  # twelve beats: a busy machine or file server may lose several
NAME = re.compile(r"(?P<work>.+)\.(?P<number>\d+)\.json")
WORKING, STOPPED, LOST, FAILED, DONE = "working", "stopped", "lost", "failed", "done"
PAUSED = "paused"


@frozen(kw_only=True)
class Owner:
    """A process.

    Attributes:
        host: The machine's name, for people.
        machine: What tells this start of this machine, or this container, from any other.
        process: The process's number there.
        started: When it started, in the system's ticks; a number may be given out again.
    """

    host: str = ""
    machine: str = ""
    process: int = 0
    started: str = ""

    @classmethod
    def current(cls) -> Owner:
        """Return this process."""
        process = os.getpid()
        return cls(
            host=platform.node(), machine=_machine(), process=process, started=_started(process)
        )

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended, which only its own machine can tell."""
        return bool(self.machine) and self.machine == _machine() and (
            _started(self.process) != self.started
        )  # fmt: skip

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.host else "an unknown process"


@frozen(kw_only=True)
class Lease:
    """Who does a piece of work, or did it.

    Attributes:
        work: The work's name.
        number: 0 for the first owner, one more for each that took over. Of two processes that
            believe they own the work, the one with the higher number is right.
        owner: The process.
        beat: Counts up while the owner lives.
        status: `working`, `stopped`, `paused` until others are as far, `lost` to another owner,
            `failed` or `done`.
        seconds: How long the owner worked on it.
        error: Why it failed.
        exit_code: The exit code that goes with it.
        budget_s: For how many seconds its owner would take more work when it took this; 0: without
            an end.
    """

    work: str
    number: int
    owner: Owner = field(factory=Owner)
    beat: int = 0
    status: str = WORKING
    seconds: float = 0.0
    error: str = ""
    exit_code: int = 0
    budget_s: float = 0.0

    @property
    def budget_left_s(self) -> float | None:
        """Return for how many seconds its owner takes more work; None: without an end."""
        return max(0.0, self.budget_s - BEAT_S * self.beat) if self.budget_s else None

    @property
    def file(self) -> str:
        """Return the name of its file."""
        return f"{self.work}.{self.number}.json"


@define
class Leases:
    """The leases in a folder, as one process sees them and takes them.

    Attributes:
        folder: Where their files are.
        patience_s: After how many seconds without a beat an owner counts as dead.
    """

    folder: Path
    patience_s: float = PATIENCE_S
    _held: dict[str, Lease] = field(factory=dict, init=False)
    _seen: dict[str, tuple[tuple[int, int], float]] = field(factory=dict, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def newest(self) -> dict[str, Lease]:
        """Return the newest lease of each piece of work."""
        numbers: dict[str, int] = {}
        for path in self.folder.glob("*.json"):
            if match := NAME.fullmatch(path.name):
                work, number = match["work"], int(match["number"])
                numbers[work] = max(number, numbers.get(work, -1))
        return {work: self._read(work, number) for work, number in numbers.items()}

    def seconds(self) -> dict[str, float]:
        """Return how long the owners of each piece of work took, as far as they told."""
        seconds: dict[str, float] = {}
        for path in sorted(self.folder.glob("*.json")):
            if match := NAME.fullmatch(path.name):
                lease = self._read(match["work"], int(match["number"]))
                seconds[lease.work] = seconds.get(lease.work, 0.0) + lease.seconds
        return seconds

    def claim(self, work: str, number: int, budget_s: float | None = None) -> Lease | None:
        """Create a lease; None if another process was faster."""
        lease = Lease(work=work, number=number, owner=Owner.current(), budget_s=budget_s or 0.0)
        self.folder.mkdir(exist_ok=True)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        try:
            handle = os.open(self.folder / lease.file, flags, 0o666)
        except FileExistsError:
            return None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_text(lease).encode())
                file.flush()
                os.fsync(handle)
        except OSError:  # the disk is full; half a lease would make others wait
            (self.folder / lease.file).unlink(missing_ok=True)
            raise
        with self._lock:
            self._held[work] = lease
        return lease

    def settle(self, lease: Lease, status: str, seconds: float, **facts: Any) -> Lease:
        """Record how the work ended; the lease is no longer held."""
        with self._lock:
            lease = evolve(
                self._held.pop(lease.work, lease), status=status, seconds=seconds, **facts
            )
            write_text(self.folder / lease.file, _text(lease))
        return lease

    def remove(self, lease: Lease) -> None:
        """Give a lease back without a trace, as the work itself says whether it is done."""
        with self._lock:
            self._held.pop(lease.work, None)
            for number in range(lease.number + 1):
                (self.folder / evolve(lease, number=number).file).unlink(missing_ok=True)

    def is_dead(self, lease: Lease) -> bool:
        """Tell whether a working lease's owner has ended or been silent for too long."""
        if lease.owner.is_gone:
            return True
        now, state = time.monotonic(), (lease.number, lease.beat)
        seen, since = self._seen.get(lease.work, (None, now))
        if seen != state:
            self._seen[lease.work] = state, now
            return False
        return now - since > self.patience_s

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Count up in every lease held while the body runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _beat_until(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with self._lock, suppress(OSError):  # the disk is full: others will take over
                for work, lease in self._held.items():
                    self._held[work] = evolve(lease, beat=lease.beat + 1)
                    write_text(self.folder / lease.file, _text(self._held[work]))

    def _read(self, work: str, number: int) -> Lease:
        """Return a lease; one that cannot be read is that of an unknown process."""
        unknown = Lease(work=work, number=number)
        try:
            table = read_json(self.folder / unknown.file)
            owner = Owner(**_typed(Owner, table.pop("owner")))
            return evolve(Lease(**_typed(Lease, table), owner=owner), work=work, number=number)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return unknown


def _typed(cls: Any, table: dict[str, Any]) -> dict[str, Any]:
    """Return a table whose values have the types of a class's defaults; raise TypeError if not."""
    for key in attrs.fields(cls):
        value, numbers = table.get(key.name), ("int", "float")
        if value is not None and isinstance(value, int | float) is not (key.type in numbers):
            raise TypeError(key.name)
    return table


def _text(lease: Lease) -> str:
    return json.dumps(attrs.asdict(lease), ensure_ascii=False) + "\n"


def _machine() -> str:
    """Return a text that differs between machines, their starts, and their containers."""
    found = [platform.node()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found) if len(found) == 3 else ""


def _started(process: int) -> str:
    """Return when a process started; empty if there is none, or a system that does not tell."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]  # a zombie has ended
