"""`tlkit sweep`: what it prints where, its exit codes, and mistakes in how it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.finished_runs import metrics_table, write_pretended
from typer.testing import CliRunner, Result

import tlkit
from tlkit.cli import app
from tlkit.sweeps import executors
from tlkit.system.lock import locked

QUICK = """
data = { name = "shapes", train = 6, val = 3, test = 0, image_px = 32 }
backbone = { weights = "none", image_size = 32 }
head = { name = "pooled" }
"""


class Pretended:
    """Stands for the process that makes runs: it writes the metrics of a run, or fails."""

    def __init__(self, environment: Any) -> None: ...

    def close_input(self) -> None: ...

    def __enter__(self) -> Pretended:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        if "fit.epochs=9" in job["overrides"]:
            return {"error": "epoch 3: the training loss is nan", "exit_code": 9}
        if "fit.epochs=8" in job["overrides"]:
            raise KeyboardInterrupt
        Path(job["out"]).mkdir()
        right = 2 * int(job["overrides"][-1].partition("=")[2])
        table = metrics_table([[right, 10 - right], [0, 10]], "ab")
        write_pretended(Path(job["out"]), table)
        return {}


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(executors, "Worker", Pretended)
    monkeypatch.chdir(tmp_path)
    Path("quick.toml").write_text(QUICK)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


def test_tables_go_to_stdout_and_a_line_a_run_to_stderr() -> None:
    done = command("quick.toml", "--seeds", "3-5")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].split() == [
        "1", "quick", "3", "90.0", "%", "10.0", "%", "65.2–100.0", "90.0", "%",
    ]  # fmt: skip
    assert done.stdout.endswith("sweep folder: sweeps/quick-1\n")
    lines = done.stderr.splitlines()
    assert lines[0] == "3 runs of 1 variant, all planned; results in sweeps/quick-1"
    assert lines[1].startswith("[1/3] quick, seed 3: val accuracy 80.0 %")


def test_a_failed_run_is_told_and_gives_its_exit_code() -> None:
    done = command("quick.toml", "--seeds", "3", "--set", "fit.epochs=[1, 9]")
    assert done.exit_code == 9
    assert "failed: 1 of 2\n002-quick  quick, epochs 9, seed 3: epoch 3: the " in done.stdout
    assert "next: tlkit sweep --resume sweeps/quick-1" in done.stdout


def test_json_has_every_variant() -> None:
    done = command("quick.toml", "--seeds", "3,5", "--set", "fit.epochs=[1, 9]", "--json")
    found = json.loads(done.stdout)
    assert found["failed"].keys() == {"002-quick", "004-quick"}
    one, other = found["variants"]
    assert one["figures"]["accuracy"]["mean"] == 0.9
    assert other["figures"] == {}


def test_ctrl_c_says_how_to_go_on_and_what_is_finished_stays() -> None:
    done = command("quick.toml", "--seeds", "3", "--set", "fit.epochs=[1, 8]")
    assert done.exit_code == 130
    assert "interrupted; next: tlkit sweep --resume sweeps/quick-1" in done.stderr
    again = command("--resume", "sweeps/quick-1")
    assert "[1/2] quick, epochs 1, seed 3: val accuracy 80.0 %  (kept)" in again.stderr


def test_a_sweep_that_another_process_works_on_is_left_alone() -> None:
    command("quick.toml", "--seeds", "3")
    with locked(Path("sweeps/quick-1")):
        again = command("--resume", "sweeps/quick-1")
    assert isinstance(again.exception, tlkit.RunFolderError)
    assert str(again.exception).startswith("sweeps/quick-1: process ")
    assert str(again.exception).endswith(" is writing to it")
    assert command("--resume", "sweeps/quick-1").exit_code == 0


def test_a_dry_run_lists_the_runs_and_writes_nothing() -> None:
    done = command("quick.toml", "--seeds", "0-1", "--dry-run")
    assert [line.split()[:1] for line in done.stdout.splitlines()] == [
        ["run"], ["001-quick"], ["002-quick"],
    ]  # fmt: skip
    assert [path.name for path in Path().iterdir()] == ["quick.toml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a file or one of --resume"),
        (
            ["--join", "sweeps/quick-1", "--resume", "sweeps/quick-1"],
            "give either a file or one of --resume",
        ),
        (["--resume", "sweeps/quick-1", "--seeds", "1"], "takes none of its options"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], message: str) -> None:
    done = command(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["quick.toml", "--seeds", "x"], tlkit.ConfigError, "--seeds: expected seeds such as"),
        (["quick.toml", "--set", "fit.epochs"], tlkit.ConfigError, "expected key=value in TOML"),
        (["none.toml"], tlkit.ConfigError, r"none\.toml: cannot be read"),
        (["--resume", "none"], tlkit.RunFolderError, "there is no such folder"),
    ],
)
def test_a_mistake_stops_it_before_anything_is_written(
    arguments: list[str], error: type[Exception], message: str
) -> None:
    done = command(*arguments)
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=message):
        raise done.exception
    assert [path.name for path in Path().iterdir()] == ["quick.toml"]
