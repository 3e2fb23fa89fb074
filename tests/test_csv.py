"""Every command that writes CSV marks formulas, and tlkit reads them back as they were."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fakes import ON_FOLDER
from typer.testing import CliRunner

from tlkit.cli import app
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import read_run
from tlkit.system.text import csv_text

pytestmark = pytest.mark.usefixtures("slim_vgg")

HOSTILE = "=1+1"
STUDY = f"""
{ON_FOLDER}
[fit]
epochs = 1
xla = false
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run on images whose class, file and experiment have the name of a formula."""
    top = tmp_path_factory.mktemp("csv")
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in (HOSTILE, "plain"):
            folder = top / "images" / split / label
            folder.mkdir(parents=True)
            for name in (f"{HOSTILE}.png", "other.png"):
                pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name)
    (top / f"{HOSTILE}.toml").write_text(STUDY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        run("run", f"./{HOSTILE}.toml", "--out", "run")
        yield top


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def table(text: str) -> list[list[str]]:
    rows = list(csv.reader(text.splitlines()))
    assert len(rows) > 1
    return rows


def guarded(text: str, *expected: str) -> None:
    """Check that no cell is a formula, and that the texts are what is read back."""
    cells = [cell for row in table(text) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]
    assert set(expected) <= {csv_text(cell) for cell in cells if cell.startswith("'")}


def test_the_tables_of_a_run_and_of_what_is_made_with_it(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study)
    for name in ("manifest.csv", "predictions.csv"):
        guarded((study / "run" / name).read_text(encoding="utf-8"), HOSTILE)
    record = read_run(RunFolder(study / "run"))
    assert record.classes == (HOSTILE, "plain")
    assert {example.label for example in record.manifest["test"]} == {HOSTILE, "plain"}
    assert {prediction.label for prediction in record.judged} == {HOSTILE, "plain"}

    monkeypatch.chdir(study / "images" / "test" / HOSTILE)
    image = f"{HOSTILE}.png"
    text = run("predict", "../../../run", image, "--format", "csv")
    guarded(text, image)
    run("predict", "../../../run", image, "--format", "csv", "--top", "2", "--out", "p.csv")
    guarded(Path("p.csv").read_text(encoding="utf-8"), image, HOSTILE)
    run("explain", "../../../run", image, "--class", HOSTILE, "--out", "explained")
    guarded(Path("explained/explanations.csv").read_text(encoding="utf-8"), image, HOSTILE)
    Path("p.csv").unlink()
    for path in Path("explained").iterdir():
        path.unlink()
    Path("explained").rmdir()

    monkeypatch.chdir(study)
    run("evaluate", "run", "--data", f"images/test/{HOSTILE}/..", "--out", "evaluated")
    guarded((study / "evaluated/predictions.csv").read_text(encoding="utf-8"), HOSTILE)


def test_a_split_of_data(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study / "images" / "train")
    run("data", "split", ".", "--out", "../../split.csv", "--val", "0.5", "--test", "0")
    text = (study / "split.csv").read_text(encoding="utf-8")
    guarded(text, HOSTILE)
    monkeypatch.chdir(study)
    done = CliRunner().invoke(app, ["data", "inspect", "split.csv"])
    assert HOSTILE in done.stdout


@pytest.mark.slow
def test_the_tables_of_a_sweep(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    run("sweep", f"./{HOSTILE}.toml", "--seeds", "0-1", "--out", "swept")
    for name in ("sweep.csv", "summary.csv"):
        text = (study / "swept" / name).read_text(encoding="utf-8")
        guarded(text, *([f"{HOSTILE}.toml"] if name == "sweep.csv" else [f"{HOSTILE} recall"]))
