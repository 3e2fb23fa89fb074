"""Real processes that are killed at random moments, and go on; memory over many runs."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes import small

import tlkit

BYTES = ("history.csv", "metrics.json", "predictions.csv", "weights.safetensors")
STUDY = f"""
{small(12, 6)}units = [8]
dropout = 0.5

[freeze]
name = "head_then"
head_epochs = 2
train = ["block5_conv3"]

[augmentation]
name = "affine"

[optimizer]
learning_rate = 0.01

[fit]
epochs = 5
batch_size = 4
xla = false
checkpoint_every_s = 0
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("study") / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def straight(study: Path) -> dict[str, bytes]:
    return contents(tlkit.run(study, study.parent / "straight").folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BYTES}


def started(study: Path, folder: Path) -> subprocess.Popen[str]:
    """Begin the run, or go on with it, in a process of its own, wherever that stands."""
    command = (
        ["resume", str(folder)] if folder.exists() else ["run", str(study), "--out", str(folder)]
    )
    return subprocess.Popen(
        [sys.executable, "-m", "tlkit", *command],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": str(random.randrange(2**32)), "LC_ALL": "C"},
    )


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    return iter(process.stderr.readline, "")


def test_a_run_is_terminated_then_killed_and_ends_with_the_same_bytes(
    study: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = started(study, folder)
    for line in lines(process):
        if line.startswith("epoch 2/5"):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate()
    assert (process.returncode, out) == (143, "")
    assert err.splitlines()[-1].endswith(f" of 5; continue with: tlkit resume {folder}")
    assert "Traceback" not in err
    process = started(study, folder)
    for line in lines(process):
        if line.startswith("epoch 4/5"):
            process.kill()
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "metrics.json").exists()
    tlkit.resume(folder)
    assert contents(folder) == straight


@pytest.mark.slow
def test_a_run_survives_the_end_of_whoever_reads_what_it_says(
    study: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    process = started(study, tmp_path / "run")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.readline()
    process.stderr.close()
    assert process.wait() == 0
    assert contents(tmp_path / "run") == straight
    assert not (tmp_path / "run" / "unfinished.json").exists()


@pytest.mark.slow
def test_a_terminal_that_is_closed_leaves_a_run_that_can_go_on(
    study: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    terminal, inner = pty.openpty()
    arguments = ["run", str(study), "--out", str(tmp_path / "run")]
    code = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
    code += "os.execv(sys.executable, [sys.executable, '-m', 'tlkit', *sys.argv[1:]])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    said = b""
    while b"epoch 2/5" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert process.wait() == 129
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    tlkit.resume(tmp_path / "run")
    assert contents(tmp_path / "run") == straight


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_is_killed_at_random_moments(
    seed: int, study: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    """Each process is given a little longer than the last, until one comes to the end."""
    moment = random.Random(seed)
    folder = tmp_path / "run"
    kills, patience = 0, 4.0
    while not (folder / "metrics.json").exists() or (folder / "unfinished.json").exists():
        process = started(study, folder)
        try:
            process.communicate(timeout=moment.uniform(0.3, 1) * patience)
            assert process.returncode == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills, patience = kills + 1, patience + 1
    assert kills
    assert contents(folder) == straight


@pytest.mark.slow
def test_thirty_runs_in_one_process_take_no_more_memory_than_ten(
    study: Path, tmp_path: Path
) -> None:
    """Without XLA, whose compiled steps stay in the process, about 10 MB a run."""

    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    taken = []
    for number in range(30):
        tlkit.run(study, tmp_path / str(number), overrides=["fit.epochs=3", "fit.xla=false"])
        taken.append(resident_mb())
    # The least of five: how many models wait to be collected differs from run to run.
    assert min(taken[-5:]) - min(taken[5:10]) < 150, [round(value) for value in taken]
