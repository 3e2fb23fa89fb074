"""A label that is missing is an error wherever labels are given, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tlkit
from tlkit.data.splits import is_missing
from tlkit.metrics.scoring import score, score_predictions

pd = pytest.importorskip("pandas")  # with statsmodels

MISSING = [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
HOLDERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "object array": lambda labels: np.array(labels, object),
    "series": lambda labels: pd.Series(labels, dtype=object),
    "frame column": lambda labels: pd.DataFrame({"y": pd.Series(labels, dtype=object)})["y"],
    "nullable series": lambda labels: pd.Series(
        [None if is_missing(label) else label for label in labels],
        dtype="string" if isinstance(labels[0], str) else "Int64",
    ),
    "categories": lambda labels: pd.Series(
        pd.Categorical([None if is_missing(label) else label for label in labels])
    ),
}
labels_with_a_gap = st.builds(
    lambda known, gap, place: [*known[:place], gap, *known[place + 1 :]],
    st.sampled_from([["a", "b", "a", "b", "a", "b"], [0, 1, 0, 1, 0, 1]]),
    st.sampled_from(MISSING),
    st.integers(1, 5),  # the first tells the kind
)
USES: dict[str, Callable[[Any], Any]] = {
    "class_weights": tlkit.class_weights,
    "sample_weights": lambda labels: tlkit.sample_weights(labels, {"a": 1.0, "b": 1.0, 0: 1, 1: 1}),
    "fit": lambda labels: tlkit.TransferClassifier().fit(PIXELS, labels),
    "FromImages": lambda labels: tlkit.FromImages(
        train=(PIXELS, labels), val=(PIXELS, [0, 1] * 3), classes=("a", "b")
    ).load(),
}


@pytest.mark.parametrize("use", USES)
@given(labels=labels_with_a_gap, holder=st.sampled_from([*HOLDERS]))
def test_a_missing_label_is_an_error(use: str, labels: list[Any], holder: str) -> None:
    held = HOLDERS[holder](labels)
    with pytest.raises((ValueError, tlkit.DataError), match=r"missing"):
        USES[use](held)


@given(labels=st.permutations([0, 1, 0, 1, 0, 1]), holder=st.sampled_from([*HOLDERS]))
def test_labels_that_are_all_there_are_accepted(labels: list[int], holder: str) -> None:
    held = HOLDERS[holder](labels)
    assert tlkit.class_weights(held) == {0: 1.0, 1: 1.0}
    assert tlkit.sample_weights(held, {0: 1.0, 1: 2.0}).tolist() == [1.0 + x for x in labels]


@pytest.mark.parametrize("wrong", [np.nan, None, 3, -1, 0.5])
def test_scores_need_a_class_number_per_image(wrong: Any) -> None:
    labels: Any = [0, 1, wrong]
    probabilities = np.full((3, 2), 0.5)
    message = r"missing|must be class numbers from 0 to 1"
    with pytest.raises(ValueError, match=message):
        score(labels, probabilities, ("a", "b"))
    with pytest.raises(ValueError, match=message):
        score([0, 1, 1], probabilities, ("a", "b"), predicted=labels)
    with pytest.raises(ValueError, match=message):
        score_predictions([0, 1, 1], labels, ("a", "b"))


def test_a_table_of_counts_is_no_list_of_labels() -> None:
    labels = pd.Series(["a", "b", "b"])
    for table in (labels.value_counts(), labels.value_counts(normalize=True)):
        with pytest.raises(ValueError, match=r"^labels: is a table of counts; use .*to_dict"):
            tlkit.class_weights(table)
    assert tlkit.class_weights(labels.value_counts().to_dict()) == tlkit.class_weights(labels)


def test_names_and_numbers_are_not_mixed() -> None:
    mixed: Any = [1, "1", 1]
    with pytest.raises(ValueError, match=r"^labels: must be all names or all numbers, got \[1, '1"):
        tlkit.class_weights(mixed)


def test_counts_have_a_name_each() -> None:
    with pytest.raises(ValueError, match=r"^labels: 1 missing"):
        tlkit.class_weights({"a": 2, None: 1})


def test_an_estimator_scores_no_missing_label() -> None:
    with pytest.raises(ValueError, match=r"^y: 1 missing \(None, NaN or NA\), the first "):
        tlkit.TransferClassifier().score(PIXELS, ["a", "b", None, "a", "b", "a"])
