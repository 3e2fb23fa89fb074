"""Whatever dies, nothing is lost, nothing is made twice into one folder, and the table says so."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.finished_runs import write_pretended
from tests.test_board import FAKE, METRICS, QUICK, TAKES_PART, make, process, table

import tlkit
from tlkit.sweeps import joining, processes, worker
from tlkit.sweeps.board import Board
from tlkit.sweeps.executors import LOOPBACK, Executor, executor_of
from tlkit.sweeps.folder import Command, SweepFolder
from tlkit.sweeps.joining import finish, open_board, take_part, work_off
from tlkit.sweeps.processes import Worker
from tlkit.sweeps.sweep import _execute
from tlkit.system.lease import Leases, Owner


def begun(top: Path, name: str = "out", seeds: str = "0-2") -> Path:
    """A sweep that nobody has begun."""
    (top / "quick.toml").write_text(QUICK)
    command = Command(top / "quick.toml", (), seeds)
    trials = tlkit.plan_trials(command.file, (), command.seeds)
    return SweepFolder.create(top / name, command, trials).path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of three runs, made by processes that only write their metrics."""
    write_pretended(tmp_path, METRICS)
    monkeypatch.setenv("METRICS", str(tmp_path))
    monkeypatch.setattr(processes, "COMMAND", ("-c", FAKE))
    monkeypatch.setattr(joining, "POLL_S", 0.05)
    return begun(tmp_path)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def made(folder: Path) -> dict[str, int]:
    """Return the time of each finished run, which changes if it is made again."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("runs/*/metrics.json")}


KILLED_BY_THE_KERNEL = FAKE.replace(
    "time.sleep(0.02)",
    'if "002" in out and not os.path.exists("more-memory"): os.kill(os.getpid(), 9)',
)


def test_a_run_for_which_memory_is_too_small_fails_alone_and_can_be_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "COMMAND", ("-c", KILLED_BY_THE_KERNEL))
    take_part(str(folder))
    assert [row["status"] for row in rows(folder)] == ["done", "failed", "done"]
    assert rows(folder)[1]["error"] == "the process was killed; was there too little memory?"
    outcomes = {o.trial.name: o for o, _ in open_board(folder, (), retries=False).news()}
    assert outcomes["002-quick"].exit_code == 8
    before = made(folder)
    (tmp_path / "more-memory").touch()
    board = open_board(folder, (), retries=True)
    with Worker() as worker:
        work_off(board, worker, threading.Event())
    list(board.news())
    assert not finish(board).failed
    assert before.items() <= made(folder).items()


DRIVER = """
import sys, tlkit
from tlkit.sweeps import processes
processes.COMMAND = ("-c", sys.argv[1])
tlkit.sweep("quick.toml", "driven", seeds="0-2", workers=2)
"""


def test_a_driver_that_is_killed_takes_its_processes_with_it_and_the_rest_is_made(
    folder: Path, tmp_path: Path
) -> None:
    slow = FAKE.replace("0.02", "0.5")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, slow], cwd=tmp_path)
    driven = tmp_path / "driven"
    while not list(driven.glob("attempt-0/*")):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    time.sleep(1)  # its processes see the end of their input after their run
    take_part(str(driven))
    take_part(str(folder))
    assert table(driven) == table(folder)
    assert not list(driven.glob("attempt-*"))


class LostHead(Executor):
    """A cluster whose head is lost after its first run."""

    def run(self, board: Board, stop: threading.Event) -> None:
        """Make one run, begin another, and be gone."""
        lease, _ = board.take()
        assert lease is not None
        board.settle(lease, make(board.job(lease)))
        board.take()
        raise ConnectionError("the head node is gone")


def test_without_the_head_node_the_folder_has_all_that_is_needed(
    folder: Path, tmp_path: Path
) -> None:
    board = open_board(folder, (), retries=False)
    with pytest.raises(ConnectionError, match="the head node is gone"):
        _execute(board, LostHead(), tlkit.SweepCallback())
    before = made(folder)
    assert len(before) == 1
    take_part(str(folder))  # what the head had begun is free again
    assert before.items() <= made(folder).items()
    alone = begun(tmp_path, "alone")
    take_part(str(alone))
    assert table(folder) == table(alone)


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
"""


def test_a_node_whose_disk_is_full_ends_and_leaves_its_run_to_others(
    folder: Path, tmp_path: Path
) -> None:
    full = subprocess.run(
        [sys.executable, "-c", FULL + TAKES_PART, FAKE, str(folder)],
        env={**os.environ, "METRICS": str(tmp_path)},
        check=False,
        capture_output=True,
    )
    assert full.returncode != 0
    assert b"File too large" in full.stderr
    assert not list(folder.glob("leases/*.json"))  # not half of one
    take_part(str(folder))
    assert len(made(folder)) == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_lease_of_which_half_was_written_is_nobody_s_and_taken_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "leases").mkdir()
    (folder / "leases" / "001-quick.0.json").write_text('{"work": "001-qu')
    monkeypatch.setattr(Leases, "is_dead", lambda self, lease: lease.owner != Owner.current())
    take_part(str(folder))
    assert len(made(folder)) == 3
    assert (folder / "leases" / "001-quick.1.json").exists()


@pytest.mark.parametrize("differs", ["processor", "packages", "threads"])
def test_a_node_of_another_kind_or_version_is_told_in_the_table(differs: str, folder: Path) -> None:
    one = open_board(folder, (), retries=False)
    while (lease := one.take()[0]) is not None:
        answer = make(one.job(lease))
        odd = {"processor": "other", "packages": {"keras": "4"}, "threads": {"intra": 9}}
        usual = {"processor": "usual", "packages": {"keras": "3"}, "threads": {"intra": 1}}
        here = usual | ({differs: odd[differs]} if lease.work.startswith("002") else {})
        (Path(one.job(lease)["out"]) / "environment.json").write_text(json.dumps(here))
        one.settle(lease, answer)
    list(one.news())
    done = finish(one)
    assert "2 kinds of machine" in done.machine_note
    assert done.machine_note in (folder / "sweep.html").read_text()
    assert [row["machine"] for row in rows(folder)] == ["1", "2", "1"]


def test_a_node_with_other_images_is_noticed_and_its_run_not_pooled(folder: Path) -> None:
    nodes = [open_board(folder, (), retries=False) for _ in range(2)]
    for number in range(3):
        node = nodes[number % 2]
        lease, _ = node.take()
        assert lease is not None
        answer = make(node.job(lease))
        sha = f"{number % 2:064x}"
        manifest = f"path,sha256,split,label,patient,source,view\na.png,{sha},val,a,,,\n"
        (Path(node.job(lease)["out"]) / "manifest.csv").write_text(manifest)
        node.settle(lease, answer)
    list(nodes[0].news())
    done = finish(nodes[0])
    assert [o.status for o in done.outcomes] == ["done", "failed", "done"]
    assert "was made with other images than the runs before it" in rows(folder)[1]["error"]
    assert done.summaries[0].runs == 2


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_hundred_runs_by_eight_processes_each_killed_at_random(tmp_path: Path) -> None:
    """The runs are faked by a process that writes metrics; the rest is real."""
    storm, rng = begun(tmp_path, "storm", "0-99"), random.Random(7)
    slow = FAKE.replace("0.02", "0.3")
    alive: list[subprocess.Popen[bytes]] = []
    kills, errors = 0, []
    while len(made(storm)) < 100:
        errors += [one.returncode for one in alive if one.poll() not in (None, 0, -signal.SIGKILL)]
        alive = [one for one in alive if one.poll() is None]
        alive += [process(storm, tmp_path, slow) for _ in range(8 - len(alive))]
        enough = min(100, len(made(storm)) + rng.randint(1, 6))
        while len(made(storm)) < enough:  # on a busy machine, processes take long to begin
            time.sleep(rng.uniform(0.05, 0.5))
        rng.choice(alive).kill()
        kills += 1
    for one in alive:
        one.wait()
    take_part(str(storm))
    alone = begun(tmp_path, "alone", "0-99")
    take_part(str(alone))
    print(f"{kills} kills")
    assert kills > 7
    assert not errors
    assert table(storm) == table(alone)
    assert (storm / "seal.json").read_bytes() == (alone / "seal.json").read_bytes()
    assert not list(storm.glob("attempt-*"))


class FakeRay:
    """Notes how Ray would be started, and refuses."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.variables: dict[str, str] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.options = options
        self.variables = {name: os.environ.get(name, "") for name in RAY_VARIABLES}
        raise ConnectionError("not today")


RAY_VARIABLES = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", LOOPBACK)


@pytest.mark.parametrize("place", ["", "10.0.0.1:6379"])
def test_ray_is_started_for_this_machine_alone_with_a_token_and_without_telemetry(
    place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RAY_VARIABLES:  # set first, so that what tlkit sets is taken back too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    ray = FakeRay()
    monkeypatch.setattr("tlkit.sweeps.executors._package", lambda *_: ray)
    board = open_board(folder, (), retries=False)
    with pytest.raises(tlkit.ConfigError, match="no Ray cluster answers: not today"):
        executor_of(f"ray:{place}").run(board, threading.Event())
    assert ray.variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray.options["address"] == (place or "local")
    if place:
        return
    assert ray.variables[LOOPBACK] == "0"
    assert ray.options["include_dashboard"] is False
    assert ray.variables["RAY_AUTH_MODE"] == "token"
    assert len(ray.variables["RAY_AUTH_TOKEN"]) == 64


OWN_RAY = """
import json, os, subprocess, sys
import psutil
from tlkit.sweeps.executors import ray_session
JOIN = "import ray; ray.init(address=__import__('sys').argv[1], logging_level='CRITICAL')"
with ray_session("") as ray:
    ray.get(ray.remote(lambda: 1).remote())
    address = ray.get_runtime_context().gcs_address
    here = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [c.laddr.ip for p in here for c in p.net_connections("inet") if c.status == "LISTEN"]
    strangers = {"RAY_AUTH_TOKEN": "0" * 64}
    codes = [
        subprocess.run([sys.executable, "-c", JOIN, address], env={**os.environ, **changed},
                       capture_output=True).returncode
        for changed in ({}, strangers)
    ]
    from ray._common.usage import usage_lib
    telemetry = usage_lib.usage_stats_enabled()
print(json.dumps([sockets, codes, telemetry]))
"""


@pytest.mark.slow
def test_a_real_ray_of_its_own_listens_to_this_machine_alone_and_wants_its_token(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    pytest.importorskip("psutil", reason="lists sockets")
    own = subprocess.run([sys.executable, "-c", OWN_RAY], cwd=tmp_path, check=True,
                         capture_output=True, text=True)  # fmt: skip
    sockets, (with_token, with_another), telemetry = json.loads(own.stdout.splitlines()[-1])
    assert len(sockets) > 3
    assert {ip.removeprefix("::ffff:") for ip in sockets} == {"127.0.0.1"}
    assert with_token == 0
    assert with_another != 0
    assert telemetry is False


def test_nothing_in_a_sweeps_folder_is_ever_unpickled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only weights files are, with names of tensors alone; submitit's pickles are elsewhere."""
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    places: list[Path] = []

    class Submitit:
        def AutoExecutor(self, folder: Path, cluster: str) -> Any:  # noqa: N802  # submitit's name
            places.append(folder)
            raise ConnectionError

    monkeypatch.setattr("tlkit.sweeps.executors._package", lambda *_: Submitit())
    with pytest.raises(ConnectionError):
        executor_of("slurm:local").run(open_board(folder, (), retries=False), threading.Event())
    assert places == [tmp_path / "cache" / "slurm" / folder.name]
    source = Path(tlkit.__file__).parent
    unpickling = {p.name for p in source.rglob("*.py") if "import pickle" in p.read_text()}
    assert unpickling == {"torch_files.py"}


PLUGIN = """
import tlkit
@tlkit.part("mine")
class Mine(tlkit.ClassWeights):
    def for_counts(self, counts):
        return {name: 1.0 for name in counts}
"""


def test_a_node_whose_plugin_file_is_another_one_does_not_run_it(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PLUGIN)
    (tmp_path / "a.toml").write_text(
        f"{QUICK}\nclass_weights.name = 'mine'\nplugins.modules = ['parts.py']\n"
    )
    (trial,) = tlkit.plan_trials(tmp_path / "a.toml").trials
    (tmp_path / "parts.py").write_text(f"{PLUGIN}\nraise SystemExit('it ran')\n")
    job = {
        "file": str(tmp_path / "a.toml"),
        "overrides": [],
        "out": str(tmp_path / "out"),
        "sha256": trial.sha256,
        "plugin_sha256": list(trial.experiment.plugins.sha256),
    }
    answer = worker.work(job)
    assert answer["exit_code"] == 3
    assert "parts.py: SHA-256 must be" in answer["error"]
    assert not (tmp_path / "out").exists()


HEAD = """
import sys, time
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
print(cluster.address, flush=True)
sys.stdin.read()
"""
REAL = QUICK.replace(
    'head = { name = "pooled" }', 'head = { name = "pooled" }\nfit = { epochs = 2 }'
)


@pytest.mark.slow
def test_a_cluster_whose_head_node_is_lost_leaves_a_sweep_that_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    psutil = pytest.importorskip("psutil", reason="finds the processes of the head node")
    (tmp_path / "quick.toml").write_text(REAL)
    variables = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "TLKIT_CACHE": str(tmp_path / "c"),
                 "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # fmt: skip
    tlkit_sweep = [sys.executable, "-m", "tlkit", "sweep"]
    with subprocess.Popen([sys.executable, "-c", HEAD], env=variables, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as head:  # fmt: skip
        assert head.stdout is not None
        address = next(line for line in head.stdout if ":" in line).strip()
        arguments = ["quick.toml", "--seeds", "0-2", "--out", "lost", "--workers", f"ray:{address}"]
        driver = subprocess.Popen([*tlkit_sweep, *arguments], cwd=tmp_path, env=variables)
        while not made(tmp_path / "lost"):
            assert driver.poll() is None
            time.sleep(0.1)
        for one in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
            one.kill()
    assert driver.wait(120) != 0  # it has waited for the head node to come back
    before = made(tmp_path / "lost")
    assert before
    for more in (["--resume", "lost"], ["quick.toml", "--seeds", "0-2", "--out", "alone"]):
        subprocess.run([*tlkit_sweep, *more, "--threads", "1"], cwd=tmp_path, env=variables,
                       check=True)  # fmt: skip
    assert before.items() <= made(tmp_path / "lost").items()
    assert table(tmp_path / "lost") == table(tmp_path / "alone")
