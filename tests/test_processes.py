"""Processes that make a sweep's runs: one that dies takes one run with it, and no more."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.finished_runs import metrics_table, write_pretended

import tlkit
from tlkit.sweeps import processes
from tlkit.sweeps.processes import Worker
from tlkit.sweeps.trials import fingerprint
from tlkit.system.lock import is_locked
from tlkit.train.checkpoint import Checkpoint

QUICK = """
data = { name = "shapes", train = 6, val = 3, test = 0, image_px = 32 }
backbone = { weights = "none", image_size = 32 }
head = { name = "pooled" }
fit = { epochs = 1, xla = false }
"""

# Stands for the process that makes runs, which takes seconds to start: it does what a job says.
SCRIPT = """
import json, os, signal, sys
for line in sys.stdin:
    job = json.loads(line)
    if "signal" in job:
        os.kill(os.getpid(), job["signal"])
    if "code" in job:
        sys.exit(job["code"])
    print(json.dumps({"process": os.getpid()}), flush=True)
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(processes, "COMMAND", ("-c", SCRIPT))
    with Worker() as found:
        yield found


def test_one_process_makes_several_runs(worker: Worker) -> None:
    assert len({worker({})["process"] for _ in range(3)}) == 1


def test_a_process_that_has_worked_long_enough_is_replaced(worker: Worker) -> None:
    worker.max_work_s = 0.0
    assert len({worker({})["process"] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("job", "error", "code"),
    [
        ({"signal": 9}, "the process was killed; was there too little memory?", 8),
        ({"signal": 11}, "the process ended with SIGSEGV", 1),
        ({"code": 3}, "the process ended with exit code 3", 1),
    ],
)
def test_a_process_that_dies_is_told_and_replaced(
    job: dict[str, int], error: str, code: int, worker: Worker
) -> None:
    first = worker({})["process"]
    assert worker(job) == {"error": error, "exit_code": code}
    assert worker({})["process"] != first


def test_it_leaves_no_process_behind(worker: Worker) -> None:
    worker({})
    process: Any = worker._process
    with worker:
        pass
    assert process.poll() == 0


@pytest.mark.slow
def test_the_real_one_makes_a_run_and_survives_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    job = {"file": str(file), "overrides": ["seed=3"], "sha256": ""}
    job["sha256"] = fingerprint(tlkit.load_experiment(file, ["seed=3"]))
    with Worker() as real:
        wrong = real({**job, "overrides": ["seed=-3"], "out": str(tmp_path / "wrong")})
        right = real({**job, "out": str(tmp_path / "right")})
    assert (wrong["exit_code"], "seed: must be from 0" in wrong["error"]) == (3, True)
    assert right == {}
    assert (tmp_path / "right" / "metrics.json").is_file()
    assert not (tmp_path / "wrong").exists()


PARENT = """
import sys, time
from tlkit.sweeps.processes import Worker
with Worker() as worker:
    print(worker({"file": sys.argv[1], "overrides": ["fit.epochs=1000"], "out": sys.argv[2],
                  "sha256": sys.argv[3]}))
"""


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_process_with_it_and_the_run_can_go_on(
    tmp_path: Path,
) -> None:
    file, out = tmp_path / "quick.toml", tmp_path / "run"
    file.write_text(QUICK)
    planned = fingerprint(tlkit.load_experiment(file, ["fit.epochs=1000"]))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file), str(out), planned])
    while not (out / "history.csv").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    while is_locked(out):
        time.sleep(0.01)
    newest = max((out / "checkpoints").iterdir())
    assert len(Checkpoint.read(newest).history) > 0
    assert (out / "unfinished.json").exists()


SWEEP_WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "keras_cv"):
    sys.modules[name] = None
from tlkit.cli import main
from tlkit.sweeps import processes
processes.COMMAND = ("-c", sys.argv.pop(1))
main()
"""
WRITES_METRICS = """
import json, os, shutil, sys
for line in sys.stdin:
    out = json.loads(line)["out"]
    os.mkdir(out)
    for name in ("metrics.json", "manifest.csv", "predictions.csv"):
        shutil.copy(name, out)
    print("{}", flush=True)
"""


def test_a_sweeps_own_process_does_not_import_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    table = metrics_table([[3, 1], [0, 2]], "ab")
    write_pretended(tmp_path, table)
    arguments = [WRITES_METRICS, "sweep", "quick.toml", "--seeds", "0-1"]
    done = subprocess.run(
        [sys.executable, "-c", SWEEP_WITHOUT_TENSORFLOW, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "83.3 %" in done.stdout
    assert (tmp_path / "sweeps" / "quick-1" / "sweep.html").is_file()
    assert (tmp_path / "sweeps" / "quick-1" / "accuracy.svg").is_file()
