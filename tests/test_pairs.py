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
from tlkit.sweeps.pairs import VariantPair, compare_variants, sign_flip_p
from tlkit.sweeps.summary import Answer, Outcome, summarize
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


def compared(*outcomes: Outcome) -> tuple[VariantPair, ...]:
    return compare_variants(outcomes, summarize(outcomes))


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
    assert compared(outcome("one", [True] * 3)) == ()
    assert compared(outcome("one", [True], first=9), outcome("best", [True], val=9)) == ()
