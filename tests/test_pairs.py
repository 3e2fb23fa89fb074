"""Variants against the best one: on the same images, by patient, corrected for many pairs."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control

from tlkit.reports.compare import Answer as NamedAnswer
from tlkit.reports.compare import paired_answers
from tlkit.sweeps.folder import SweepFolder
from tlkit.sweeps.page import _other_pairs, _write_pairs
from tlkit.sweeps.pairs import Judged, VariantPair, _answers, compare_variants, sign_flip_p
from tlkit.sweeps.summary import LOSSES, Answer, Outcome, summarize
from tlkit.sweeps.text import _pairs_text
from tlkit.sweeps.trials import Variant

CLASSES = ("a", "b")


def outcome(
    name: str, right: list[bool], seed: int = 0, fold: int | None = None, val: int = 0,
    patients: list[str] | None = None, first: int = 0,
) -> Outcome:  # fmt: skip
    """A run that is right on some of its images, and on `val` of 10 on `val`."""
    trial: Any = SimpleNamespace(variant=Variant(Path(f"{name}.toml"), {}), seed=seed, fold=fold)
    answers = tuple(
        Answer(0, int(not hit), patients[n] if patients else "", f"{first + n:x}")
        for n, hit in enumerate(right)
    )
    hits = sum(right)
    matrices = {
        "val": ((val, 10 - val), (0, 0)),
        "test": ((hits, len(right) - hits), (0, 0)),
    }
    return Outcome(trial=trial, status="done", split="test", classes=CLASSES,
                   confusions=matrices, answers=answers)  # fmt: skip


def by_figure(*outcomes: Outcome) -> tuple[VariantPair, ...]:
    return compare_variants(outcomes, summarize(outcomes))


def compared(*outcomes: Outcome) -> tuple[VariantPair, ...]:
    """Return the pairs that compare accuracies."""
    return tuple(pair for pair in by_figure(*outcomes) if pair.figure == "accuracy")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_one_seed_is_what_compare_says(hits: list[tuple[bool, bool]]) -> None:
    ours, best = ([pair[k] for pair in hits] for k in (0, 1))
    (pair,) = compared(outcome("one", ours), outcome("best", best, val=9))
    expected = paired_answers(
        [(NamedAnswer("a", "ab"[not b]), NamedAnswer("a", "ab"[not a])) for a, b in hits]
    )
    assert (pair.number, pair.against, pair.images, pair.seeds) == (1, 2, len(hits), 1)
    assert pair.difference == pytest.approx(expected.difference)
    assert (pair.only_it, pair.only_other) == (expected.only_second, expected.only_first)
    assert pair.p == expected.p == pair.corrected
    ends = expected.interval and (expected.interval.low, expected.interval.high)
    assert (pair.low, pair.high) == (ends or (None, None))


def test_folds_are_pooled_and_the_reference_is_chosen_on_val() -> None:
    some = [
        outcome(name, [name == "best"] * 6, fold=fold, val=val, first=6 * fold)
        for name, val in (("one", 4), ("best", 5))
        for fold in (0, 1)
    ]
    (pair,) = compared(*some)
    assert (pair.images, pair.against, pair.only_other) == (12, 2, 12)
    assert pair.p == binomtest(0, 12).pvalue


def test_seeds_and_patients_are_not_taken_for_more_evidence() -> None:
    right = [True] * 12
    wrong = [True] * 4 + [False] * 8
    (one,) = compared(outcome("one", wrong), outcome("best", right, val=9))
    seeds = [outcome("one", wrong, seed) for seed in range(5)]
    seeds += [outcome("best", right, seed, val=9) for seed in range(5)]
    (many,) = compared(*seeds)
    assert (many.images, many.seeds, many.only_other) == (12, 5, 8)
    assert many.p == pytest.approx(math.erfc(math.sqrt(8 / 2)))
    assert many.p > one.p / 2  # and not one that shrinks with every seed
    two = [f"p{n // 6}" for n in range(12)]
    (pair,) = compared(
        outcome("one", wrong, patients=two), outcome("best", right, val=9, patients=two)
    )
    assert pair.unit == "patient"
    assert pair.p > 0.1


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12))
def test_a_flipped_sign_changes_nothing_and_nothing_is_no_difference(gains: list[int]) -> None:
    sums = np.array(gains, float)
    assert sign_flip_p(sums) == pytest.approx(sign_flip_p(-sums))
    assert 0 < sign_flip_p(sums) <= 1
    assert sign_flip_p(0 * sums) == 1


@given(st.lists(st.integers(0, 30), min_size=2, max_size=8))
def test_many_pairs_are_corrected_by_holm(wrong: list[int]) -> None:
    best = outcome("best", [True] * 30, val=9)
    pairs = compared(
        best, *(outcome(f"v{k}", [n >= w for n in range(30)]) for k, w in enumerate(wrong))
    )
    p = np.array([pair.p for pair in pairs])
    order = np.argsort(p, kind="stable")
    expected = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    assert [pairs[k].corrected for k in order] == pytest.approx(expected.tolist())
    assert all(pair.corrected >= adjusted - 1e-12 for pair, adjusted in zip(
        pairs, false_discovery_control(p), strict=True))  # fmt: skip


def test_other_images_and_unfinished_variants_are_not_compared() -> None:
    assert by_figure(outcome("one", [True] * 3)) == ()
    assert by_figure(outcome("one", [True], first=9), outcome("best", [True], val=9)) == ()


def judged(
    name: str, rows: list[tuple[int, int, float]], val: int, patients: list[str] | None = None,
    classes: tuple[str, ...] = ("a", "b", "c"),
) -> Outcome:  # fmt: skip
    """A run's answers, each with its class, the predicted one and the class's probability."""
    trial: Any = SimpleNamespace(variant=Variant(Path(f"{name}.toml"), {}), seed=0, fold=None)
    answers = tuple(
        Answer(label, predicted, patients[n] if patients else "", f"{n:x}", -math.log(p), 1 - p)
        for n, (label, predicted, p) in enumerate(rows)
    )
    matrix = [[0] * len(classes) for _ in classes]
    for label, predicted, _ in rows:
        matrix[label][predicted] += 1
    losses = {
        title: sum(getattr(answer, name) for answer in answers) / len(rows)
        for name, title in LOSSES.items()
    }
    matrices = {"val": ((val, 10 - val),), "test": tuple(map(tuple, matrix))}
    return Outcome(trial=trial, status="done", split="test", classes=classes,
                   confusions=matrices, answers=answers, losses=losses)  # fmt: skip


ROWS = st.lists(
    st.tuples(*[st.integers(0, 2)] * 3, *[st.floats(0.1, 0.9)] * 2), min_size=2, max_size=30
)


CLASSES_3 = ("a", "b", "c")


@given(ROWS, st.booleans())
def test_every_figure_of_the_summary_is_compared(
    rows: list[tuple[int, int, int, float, float]], of_patients: bool
) -> None:
    patients = [f"p{n // 2}" for n in range(len(rows))] if of_patients else None
    ours = judged("one", [(label, one, p) for label, one, _, p, _ in rows], 1, patients)
    best = judged("best", [(label, other, p) for label, _, other, _, p in rows], 9, patients)
    figures, theirs = (summary.figures for summary in summarize([ours, best]))
    known = {pair.figure: pair for pair in by_figure(ours, best)}
    assert [*known] == [
        name for name in figures if None not in (figures[name].mean, theirs[name].mean)
    ]
    for name, pair in known.items():
        expected = (figures[name].mean or 0) - (theirs[name].mean or 0)
        assert pair.difference == pytest.approx(expected, abs=1e-9)
        if pair.low is not None and pair.high is not None:
            assert pair.low <= pair.high
        assert 0 <= pair.p <= pair.corrected <= 1
        assert (pair.only_it is None) == (name != "accuracy" and not name.endswith("recall"))
        added = Judged.of(_answers([ours]), CLASSES_3, [*_answers([ours])[0]], [0]).added(
            Judged.of(_answers([best]), CLASSES_3, [*_answers([ours])[0]], [0]), name, 0
        )
        assert added.sum() == pytest.approx(pair.difference, abs=1e-9)


def test_the_recall_of_a_class_is_tested_on_its_images_alone() -> None:
    labels = [0] * 12 + [1] * 40
    ours = judged("one", [(label, int(n >= 4), 0.5) for n, label in enumerate(labels)], 1)
    best = judged("best", [(label, label, 0.5) for label in labels], 9)
    known = {pair.figure: pair for pair in by_figure(ours, best)}
    recall, precision = known["a recall"], known["a precision"]
    assert recall.difference == pytest.approx(-8 / 12)
    assert recall.only_other == 8
    assert recall.p == known["accuracy"].p == binomtest(0, 8).pvalue
    assert known["b recall"].p == 1
    assert precision.p == pytest.approx(1)  # both are always right when they say `a`
    hits, others_hits = 40, 40  # of 48 and of 40 images that are called `b`
    share = (hits + others_hits) / (48 + 40)
    per_image = [(1 - share) * (1 / 48 - 1 / 40)] * 40 + [-share / 48] * 8
    score = sum(per_image) / math.sqrt(sum(one**2 for one in per_image))
    assert known["b precision"].p == pytest.approx(math.erfc(abs(score) / math.sqrt(2)))
    assert known["accuracy"].corrected == known["accuracy"].p  # of one pair; the others' are more
    others = [pair.p for name, pair in known.items() if name != "accuracy"]
    assert recall.corrected == recall.p * sum(p >= recall.p for p in others) > 4 * recall.p


def test_a_chance_difference_of_precision_is_rarely_beyond_chance() -> None:
    random, rejected = np.random.default_rng(0), 0
    labels = random.integers(0, 2, 80)
    for _ in range(400):
        one, other = (
            Judged(
                ("a", "b"), labels, np.where(random.random((1, 80)) < 0.3, 1 - labels, labels), {}
            )
            for _ in range(2)
        )
        rejected += sign_flip_p(one.added(other, "a precision", 0)) < 0.05
    assert 5 <= rejected <= 35  # 20 are expected


def test_of_many_classes_only_the_figures_of_all_are_compared() -> None:
    names = tuple(f"c{n}" for n in range(30))
    rows = [(n, n, 0.5) for n in range(30)]
    one, best = (judged(name, rows, val, classes=names) for name, val in (("one", 1), ("best", 9)))
    figures = [pair.figure for pair in by_figure(one, best)]
    assert figures == ["accuracy", "balanced accuracy", *LOSSES.values()]


def test_every_pair_is_in_the_table_and_on_the_page(tmp_path: Path) -> None:
    rows = [(n % 3, n % 3, 0.5) for n in range(60)]
    some = [judged("best", rows, 9), judged("<b>", [(label, 0, 0.4) for label, _, _ in rows], 1)]
    summaries = summarize(some)
    sweep: Any = SimpleNamespace(summaries=summaries, pairs=compare_variants(some, summaries))
    _write_pairs(SweepFolder(tmp_path), sweep)
    table = (tmp_path / "pairs.csv").read_text().splitlines()
    assert len(table) == 1 + len(sweep.pairs)
    assert table[3].startswith("<b>,best,a precision,60,1,-0.666667,")
    ((number, *cells),) = _other_pairs(sweep.pairs)
    assert (number, len(cells)) == ("2", len(sweep.pairs) - 1)
    assert cells[0] == "-66.7 *"  # balanced accuracy, the same in every resample
    assert cells[2] == "+0.0"  # the recall of `a`
    assert cells[-2].startswith("+0.223")  # log loss
    beyond = sum(cell.endswith("*") for cell in cells)
    assert f"Other figures: {beyond} of {len(cells)} comparisons beyond chance" in _pairs_text(
        sweep
    )
