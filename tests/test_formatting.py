"""One number with its interval reads the same wherever it is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.finished_runs import made_up

from tlkit.cli.predict import _sources_text
from tlkit.metrics.intervals import Interval, format_interval, format_share, format_value
from tlkit.reports.card import model_card
from tlkit.reports.compare import ComparedRun, comparison_page, metric_table
from tlkit.reports.console import scores_text
from tlkit.reports.gallery import Gallery
from tlkit.reports.report import report
from tlkit.reports.tables import metric_row
from tlkit.sweeps.page import sweep_page
from tlkit.sweeps.results import Sweep
from tlkit.sweeps.summary import Outcome
from tlkit.sweeps.text import sweep_text
from tlkit.sweeps.trials import Variant

RUN = made_up()
VALUE = format_value(RUN.scores.accuracy)
ENDS = format_interval(RUN.scores.intervals["accuracy"])
BOTH = format_share(RUN.scores.accuracy, RUN.scores.intervals["accuracy"])


def test_the_text_has_both_parts() -> None:
    assert f"{VALUE} ({ENDS})" == BOTH


def test_terminal_report_and_card_agree() -> None:
    assert f"accuracy {BOTH}" in scores_text("test", RUN.scores)
    page = report(RUN, Gallery(missing="they are gone"))
    assert f'>{VALUE}</data></td><td class="num">{ENDS}</td>' in page
    assert f"| accuracy | {VALUE} | {ENDS} |" in model_card(RUN)


def test_a_table_by_source_agrees() -> None:
    row = _sources_text({"a": RUN.scores}).splitlines()[1]
    assert row.split() == ["a", str(RUN.scores.images), *VALUE.split(), ENDS]


def test_a_comparison_agrees() -> None:
    run = ComparedRun(
        name="a", settings={}, split="test", scores=RUN.scores, history=RUN.history,
        answers={}, trained_on=frozenset(),
    )  # fmt: skip
    assert dict(metric_table([run, run]))["accuracy"] == (BOTH, BOTH)
    assert comparison_page([run, run], [None]).count(f">{BOTH}</td>") == 2


def test_a_sweep_of_one_run_agrees() -> None:
    plan = SimpleNamespace(stand_in="", classes=RUN.classes)
    trial: Any = SimpleNamespace(
        name="001-a", label="a", variant=Variant(Path("a.toml"), {}), seed=0, fold=None, plan=plan,
        experiment=SimpleNamespace(reference=()), parameters=(9, 3),
    )  # fmt: skip
    confusions = {"val": RUN.scores.confusion, "test": RUN.scores.confusion}
    outcome = Outcome(
        trial=trial, status="done", split="test", classes=RUN.classes, confusions=confusions
    )
    trials: Any = SimpleNamespace(
        file=Path("a.toml"),
        trials=(trial,),
        variants=(trial.variant,),
        swept=(),
        notes=(),
        search=None,
        waiting_draws=0,
    )
    sweep = Sweep.of(Path("nowhere"), trials, [outcome])
    assert f"best mean accuracy {VALUE};" in repr(sweep)
    row = next(line for line in sweep_text(sweep).splitlines() if line.startswith("1  a"))
    assert VALUE in row
    assert ENDS in row
    page = sweep_page(sweep, None)
    assert f'<td class="num">{VALUE}</td><td class="num">{ENDS}</td>' in page


def test_an_interval_below_the_axis_is_not_cut_off_in_a_picture() -> None:
    above, below = (Interval(low, 0.6, "bootstrap", 40) for low in (0.1, -0.035))
    assert metric_row("kappa", "Cohen's kappa", 0.3, above).plot
    row = metric_row("kappa", "Cohen's kappa", 0.3, below)
    assert (row.plot, row.ends) == ("", format_interval(below, percent=False))
