"""Who makes which run: nothing is made twice into one folder, and nobody writes what it lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.finished_runs import metrics_table, write_pretended

import tlkit
from tlkit.sweeps import joining, processes
from tlkit.sweeps.board import Board
from tlkit.sweeps.executors import executor_of
from tlkit.sweeps.folder import Command, SweepFolder
from tlkit.sweeps.joining import finish, open_board, work_off
from tlkit.system.lease import Lease, Leases, Owner
from tlkit.system.lock import locked

QUICK = """
data = { name = "shapes", train = 6, val = 3, test = 0, image_px = 32 }
backbone = { weights = "none", image_size = 32 }
head = { name = "pooled" }
"""
METRICS = metrics_table([[3, 1], [0, 2]], "ab")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of three runs that nobody has begun."""
    (tmp_path / "quick.toml").write_text(QUICK)
    command = Command(tmp_path / "quick.toml", (), "0-2")
    trials = tlkit.plan_trials(command.file, (), command.seeds)
    return SweepFolder.create(tmp_path / "out", command, trials).path


def board(folder: Path, **settings: Any) -> Board:
    return open_board(folder, (), retries=False, **settings)


def begin(job: dict[str, Any]) -> Path:
    out = Path(job["out"])
    out.mkdir()
    (out / "unfinished.json").write_text("{}")
    return out


def make(job: Any) -> dict[str, Any]:
    """Make a run of nothing but its metrics."""
    out = Path(job["out"])
    out.mkdir(exist_ok=True)
    write_pretended(out, METRICS)
    (out / "unfinished.json").unlink(missing_ok=True)
    return {}


def taken(some: Board) -> Lease:
    lease, _ = some.take()
    assert lease is not None
    return lease


def silent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every owner but this process's next one be on a machine that is silent."""
    monkeypatch.setattr(Leases, "is_dead", lambda self, lease: True)


def test_two_processes_take_different_runs_and_see_each_others_end(folder: Path) -> None:
    one, other = board(folder), board(folder)
    leases = [taken(one), taken(other), taken(one)]
    assert [lease.work for lease in leases] == ["001-quick", "002-quick", "003-quick"]
    assert other.take() == (None, True)
    for lease, owner in zip(leases, (one, other, one), strict=True):
        owner.settle(lease, make(owner.job(lease)))
    assert one.take() == other.take() == (None, False)
    assert [outcome.status for outcome, _ in other.news()] == ["done"] * 3
    assert list(other.news()) == []


def test_a_run_that_is_taken_over_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, heir = board(folder), board(folder)
    lease = taken(sleeper)
    out = begin(sleeper.job(lease))
    (out / "checkpoint").write_text("epoch 3")
    silent(folder, monkeypatch)
    taken_over = taken(heir)
    assert (taken_over.work, taken_over.number) == (lease.work, 1)
    assert (Path(heir.job(taken_over)["out"]) / "checkpoint").read_text() == "epoch 3"


@pytest.mark.parametrize("first", ["sleeper", "heir"])
def test_a_process_that_wakes_up_cannot_write_into_the_run_it_lost(
    first: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, heir = board(folder), board(folder)
    lease = taken(sleeper)
    out = begin(sleeper.job(lease))
    silent(folder, monkeypatch)
    owned = taken(heir)
    with pytest.raises(FileNotFoundError, match="attempt-0"):
        (out / "history.csv").write_text("late")
    if first == "heir":
        heir.settle(owned, make(heir.job(owned)))
    begin(sleeper.job(lease))  # it makes the folder again, from the start
    sleeper.settle(lease, make(sleeper.job(lease)) if first == "heir" else {"error": "no folder"})
    newest = board(folder).leases.newest()[lease.work]
    if first == "sleeper":
        assert (newest.number, newest.status) == (1, "working")
        assert not (folder / "runs" / lease.work).exists()  # nor did it put anything there
        heir.settle(owned, make(heir.job(owned)))
    assert board(folder).leases.newest()[lease.work].status == "done"
    assert (folder / "runs" / lease.work / "metrics.json").is_file()


def test_an_owner_that_was_only_slow_to_say_so_has_made_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, heir = board(folder), board(folder)
    lease = taken(slow)
    make(slow.job(lease))
    claim = Leases.claim

    def finish_first(self: Leases, work: str, number: int, *budget: float) -> Lease | None:
        if number == 1:
            slow.settle(lease, {})
        return claim(self, work, number, *budget)

    silent(folder, monkeypatch)
    monkeypatch.setattr(Leases, "claim", finish_first)
    assert taken(heir).work == "002-quick"
    assert [o.status for o, _ in heir.news()] == ["done"]


def test_a_failure_is_told_to_all_and_made_again_only_on_request(folder: Path) -> None:
    one, other = board(folder), board(folder)
    lease = taken(one)
    begin(one.job(lease))
    one.settle(lease, {"error": "epoch 1: the loss is nan", "exit_code": 9})
    assert (folder / "runs" / lease.work / "unfinished.json").is_file()
    assert taken(other).work == "002-quick"
    outcome, _ = next(other.news())
    assert (outcome.status, outcome.error, outcome.exit_code) == (
        "failed", "epoch 1: the loss is nan", 9,
    )  # fmt: skip
    again = open_board(folder, (), retries=True)
    assert taken(again).work == lease.work
    assert not (folder / "runs" / lease.work).exists()


def test_what_a_process_gives_back_is_free_at_once(folder: Path) -> None:
    one, other = board(folder), board(folder)
    lease = taken(one)
    begin(one.job(lease))
    one.release()
    assert (folder / "runs" / lease.work / "unfinished.json").is_file()
    assert taken(other).work == lease.work


def test_a_run_that_someone_resumes_by_hand_is_left_alone(folder: Path) -> None:
    run = folder / "runs" / "001-quick"
    run.mkdir(parents=True)
    (run / "unfinished.json").write_text("{}")
    one = board(folder)
    with locked(run):
        lease = taken(one)
        assert Path(one.job(lease)["out"]) == run


def test_threads_of_one_process_make_every_run_once(folder: Path) -> None:
    one, made, stop = board(folder), [], threading.Event()

    def work(job: Any) -> dict[str, Any]:
        made.append(Path(job["out"]).name)
        return make(job)

    threads = [threading.Thread(target=work_off, args=(one, work, stop)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["001-quick", "002-quick", "003-quick"]
    list(one.news())
    done = finish(one)
    assert [outcome.status for outcome in done.outcomes] == ["done"] * 3
    assert not list(folder.glob("attempt-*"))


def test_status_tells_who_makes_what_and_estimates_only_what_it_can(folder: Path) -> None:
    assert str(tlkit.sweep_status(folder)).endswith(
        "3 waiting, no estimate: no process works on it"
    )
    one = board(folder)
    first, second = taken(one), taken(one)
    assert str(tlkit.sweep_status(folder)).endswith("no estimate: no run is finished yet")
    make(one.job(first))
    one.settle(first, {})
    one.leases.settle(first, "done", 60.0)
    (begin(one.job(second)) / "history.csv").write_text("epoch\n1\n2\n")
    status = tlkit.sweep_status(folder)
    assert [run.status for run in status.runs] == ["done", "working", "waiting"]
    epochs = status.runs[1].planned_epochs
    assert status.runs[1].epochs == 2
    assert status.remaining_s == pytest.approx(60 * (1 + 1 - 2 / epochs))
    assert status.budget_s is None
    assert json.dumps(status.as_json())


@pytest.mark.parametrize(
    ("workers", "error", "message"),
    [
        (0, tlkit.ConfigError, "must be at least 1, got 0"),
        ("rai:auto", tlkit.UnknownPart, "no executor named 'rai'; did you mean 'ray'"),
    ],
)
def test_executors_that_are_not_there(workers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        executor_of(workers)


def test_processors_are_shared_out_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr("tlkit.sweeps.executors.available_cores", lambda: 8)
    monkeypatch.setattr("tlkit.sweeps.executors.graphics_cards", lambda: ["0", "1"])
    local: Any = executor_of(3)
    shares = [local.environment(number, 3) for number in range(3)]
    assert {share["TF_NUM_INTRAOP_THREADS"] for share in shares} == {"2"}
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0", "1", "0"]
    assert evolve(local, processes=1).environment(0, 1) == {}
    assert executor_of(1, threads=1).environment(0, 1)["TF_NUM_INTRAOP_THREADS"] == "1"  # type: ignore[attr-defined]  # Local's


FAKE = """
import json, os, shutil, sys, time
for line in sys.stdin:
    out = json.loads(line)["out"]
    os.makedirs(out, exist_ok=True)
    open(out + "/unfinished.json", "w").close()
    time.sleep(0.02)
    for name in ("metrics.json", "manifest.csv", "predictions.csv"):
        shutil.copy(os.path.join(os.environ["METRICS"], name), out)
    os.remove(out + "/unfinished.json")
    print("{}", flush=True)
"""
TAKES_PART = """
import sys
from tlkit.sweeps import joining, processes
processes.COMMAND = ("-c", sys.argv[1])
joining.take_part(sys.argv[2])
"""


def process(folder: Path, top: Path, fake: str = FAKE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKES_PART, fake, str(folder)],
        env={**os.environ, "METRICS": str(top)},
    )


def table(folder: Path) -> dict[str, bytes]:
    names = ("sweep.csv", "summary.csv", "sweep.html", "accuracy.svg")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.usefixtures("fake_worker")
def test_processes_that_are_killed_leave_the_same_tables(tmp_path: Path, folder: Path) -> None:
    killed = process(folder, tmp_path)
    while not list(folder.glob("attempt-0/*")):
        assert killed.poll() is None
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    both = [process(folder, tmp_path) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    found = table(folder)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "sweep.json").write_bytes((folder / "sweep.json").read_bytes())
    joining.take_part(str(tmp_path / "alone"))
    assert table(tmp_path / "alone") == found


def finished_by_one(folder: Path) -> None:
    joining.take_part(str(folder))
    assert len(list((folder / "runs").glob("*/metrics.json"))) == 3
    assert not list(folder.glob("attempt-*"))


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made by a process that only writes their metrics."""
    write_pretended(tmp_path, METRICS)
    monkeypatch.setenv("METRICS", str(tmp_path))
    monkeypatch.setattr(processes, "COMMAND", ("-c", FAKE))


@pytest.mark.usefixtures("fake_worker")
def test_a_process_that_sleeps_is_given_up_and_harms_nothing_when_it_wakes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = process(folder, tmp_path)
    while not list(folder.glob("leases/*")):
        assert asleep.poll() is None
        time.sleep(0.005)
    asleep.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(joining, "POLL_S", 0.05)
    monkeypatch.setattr(Leases, "is_dead", lambda self, lease: lease.owner != Owner.current())
    finished_by_one(folder)
    made = {path: path.read_bytes() for path in folder.glob("runs/*/*")}
    asleep.send_signal(signal.SIGCONT)
    assert asleep.wait() == 0
    assert {path: path.read_bytes() for path in folder.glob("runs/*/*")} == made
    assert not list(folder.glob("attempt-*/*"))


@pytest.mark.usefixtures("fake_worker")
def test_a_process_whose_disk_is_full_leaves_its_run_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = board(folder)
    lease = taken(full)
    monkeypatch.setattr("tlkit.system.lease.write_text", no_space)
    with pytest.raises(OSError, match="No space left"):
        full.settle(lease, make(full.job(lease)))
    monkeypatch.undo()
    assert board(folder).leases.newest()[lease.work].status == "working"


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("fake_worker")
def test_a_file_system_without_locks_is_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", refuse)
    finished_by_one(folder)


CLUSTER = """
import sys, threading, time
import ray
from pathlib import Path
from ray.cluster_utils import Cluster
import tlkit
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

def lose() -> None:
    owners = set()
    while len(owners) < 2:  # both nodes have begun a run
        owners = {path.read_text() for path in Path("ray/leases").glob("*.0.json")}
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)

if sys.argv[1:] == ["lose"]:
    threading.Thread(target=lose, daemon=True).start()
done = tlkit.sweep("quick.toml", "ray", seeds="0-5", workers="ray:" + cluster.address)
assert [outcome.status for outcome in done.outcomes] == ["done"] * 6, done.outcomes
"""
REAL = """
data = { name = "shapes", train = 6, val = 3, test = 0, image_px = 32 }
backbone = { weights = "none", image_size = 32 }
head = { name = "pooled" }
fit = { epochs = 2 }
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", [[], ["lose"]], ids=["two nodes", "one is lost"])
def test_a_cluster_gives_the_tables_of_one_process(lost: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    (tmp_path / "quick.toml").write_text(REAL)
    variables = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "TLKIT_CACHE": str(tmp_path / "c")}
    run: Any = subprocess.run
    run([sys.executable, "-c", CLUSTER, *lost], cwd=tmp_path, env=variables, check=True)
    alone = [sys.executable, "-m", "tlkit", "sweep", "quick.toml", "--seeds", "0-5", "--threads",
             "1", "--out", "alone"]  # fmt: skip
    run(alone, cwd=tmp_path, env=variables, check=True)
    assert table(tmp_path / "ray") == table(tmp_path / "alone")
    for kept in ("weights.safetensors", "history.csv", "predictions.csv", "metrics.json"):
        for made in (tmp_path / "alone" / "runs").glob(f"*/{kept}"):
            assert (
                made.read_bytes() == (tmp_path / "ray/runs" / made.parent.name / kept).read_bytes()
            )


@pytest.mark.parametrize("name", ["leases", "attempt-0"])
def test_a_planted_link_is_not_followed(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(tlkit.RunFolderError, match="no link"):
        taken(board(folder))
    assert not list((tmp_path / "elsewhere").iterdir())
