"""Folders, pages, charts and progress: every command that has them does the same with them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.fakes import ON_FOLDER
from typer.testing import CliRunner, Result

import tlkit
from tlkit.cli import app
from tlkit.reports.progress import ProgressBar
from tlkit.reports.svg import STYLE
from tlkit.sweeps.text import Lines

pytestmark = pytest.mark.usefixtures("slim_vgg")

STUDY = f"""
{ON_FOLDER}
[fit]
epochs = 1
xla = false
"""
NEW = {  # what each command says may not exist yet
    "run study.toml": "--out",
    "lr-find study.toml": "--out",
    "sweep study.toml --seeds 0-1": "--out",
    "init": "--out",
    "data split images": "--out",
    "compare run run": "--out",
    "evaluate run --data images": "--out",
    "predict run images": "--out",
    "predict run images ": "--features",
    "explain run images": "--out",
    "export run": "--out",
    "info affine": "--preview",
}
WITH_BAR = {  # the first bar of each command that has one
    "data inspect images": "reading images",
    "data verify images": "reading images",
    "data split images --out images/new.csv": "reading images",
    "predict run images/test": "images",
    "explain run images/test --out explained": "images",
    "run study.toml --out again": "checking 8 images",
    "lr-find study.toml --steps 10 --out found": "checking 8 images",
}
NO_SUCH_LAYER = (  # every way to choose a layer
    "check study.toml --set freeze={name='layer_names',train=['nosuch']}",
    "check study.toml --set fit.epochs=2 --set freeze={name='head_then',train=['nosuch']}",
    "check study.toml --set head={name='probe',layer_names=['nosuch']}",
    "explain run images/test --layer nosuch --out never",
    "predict run images/test --layer nosuch --features never.npy",
)
LINES = (  # all that progress looks like where it cannot be drawn
    r"note: .+",
    r"! The accuracy of this run is not clearly better than .+",
    r"takes about .+",
    r"\d+ images: .+",  # what `predict` found, class by class
    r"images: \d+ train, \d+ val, \d+ test(; class weights: .+)?",
    r"weights: .+",
    r"(epoch \d+/\d+  )?frozen layers: .+",  # if they take long
    r"stage \d+: \d+ epochs?, [\d,]+ trainable parameters",
    r"epoch \d+/\d+  loss .+  accuracy .+, val .+",
    r"\d+ runs of \d+ variants?, all planned; results in .+",
    r"\[\d/\d\] .+  \(\d+ s(; about .+ left)?\)",
)


def run(command: str, *more: str) -> Result:
    return CliRunner().invoke(app, [*command.split(), *more])


def errors(done: Result) -> str:
    """Return the errors of a command; `main` prints those that are tlkit's own."""
    return f"{done.stderr} {done.exception}"


@pytest.fixture(scope="module", autouse=True)
def study(slim_vgg: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of eight images with its finished run, in the working directory."""
    top = tmp_path_factory.mktemp("agreement")
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for label in ("dark", "light"):
            (top / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32), np.uint8)
                Image.fromarray(pixels).save(top / f"images/{split}/{label}/{number}.png")
    (top / "study.toml").write_text(STUDY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        tlkit.run("study.toml", "run")
        yield top


@pytest.mark.parametrize(("command", "option"), NEW.items())
def test_what_exists_is_refused_in_the_same_words_and_stays(
    command: str, option: str, tmp_path: Path
) -> None:
    taken, given = tmp_path / "taken.html", tmp_path / "taken.html"
    if option == "--preview":
        taken, given = tmp_path / "affine.png", tmp_path
    taken.write_text("mine")
    done = run(command, option, str(given))
    assert done.exit_code != 0
    said = "".join(re.sub("[^\x20-\x7e]", "", errors(done)).split())  # no frame, no line breaks
    words = f"choose another with {option}, nothing is overwritten"
    assert "exists;" in said
    assert words.replace(" ", "") in said
    assert taken.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]


@pytest.mark.parametrize("command", NO_SUCH_LAYER)
def test_a_layer_that_is_not_there_is_refused_in_the_same_words(command: str) -> None:
    done = run(command)
    assert done.exit_code != 0
    assert "no layer or block matches 'nosuch'" in errors(done)
    assert not list(Path().glob("never*"))


@pytest.mark.slow
def test_folders_without_a_name_are_numbered_alike() -> None:
    for name in ("run-explain-1", "study-lr-find-1", "study-1"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "mine").touch()
    for command in ("explain run images/test", "lr-find study.toml --steps 10", "run study.toml"):
        assert run(command).exit_code == 0
    kinds = ("run-explain", "study-lr-find", "study")
    names = {path.name for path in Path("runs").iterdir()}
    assert names == {f"{kind}-{number}" for kind in kinds for number in (1, 2)}
    assert all([x.name for x in Path("runs", f"{k}-1").iterdir()] == ["mine"] for k in kinds)
    shutil.rmtree("runs")


@pytest.mark.parametrize(("command", "text"), WITH_BAR.items())
def test_progress_is_one_bar_on_a_terminal_and_plain_lines_through_a_pipe(
    command: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = ProgressBar.start

    def noted(self: ProgressBar, what: str, *more: Any) -> None:
        started.append(what)
        start(self, what, *more)

    monkeypatch.setattr(ProgressBar, "start", noted)
    piped = run(command)
    assert started[0] == text
    for line in piped.stderr.splitlines():
        assert any(re.fullmatch(form, line) for form in LINES), line
    for made in ("again", "found", "explained"):
        shutil.rmtree(made, ignore_errors=True)
    Path("images/new.csv").unlink(missing_ok=True)


def test_a_bar_is_drawn_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in run("data inspect images").stderr
    monkeypatch.setattr(Console, "is_terminal", True)
    assert "reading images" in run("data inspect images").stderr


def styles(page: str) -> list[str]:
    return re.findall(r"<style>(.*?)</style>", page, re.DOTALL)


def charts(page: str) -> list[str]:
    return re.findall(r"<svg [^>]*role=\"img\".*?</svg>", page, re.DOTALL)


@pytest.mark.slow
def test_pages_share_their_style_and_charts_are_drawn_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("compare run run --out compare.html").exit_code == 0
    tlkit.sweep("study.toml", "sweep", seeds="0-1", in_process=True, callback=Lines())
    for line in capsys.readouterr().err.splitlines():
        assert any(re.fullmatch(form, line) for form in LINES), line
    assert run("lr-find study.toml --steps 10 --out rates").exit_code == 0
    pages: dict[str, Any] = {
        name: Path(name).read_text(encoding="utf-8")
        for name in ("run/report.html", "compare.html", "sweep/sweep.html")
    }
    (style,) = styles(pages["run/report.html"])
    chart_style = STYLE.read_text(encoding="utf-8")
    assert chart_style in style
    heads = {page.partition("</title>")[2].partition("</style>")[0] for page in pages.values()}
    assert len(heads) == 1  # the policy and the style sheet
    rates = Path("rates/lr-find.svg").read_text(encoding="utf-8")
    assert chart_style in rates
    for page in (*pages.values(), rates.replace('xmlns="http://www.w3.org/2000/svg" ', "")):
        assert charts(page)
        for chart in charts(page):
            assert re.match(r'<svg viewBox="0 0 \d+ \d+" role="img" aria-labelledby="', chart)
            assert chart.count("<title id=") == chart.count("<desc id=") == 1
            assert not re.search(r'(?:fill|stroke|font-family|style)="', chart)
