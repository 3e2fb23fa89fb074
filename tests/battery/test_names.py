"""Odd names of files and classes, and any terminal: shown harmlessly, read back as they were."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlkit.cli import main
from tlkit.system.text import csv_text

# On disk, a name has no slash and no NUL; anything else it may have.
CLASSES = ("=cmd|' '!A1", "<img src=x onerror=alert(1)>", "new\nline \x1b[31m", "\u202egnp", "@é")
FILES = (
    "=1+1.png",
    "-rf.png",
    "two words.png",
    "line\nbreak.png",
    "\x1b[2J\x9b31m.png",
    "\u202egnp.png",
    "😀 cafe\u0301.png",
    "x" * 251 + ".png",
    '"quoted", it\'s.png',
)
SOURCE = str(Path(__file__).parent.parent.parent / "src")
PLANTED = "planted-7f3a"  # in the home folder, the user's name and the environment
STUDY = """
data = {name = "folder", path = "data"}
backbone = {weights = "none", image_size = 32}
head.name = "pooled"
fit = {epochs = 1, batch_size = 8, xla = false}
"""


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tlkit` as a stranger's process in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "tlkit", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run on images and classes with odd names, in a home of a planted name."""
    home = tmp_path_factory.mktemp("homes") / PLANTED
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in CLASSES:
            folder = home / "study" / "data" / split / label
            folder.mkdir(parents=True)
            for name in FILES if label == CLASSES[0] else FILES[:1]:
                Image.fromarray(random.integers(0, 256, (40, 40), np.uint8)).save(folder / name)
    (home / "study" / "study.toml").write_text(STUDY)
    environment = {"HOME": str(home), "USER": PLANTED, "LOGNAME": PLANTED, "SECRET": PLANTED}
    environment |= {"TMPDIR": str(home), "TLKIT_CACHE": str(home / "cache")}
    done = command(home / "study", "run", str(home / "study" / "study.toml"), **environment)
    assert done.returncode == 0, done.stderr
    return home / "study", done


def test_odd_names_go_through_a_run_and_come_back(
    ran: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = ran
    for text in (done.stdout, done.stderr):
        assert all(line.isprintable() for line in text.split("\n"))
    assert r"new\nline \x1b[31m" in done.stdout
    assert r"\u202egnp" in done.stdout
    run = folder / "runs" / "study-1"
    for table, key in (("manifest.csv", "sha256"), ("predictions.csv", "predicted")):
        with (run / table).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert all(row[key] for row in rows)
        for row in rows:
            assert not any(cell.startswith(tuple("=+-@\t")) for cell in row.values())
        found = {(csv_text(row["path"]), csv_text(row["label"])) for row in rows}
        assert {f"val/{CLASSES[0]}/{name}" for name in FILES} <= {path for path, _ in found}
        assert {label for _, label in found} == set(CLASSES)
    again = ("check", "study.toml", "--set",
             'data={name="manifest", path="runs/study-1/manifest.csv", root="data"}',
             "--json")  # fmt: skip
    planned = json.loads(command(folder, *again).stdout)
    assert planned["classes"] == sorted(CLASSES)
    assert planned["counts"]["train"][CLASSES[0]] == len(FILES)


def test_predictions_of_odd_names_are_harmless_in_every_form(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = ran
    monkeypatch.chdir(folder / "data" / "val" / CLASSES[0])
    run = str(folder / "runs" / "study-1")
    for form in ("table", "csv", "json"):
        monkeypatch.setattr(
            "sys.argv", ["tlkit", "predict", run, "--format", form, "--", *FILES, "no\x1b.png"]
        )
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert ended.value.code == 4
        told = err.rstrip("\n").split("\n")
        assert "no\\x1b.png: No such file or directory" in told
        assert all(line.isprintable() for line in told)
        assert told[-1] == "1 of 10 left out"
        if form == "csv":
            rows = list(csv.DictReader(io.StringIO(out, newline="")))
            assert [csv_text(row["path"]) for row in rows] == list(FILES)
            assert rows[0]["path"] == "'=1+1.png"
        else:
            assert all(line.isprintable() for line in out.split("\n"))
            rows_out = len(json.loads(out)) - 1 if form == "json" else out.count("\n") - 1
            assert rows_out == len(FILES)  # and JSON has an entry for what was rejected


def test_a_run_folder_does_not_tell_whose_it_is(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ran
    names = sorted((folder / "runs" / "study-1").iterdir())
    assert {"environment.json", "experiment.json", "metrics.json"} <= {path.name for path in names}
    for path in names:
        if path.is_file():
            content = path.read_bytes()
            assert PLANTED.encode() not in content, path.name
            assert str(folder).encode() not in content, path.name
            assert os.uname().nodename.encode() not in content or len(os.uname().nodename) < 4


def test_evaluating_twice_changes_nothing(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = ran
    run, data = str(folder / "runs" / "study-1"), str(folder / "data")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    heard = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["tlkit", "evaluate", run, "--data", data, "--json"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        heard.append(capfd.readouterr().out)
    assert heard[0] == heard[1]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_class_names_become_no_file_names(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ran
    run = folder / "runs" / "study-1"
    for path in run.rglob("*"):
        assert not any(name in path.name for name in (*CLASSES, "img", "cmd"))


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1"},
        {"TERM": "dumb"},
        {"COLUMNS": "20"},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        {"PYTHONUTF8": "0", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda environment: " ".join(environment),
)
def test_any_terminal_is_written_to(
    environment: dict[str, str], ran: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = ran
    drawn = 'data={name="shapes", classes=["one", "two", "three"]}'
    done = command(folder, "check", "study.toml", "--set", drawn, **environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "scores" in done.stdout
    wrong = command(folder, "check", "none – ñ.toml", **environment)
    assert wrong.returncode == 3
    assert "Traceback" not in wrong.stderr
