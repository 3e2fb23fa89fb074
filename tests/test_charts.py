"""The curves of the report's charts are scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from tlkit.reports.charts import precision_recall_curve, roc_curve

SCORED = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])))


@given(SCORED.map(lambda rows: [(True, 0.3), *rows, (False, 0.3)]))
def test_curves_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    positive = np.array([row[0] for row in rows])
    score: Any = np.array([row[1] for row in rows])
    false, true = roc_curve(positive, score)
    np.testing.assert_array_equal([false, true], oracle.roc_curve(positive, score)[:2])

    recall, precision = precision_recall_curve(positive, score)
    expected = oracle.precision_recall_curve(positive, score)
    first = int((expected[1] == 1).sum()) - 1
    np.testing.assert_array_equal(precision, expected[0][first:-1])
    np.testing.assert_array_equal(recall, expected[1][first:-1])
