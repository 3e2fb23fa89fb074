"""Published results beside ours; the study's own paper, read closely."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.config.experiment import Experiment, PublishedResult
from tlkit.config.toml import load_experiment
from tlkit.metrics.intervals import wilson
from tlkit.metrics.published import (
    Share,
    figure_names,
    figures,
    reference_figures,
    reference_rows,
    remarks,
    rounds_to,
)
from tlkit.metrics.scores import Scores
from tlkit.metrics.scoring import score_confusion
from tlkit.system.errors import FieldError

STUDY = Path(__file__).parent.parent / "examples" / "covidx"
CLASSES = ("normal", "pneumonia", "covid-19")
PAPER = ((61, 36, 3), (3, 91, 6), (0, 3, 28))  # experiment 3, figure 8


def study(number: int) -> tuple[Experiment, Scores]:
    """Return one of the study's experiments, and the scores of the paper's confusion matrix."""
    experiment = load_experiment(STUDY / f"exp{number}.toml")
    confusion = experiment.reference[0].confusion
    assert confusion is not None
    assert experiment.data.classes == CLASSES
    return experiment, score_confusion(confusion, CLASSES)


@pytest.mark.parametrize(
    ("number", "accuracy", "precision", "recall"),
    [(1, 83.5, 100, 22.6), (2, 43.3, None, 0), (3, 77.9, 75.7, 90.3), (4, 43.3, None, 0)],
)
def test_the_papers_four_matrices_give_the_papers_figures(
    number: int, accuracy: float, precision: float | None, recall: float
) -> None:
    """Accuracy, and precision and recall of COVID-19; who is never predicted has no precision."""
    _, scores = study(number)
    covid = scores.per_class["covid-19"]
    assert (scores.images, covid.support) == (231, 31)
    assert round(100 * scores.accuracy, 1) == accuracy
    assert covid.recall is not None
    assert round(100 * covid.recall, 1) == recall
    found = None if covid.precision is None else round(100 * covid.precision, 1)
    assert found == precision


def impossible(number: int) -> dict[str, str]:
    """Return what cannot be of the results that an experiment cites, by their sources."""
    experiment, scores = study(number)
    found = {one.source: remarks(scores, one) for one in experiment.reference}
    return {source: some[0].partition(":")[0] for source, some in found.items() if some}


def test_what_table_5_says_cannot_come_from_231_images() -> None:
    """Figure 6 shows 83.5 % where Table 5 says 86.9 %; 201 right ones would be 87.0 %."""
    table_5 = "paper, Table 5, which differs"
    assert impossible(1) == {table_5: "accuracy 86.9 % is not a share of 231 images"}
    for number in (2, 4):
        assert impossible(number) == {table_5: "accuracy 43.4 % is not a share of 231 images"}


def test_the_other_published_figures_can_be() -> None:
    assert impossible(3) == {}


@given(data=st.data(), n=st.integers(1, 400), digits=st.integers(1, 4))
def test_a_rounded_share_can_be_whatever_it_is_rounded_to(
    data: st.DataObject, n: int, digits: int
) -> None:
    hits = data.draw(st.integers(0, n))
    assert rounds_to(Share(round(hits / n, digits), n))


def test_a_result_differs_beyond_chance_or_it_does_not() -> None:
    """COVID-Net's 92.6 % of the same 231 images, against the paper's 77.9 %."""
    experiment, scores = study(3)
    rows = {row.name: row for row in reference_rows(scores, experiment.reference[1])}
    assert list(rows) == ["accuracy", "covid-19 recall"]
    assert rows["accuracy"].theirs == Share(0.926, 231)
    assert rows["accuracy"].verdict == "beyond chance"
    assert rows["covid-19 recall"].theirs.n == 31
    assert rows["covid-19 recall"].verdict == "within chance"
    assert rows["covid-19 recall"].theirs.interval == wilson(0.871, 31)


def test_a_result_is_within_chance_of_itself() -> None:
    experiment, scores = study(3)
    assert {row.p for row in reference_rows(scores, experiment.reference[0])} == {1.0}


def test_a_result_on_other_images_has_no_size_and_no_verdict() -> None:
    experiment, scores = study(3)
    (row,) = reference_rows(scores, experiment.reference[2])
    assert (row.theirs, row.p, row.verdict) == (Share(0.982, None), None, "")
    assert row.theirs.interval is None


def test_a_precision_without_a_matrix_is_of_an_unknown_number() -> None:
    """How many images somebody else called so is not published."""
    _, scores = study(3)
    (row,) = reference_rows(scores, PublishedResult(source="paper", precision={"normal": 0.95}))
    assert (row.theirs.n, row.verdict) == (None, "")


def test_ours_may_be_undefined_where_theirs_is_not() -> None:
    experiment, _ = study(3)
    nothing = score_confusion([[0, 100, 0], [0, 100, 0], [0, 31, 0]], CLASSES)
    rows = {row.name: row for row in reference_rows(nothing, experiment.reference[0])}
    assert rows["covid-19 precision"].ours == Share(None, 0)
    assert rows["covid-19 precision"].verdict == ""
    assert rows["covid-19 recall"].verdict == "beyond chance"


def test_a_reference_has_the_figures_of_its_matrix() -> None:
    found = reference_figures(PublishedResult(source="paper", confusion=PAPER), CLASSES)
    assert found == figures(score_confusion(PAPER, CLASSES))
    assert tuple(found) == figure_names(CLASSES)


def test_figures_given_by_name_stand_before_those_of_the_matrix() -> None:
    reference = PublishedResult(
        source="paper", confusion=PAPER, accuracy=0.5, precision={"normal": 0.25}
    )
    found = reference_figures(reference, CLASSES)
    assert (found["accuracy"], found["normal precision"]) == (0.5, 0.25)
    assert found["covid-19 recall"] == 28 / 31


def test_a_reference_without_a_matrix_leaves_the_rest_open() -> None:
    found = reference_figures(PublishedResult(source="abstract", recall={"normal": 1.0}), CLASSES)
    assert {name: value for name, value in found.items() if value is not None} == {
        "normal recall": 1.0
    }


@pytest.mark.parametrize("confusion", [((0, 0, 0),) * 3, ()], ids=["all zero", "no rows"])
def test_a_matrix_without_images_is_refused_before_anything_is_scored(
    confusion: tuple[tuple[int, ...], ...],
) -> None:
    with pytest.raises(FieldError, match=r"^confusion: "):
        PublishedResult(source="nobody", confusion=confusion)
