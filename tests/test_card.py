"""The model card: whole, honest about what nobody said, and harmless Markdown."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from attrs import fields
from tests.finished_runs import HOSTILE, made_up

from tlkit.config.experiment import ModelCard
from tlkit.reports.card import model_card
from tlkit.reports.page import markdown
from tlkit.runfolder.record import RunRecord


@pytest.fixture(scope="module")
def run() -> RunRecord:
    return made_up()


def test_what_nobody_said_is_not_provided(run: RunRecord) -> None:
    text = model_card(run)
    assert text.count("not provided") == len(fields(ModelCard))
    assert "Few test images: covid-19 \\(31\\)" in text


@pytest.mark.parametrize("key", [field.name for field in fields(ModelCard)])
def test_every_key_of_the_card_is_in_it(key: str) -> None:
    text = model_card(made_up(card=ModelCard(**{key: "said by\nthe study"})))
    assert "said by the study" in text
    assert text.count("not provided") == len(fields(ModelCard)) - 1


def test_its_figures_are_those_of_the_metrics(run: RunRecord) -> None:
    text = model_card(run)
    accuracy, interval = run.scores.accuracy, run.scores.intervals["accuracy"]
    assert interval is not None
    ends = f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"
    assert f"| accuracy | {100 * accuracy:.1f} % | {ends} |" in text
    for name, row in zip(run.classes, run.scores.confusion, strict=True):
        assert f"| {name} | {' | '.join(map(str, row))} |" in text


def test_every_table_has_as_many_cells_in_each_row(run: RunRecord) -> None:
    lines = model_card(run).splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|")


def test_names_from_strangers_are_text_and_nothing_else() -> None:
    run = made_up(classes=HOSTILE, counts=(9, 9, 9, 9), card=ModelCard(contact=HOSTILE[1]))
    text = model_card(run)
    assert not re.search(r"(?<!\\)<|\u202e|\x1b", text)


def test_marks_of_markdown_are_escaped() -> None:
    assert markdown("a|b\n# [x](y) <b>") == r"a\|b\\n\# \[x\]\(y\) \<b\>"


@pytest.mark.parametrize("classes", [30, 31, pytest.param(300, marks=pytest.mark.slow)])
def test_a_card_of_many_classes_stays_readable(classes: int) -> None:
    names = [f"species-{number:03d}" for number in range(classes)]
    text = model_card(made_up(classes=names, counts=[3] * classes, epochs=1))
    assert len(text) < 40_000
    assert max(map(len, text.splitlines())) < 1_000
    assert ("Confusion matrix" in text) == (classes <= 30)
    assert (f"and {classes - 30} more." in text) == (classes > 30)
    assert text.count("Recall") <= 30
