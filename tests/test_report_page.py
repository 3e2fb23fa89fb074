"""Our pages in a browser: at two widths, light and dark, by axe-core's rules."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from tests.finished_runs import HOSTILE, made_up

from tlkit.config.experiment import ModelCard
from tlkit.reports.compare import Answer, ComparedRun, Comparison, paired
from tlkit.reports.gallery import Gallery, Pair, Picture, data_url
from tlkit.reports.report import report
from tlkit.runfolder.record import RunRecord
from tlkit.sweeps.charts import sweep_chart
from tlkit.sweeps.page import sweep_page
from tlkit.sweeps.results import Sweep
from tlkit.sweeps.summary import Outcome
from tlkit.sweeps.trials import Variant

SCRIPT = Path(__file__).parent / "page_check.mjs"
PACKAGES = ("playwright-core@1.65.1", "axe-core@4.14.1")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or ""
NODE, NPM = shutil.which("node") or "", shutil.which("npm") or ""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and NODE and NPM), reason="needs chromium, node and npm"),
]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what drives the browser and what checks the page."""
    folder = tmp_path_factory.mktemp("node")
    command = [NPM, "install", "--silent", "--no-save", "--prefix", str(folder), *PACKAGES]
    if subprocess.run(command, check=False, timeout=300).returncode:
        pytest.skip("npm cannot fetch playwright-core and axe-core")
    return folder


def pictures(run: RunRecord) -> Gallery:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    shown = [Picture(one, data_url(pixels), data_url(pixels)) for one in run.judged[:6]]
    wrong = Pair(run.classes[0], run.classes[1], 3, 9, tuple(shown[:3]))
    return Gallery(worst=tuple(shown[:4]), right=tuple(shown[4:]), pairs=(wrong,))


PAPER = {"source": "paper", "confusion": [[61, 36, 3], [3, 91, 6], [0, 3, 28]]}
MANY = [f"class {number}" for number in range(12)]
RUNS: dict[str, Callable[[], RunRecord]] = {
    "usual": lambda: made_up(reference=[PAPER], card=ModelCard(not_for="Not for diagnosis.")),
    "hostile": lambda: made_up(
        HOSTILE, (9, 9, 9, 9), name=HOSTILE[3], names=HOSTILE[3] + "{split}{number}"
    ),
    "many classes": lambda: made_up(MANY, [3] * 12, skill=3),
}


def compared(run: RunRecord, name: str) -> ComparedRun:
    """Return a run as `tlkit compare` reads it."""
    return ComparedRun(
        name=name,
        settings={"fit.epochs": str(len(run.history)), "data.path": f'"{name}"'},
        split="test",
        scores=run.scores,
        history=run.history,
        answers={one.path: Answer(one.label, one.predicted) for one in run.judged},
        trained_on=frozenset(),
    )


def comparison_page() -> str:
    runs = [compared(RUNS["usual"](), "runs/one"), compared(made_up(seed=2, epochs=9), HOSTILE[3])]
    return Comparison(tuple(runs), (paired(*runs),)).page()


def report_page(make: Callable[[], RunRecord]) -> str:
    run = make()
    return report(run, pictures(run))


def made_up_sweep() -> str:
    outcomes = []
    for number, (name, seed) in enumerate(itertools.product("ab", (0, 1)), start=1):
        run = made_up(seed=number)
        plan = SimpleNamespace(stand_in="shapes", classes=run.classes)
        experiment = SimpleNamespace(reference=run.experiment.reference)
        variant = Variant(Path("study.toml"), {"head.name": name})
        trial: Any = SimpleNamespace(
            name=f"{number:03d}-study", label=variant.label, variant=variant, seed=seed, fold=None,
            plan=plan, experiment=experiment,
        )  # fmt: skip
        confusions = {"val": run.scores.confusion, "test": run.scores.confusion}
        outcomes.append(
            Outcome(trial=trial, status="done", split="test", classes=run.classes,
                    confusions=confusions)
        )  # fmt: skip
    failed = evolve(outcomes[-1], status="failed", error=HOSTILE[1], confusions={})
    trials: Any = SimpleNamespace(
        file=Path("study.toml"), trials=tuple(o.trial for o in outcomes),
        variants=(outcomes[0].trial.variant, outcomes[2].trial.variant), swept=("head.name",),
        notes=(HOSTILE[0],),
    )  # fmt: skip
    sweep = Sweep.of(Path("nowhere"), trials, [*outcomes[:-1], failed])
    return sweep_page(sweep, sweep_chart(sweep.summaries, trials.swept))


PAGES: dict[str, Callable[[], str]] = {
    **{name: partial(report_page, make) for name, make in RUNS.items()},
    "comparison": comparison_page,
    "sweep": made_up_sweep,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_browser_and_axe_find_nothing_wrong(name: str, modules: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(PAGES[name](), encoding="utf-8")
    done = subprocess.run(
        [NODE, str(SCRIPT), str(page), str(modules), BROWSER],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == ""


def test_the_check_finds_what_is_wrong(modules: Path, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><html><body><p style="color:#ccc;width:2000px">pale</p>'
        '<img src="http://127.0.0.1:9/x.png"><script>console.log("hello")</script></body></html>',
        encoding="utf-8",
    )
    done = subprocess.run(
        [NODE, str(SCRIPT), str(page), str(modules), BROWSER],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    for text in ("console: hello", "request: http", "overflow", "without alt", "color-contrast"):
        assert text in done.stdout
