"""Leases: one owner at a time, whoever dies or sleeps, and whatever is in the file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tlkit.system import lease as leasing
from tlkit.system.lease import DONE, FAILED, Lease, Leases, Owner


def test_of_many_that_want_a_lease_one_gets_it(tmp_path: Path) -> None:
    processes = [Leases(tmp_path) for _ in range(8)]
    begin, got = threading.Barrier(8), []

    def claim(process: Leases) -> None:
        begin.wait()
        got.append(process.claim("a", 0))

    threads = [threading.Thread(target=claim, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in got) == 1


def test_the_newest_owner_counts_and_what_it_said_is_read_back(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    for number in (0, 1, 10):  # ten is newer than nine
        lease = leases.claim("a.b", number)
    assert lease is not None
    leases.settle(lease, FAILED, 1.5, error="no", exit_code=9)
    assert leases.newest() == {
        "a.b": evolve(lease, status=FAILED, seconds=1.5, error="no", exit_code=9)
    }


def test_an_owner_that_has_ended_is_known_to_be_gone_on_its_own_machine() -> None:
    assert not Owner.current().is_gone
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = evolve(Owner.current(), process=ended.pid, started="1")
    assert gone.is_gone
    assert not evolve(gone, machine="another").is_gone
    assert not evolve(gone, machine="").is_gone


def test_a_number_that_was_given_out_again_is_another_process() -> None:
    assert evolve(Owner.current(), process=os.getpid(), started="12").is_gone


def test_silence_is_measured_with_a_clock_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tlkit.system.lease.time.monotonic", lambda: now[0])
    far = Lease(work="a", number=0, owner=Owner(host="far", machine="another", process=1))
    leases = Leases(tmp_path, patience_s=60)
    assert not leases.is_dead(far)
    now[0] = 59
    assert not leases.is_dead(far)
    beaten = evolve(far, beat=1)
    assert not leases.is_dead(beaten)  # a sign of life begins the wait again
    now[0] = 118
    assert not leases.is_dead(beaten)
    now[0] = 120
    assert leases.is_dead(beaten)


def test_an_owner_counts_up_until_its_work_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "BEAT_S", 0.01)
    leases = Leases(tmp_path)
    lease = leases.claim("a", 0)
    assert lease is not None
    with leases.beating():
        while leases.newest()["a"].beat < 2:
            pass
        leases.settle(lease, DONE, 1.0)
    assert leases.newest()["a"].status == DONE


@given(content=st.binary(max_size=60) | st.sampled_from([b"{}", b"[1]", b'{"owner": 3}', b"null"]))
def test_a_file_that_is_no_lease_is_one_of_an_unknown_process(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("leases")
    (folder / "a.3.json").write_bytes(content)
    assert Leases(folder).newest() == {"a": Lease(work="a", number=3)}
