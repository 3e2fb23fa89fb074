"""Runs side by side: the key that differs, the images they share, and whether it is chance."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import rewrite, unseal

import tlkit
from tlkit.metrics.scoring import score_predictions
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.heads import Pooled
from tlkit.parts.optimizers import Adam
from tlkit.parts.shapes import Shapes
from tlkit.reports.compare import (
    Answer,
    ComparedRun,
    Comparison,
    Difference,
    comparison_page,
    differences,
    flatten,
    mcnemar,
    metric_table,
    notes,
    paired,
    read_run,
)

pytestmark = pytest.mark.usefixtures("slim_vgg")


def recorded(
    name: str, answers: Mapping[str, Answer], trained_on: frozenset[str] = frozenset(), **more: Any
) -> ComparedRun:
    """A run as its folder would say it."""
    made = ComparedRun(
        name=name,
        settings={},
        split="test",
        scores=score_predictions([0, 1], [0, 1], ("a", "b")),
        history=(),
        answers=answers,
        trained_on=trained_on,
    )
    return evolve(made, **more)


def answers(right: str, patients: str = "") -> dict[str, Answer]:
    """Images `0`, `1`, … of class a, for each `1` in `right` classified rightly."""
    return {
        str(number): Answer("a", "a" if sign == "1" else "b", patients[number : number + 1])
        for number, sign in enumerate(right)
    }


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_statsmodels(only_first: int, only_second: int) -> None:
    statsmodels = pytest.importorskip("statsmodels.stats.contingency_tables")
    expected = 1.0
    if only_first + only_second:
        table = [[7, only_first], [only_second, 11]]
        expected = statsmodels.mcnemar(table, exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(expected)


def test_mcnemar_is_the_two_tails_of_fair_coins() -> None:
    tail = 1 + 21 + 210 + 1330 + 5985 + 20349  # ways of 21 coins with 0 to 5 heads
    assert mcnemar(5, 16) == mcnemar(16, 5) == pytest.approx(2 * tail / 2**21)
    assert mcnemar(0, 0) == 1


def test_two_runs_are_compared_on_the_images_both_are_judged_by() -> None:
    first = recorded("one", answers("1110010"))
    second = recorded("two", answers("1101110") | {"7": Answer("a", "a")})
    found = paired(first, second)
    assert found is not None
    assert (found.images, found.only_first, found.only_second) == (7, 1, 2)
    assert found.difference == pytest.approx(1 / 7)
    assert found.interval is not None
    assert found.interval.low <= found.difference <= found.interval.high
    assert (found.unit, found.p) == ("image", 1)


def test_an_image_with_another_label_is_another_image() -> None:
    second = answers("11") | {"1": Answer("b", "b")}
    found = paired(recorded("one", answers("11")), recorded("two", second))
    assert found is not None
    assert found.images == 1
    assert paired(recorded("one", answers("1")), recorded("two", {})) is None


def test_patients_are_drawn_whole() -> None:
    """Ten images of one patient say no more than one, so the interval is wide."""
    right, wrong = "1" * 10 + "0" * 10, "0" * 10 + "1" * 10
    patients = "p" * 10 + "q" * 10
    by_image = paired(recorded("one", answers(right)), recorded("two", answers(wrong)))
    by_patient = paired(
        recorded("one", answers(right, patients)), recorded("two", answers(wrong, patients))
    )
    assert by_image is not None
    assert by_patient is not None
    assert by_patient.unit == "patient"
    assert by_patient.interval is not None
    assert by_image.interval is not None
    assert (by_patient.interval.low, by_patient.interval.high) == (-1, 1)
    assert -0.7 < by_image.interval.low < by_image.interval.high < 0.7


def test_the_interval_covers_the_true_difference() -> None:
    """Nominal 95 %: of 300 pairs of runs on 100 images with a true difference of 0.1."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        kinds = random.choice(3, 100, p=[0.15, 0.6, 0.25])  # only one right, both, only two
        first = recorded("one", answers("".join("110"[kind] for kind in kinds)))
        second = recorded("two", answers("".join("011"[kind] for kind in kinds)))
        found = paired(first, second)
        assert found is not None
        assert found.interval is not None
        inside += found.interval.low <= 0.1 <= found.interval.high
    assert 0.91 <= inside / 300 <= 0.98


def test_runs_that_say_the_same_differ_by_nothing() -> None:
    found = paired(recorded("one", answers("110")), recorded("two", answers("110")))
    assert found is not None
    assert (found.difference, found.interval, found.p) == (0, None, 1)


def test_settings_that_differ_are_named_in_order() -> None:
    one = {"seed": 0, "head": {"name": "pooled", "units": [4]}, "fit": {"epochs": 1}}
    two = {"seed": 0, "head": {"name": "linear"}, "fit": {"epochs": 2}}
    runs = [recorded(name, {}, settings=flatten(table)) for name, table in (("1", one), ("2", two))]
    assert differences(runs) == (
        Difference("head.name", ('"pooled"', '"linear"')),
        Difference("head.units", ("[4]", "-")),
        Difference("fit.epochs", ("1", "2")),
    )


def test_what_makes_a_comparison_unfair_is_said() -> None:
    one = recorded("one", answers("111"), frozenset({"9"}))
    others = score_predictions([0, 1], [0, 1], ("a", "c"))
    two = recorded("two", answers("1111"), frozenset({"0", "1"}), scores=others)
    three = recorded("three", {"8": Answer("a", "a")}, split="val", stand_in="shapes")
    assert notes([one, two, three]) == (
        "[2] has other classes than [1]",
        "[2] and [1] share 3 test images, of 4 and 3",
        "[2] was trained on 2 of the images that [1] was evaluated on",
        "[3] was trained on synthetic images (shapes)",
        "[3] was evaluated on val, [1] on test",
        "[3] and [1] share 0 test images, of 1 and 3",
        "p-values are not corrected for 2 comparisons",
    )
    assert notes([one, one]) == ()


def test_figures_stand_beside_each_other() -> None:
    one = recorded("one", {}, scores=score_predictions([0, 0, 1, 1], [0, 1, 1, 1], ("a", "b")))
    two = recorded("two", {}, scores=score_predictions([0, 0, 1, 1], [1, 1, 1, 1], ("a", "c")))
    found = dict(metric_table([one, two]))
    assert [text.split()[0] for text in found["accuracy"]] == ["75.0", "50.0"]
    assert found["a precision"] == ("100.0 % (20.7–100.0)", "undefined")
    assert found["b recall"][1] == found["c recall"][0] == "-"
    assert found["log loss"] == ("undefined", "undefined")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that differ in their learning rate alone."""
    top = tmp_path_factory.mktemp("compare")
    experiment = tlkit.Experiment(
        data=Shapes(train=6, val=3, test=6, image_px=32),
        backbone=VGG16(weights="none", image_size=32),
        head=Pooled(),
        optimizer=Adam(learning_rate=0.001),
        fit=tlkit.Fit(epochs=2, xla=False),
    )
    other = evolve(experiment, optimizer=Adam(learning_rate=0.1))
    return tlkit.run(experiment, top / "one").folder, tlkit.run(other, top / "two").folder


def test_two_runs_that_differ_in_one_key_name_it(two_runs: tuple[Path, Path]) -> None:
    runs = [read_run(path) for path in two_runs]
    assert differences(runs) == (Difference("optimizer.learning_rate", ("0.001", "0.1")),)
    assert notes(runs) == ()
    found = paired(*runs)
    assert found is not None
    assert found.images == len(runs[0].answers) == 6
    assert [len(run.history) for run in runs] == [2, 2]
    assert len(runs[0].trained_on) == 6
    assert not {"reference", "card"} & {key.partition(".")[0] for key in runs[0].settings}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "metrics.json").unlink(), r"the run is not finished, it has no"),
        (lambda folder: (folder / "manifest.csv").unlink(), r"it has no manifest\.csv"),
        (lambda folder: (folder / "history.csv").write_bytes(b"\xff"), r"cannot be read: "),
        (lambda folder: (folder / "history.csv").write_text("epoch\n1\n"), r"has no column"),
        (rewrite("metrics.json", lambda table: table.clear()), r"metrics\.json: classes: missing"),
        (rewrite("plan.json", lambda table: table.update(classes=3)), r"classes: expected"),
    ],
    ids=["unfinished", "absent", "no text", "other columns", "no metrics", "no classes"],
)  # fmt: skip
def test_a_folder_that_is_no_sound_run_is_refused(
    spoil: Callable[[Path], Any], message: str, two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(two_runs[0], tmp_path / "copy"))
    unseal(copy)
    spoil(copy)
    with pytest.raises(tlkit.RunFolderError, match=message):
        read_run(copy)


def test_the_page_needs_nothing_else_and_obeys_no_name(two_runs: tuple[Path, Path]) -> None:
    hostile = "<script>alert(1)</script>\u202e"
    one, two = (read_run(path) for path in two_runs)
    runs = [one, evolve(two, name=hostile, settings={**two.settings, "head.name": hostile})]
    page = comparison_page(runs, [paired(*runs)])
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=|url\(|https?://(?!www\.w3\.org)", page)
    assert page.index("head.name") < page.index("optimizer.learning_rate")
    assert page.count('class="line c1') == 1 + 3  # its key, and a curve in each of three charts
    assert comparison_page(runs, [None]).count("<td") == page.count("<td")


def test_the_page_is_written_whole(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    runs = [read_run(path) for path in two_runs]
    Comparison(tuple(runs), (paired(*runs),)).write(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text() == comparison_page(runs, [paired(*runs)])
