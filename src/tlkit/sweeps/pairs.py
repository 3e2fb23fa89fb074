"""Variants against the one that is best on `val`, on the same images, corrected for many pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from tlkit.metrics.intervals import format_value
from tlkit.sweeps.choice import on_val
from tlkit.sweeps.summary import Outcome, VariantSummary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

LEVEL = 0.05
PAIR_HEAD = ("variant", "images", "seeds", "accuracy, points", "95 % interval", "only it correct",
             "only the other", "p", "p, corrected", "difference")  # fmt: skip
Key = tuple[str, str]  # an image's hash and its class


@frozen(kw_only=True)
class VariantPair:
    """A variant against another one on the same images, tested in the same folds.

    Attributes:
        number: The variant's number in the sweep, from 1.
        against: The other one's.
        images: Number of images that both were judged by.
        seeds: Number of seeds that both were run with.
        difference: The variant's accuracy minus the other's.
        low: The lower end of its 95 % interval, by a paired bootstrap; None if there is none.
        high: The upper end.
        only_it: How many images only this variant classifies correctly, as a mean over the seeds.
        only_other: How many only the other does.
        unit: What counts as independent: `image` or `patient`.
        p: The two-sided p-value: McNemar's exact test; with several seeds or with patients, the
            sign-flip test of the sums per unit, in its normal approximation.
        corrected: The p-value after Holm's correction for all pairs of the sweep.
    """

    number: int
    against: int
    images: int
    seeds: int
    difference: float
    low: float | None
    high: float | None
    only_it: float
    only_other: float
    unit: str
    p: float
    corrected: float = 1.0

    def cells(self, label: str) -> list[str]:
        """Return a row under `PAIR_HEAD`."""
        ends = "-"
        if self.low is not None and self.high is not None:
            ends = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        verdict = "beyond chance" if self.corrected < LEVEL else "within chance"
        shares = (f"{share:.1f}".removesuffix(".0") for share in (self.only_it, self.only_other))
        return [label, str(self.images), str(self.seeds), f"{100 * self.difference:+.1f}", ends,
                *shares, p_value(self.p), p_value(self.corrected), verdict]  # fmt: skip


def p_value(p: float) -> str:
    """Return a p-value as text."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def compare_variants(
    outcomes: Sequence[Outcome], summaries: Sequence[VariantSummary]
) -> tuple[VariantPair, ...]:
    """Compare each variant whose runs are all finished with the one that is best on `val`.

    The choice by `val` keeps the comparison fair: the best on these images would look too good.
    """
    runs = {
        number: [o for o in outcomes if o.trial.variant == summary.variant]
        for number, summary in enumerate(summaries, start=1)
        if summary.runs == summary.planned and summary.figures
    }
    if len(runs) < 2:
        return ()
    best = max(runs, key=lambda number: on_val(runs[number]))
    correct = {number: _correct(some) for number, some in runs.items()}
    patients = {(a.image, o.classes[a.label]): a.patient for o in outcomes for a in o.answers}
    alike: dict[tuple[tuple[Key, ...], int], list[tuple[int, Matrix]]] = {}
    for number, ours in correct.items():
        seeds = [seed for seed in ours if seed in correct[best]]
        keys = [key for key in correct[best][seeds[0]] if key in ours[seeds[0]]] if seeds else []
        if number != best and keys:
            gains = _gains(ours, correct[best], seeds, keys)
            alike.setdefault((tuple(keys), len(seeds)), []).append((number, gains))
    pairs = [
        pair
        for (keys, _), some in alike.items()
        for pair in _compared(best, some, [patients[key] for key in keys])
    ]
    return tuple(sorted(_holm(pairs), key=lambda pair: pair.number))


def _correct(outcomes: Sequence[Outcome]) -> dict[int, dict[Key, bool]]:
    """Return for each seed which images are right, over all folds."""
    found: dict[int, dict[Key, bool]] = {}
    for outcome in outcomes:
        of_seed = found.setdefault(outcome.trial.seed, {})
        for answer in outcome.answers:
            if answer.image:
                key = answer.image, outcome.classes[answer.label]
                of_seed[key] = answer.label == answer.predicted
    return found


def _gains(
    ours: Mapping[int, Mapping[Key, bool]],
    theirs: Mapping[int, Mapping[Key, bool]],
    seeds: Sequence[int],
    keys: Sequence[Key],
) -> Matrix:
    """Return 1 where only we are right and -1 where only they are, `(seeds, images)`."""
    import numpy as np

    one, other = (
        np.array([[some[seed].get(key, False) for key in keys] for seed in seeds], float)
        for some in (ours, theirs)
    )
    gains: Matrix = one - other
    return gains


def _compared(
    best: int, some: Sequence[tuple[int, Matrix]], patients: Sequence[str]
) -> list[VariantPair]:
    """Compare variants on the same images with the best one."""
    import numpy as np

    from tlkit.metrics.bootstrap import bootstrap_interval, draws, resampling_of, unit_numbers
    from tlkit.reports.compare import mcnemar

    units = unit_numbers(len(patients), patients)
    resampling = resampling_of(units, any(patients), 1)
    means = np.stack([gains.mean(axis=0) for _, gains in some], axis=1)
    resampled = np.concatenate(
        [times @ means / times.sum(axis=1, keepdims=True) for times in draws(units, resampling)]
    )
    pairs = []
    for column, (number, gains) in enumerate(some):
        only_it, only_other = ((sign * gains > 0).sum() / len(gains) for sign in (1, -1))
        difference = float(means[:, column].mean())
        interval = bootstrap_interval(difference, resampled[:, column], len(patients))
        if len(gains) == 1 and not any(patients):
            p = mcnemar(int(only_other), int(only_it))
        else:
            p = sign_flip_p(np.bincount(units, means[:, column]).astype(float))
        pairs.append(
            VariantPair(
                number=number, against=best, images=len(patients), seeds=len(gains),
                difference=difference, low=interval.low if interval else None,
                high=interval.high if interval else None, only_it=float(only_it),
                only_other=float(only_other), unit=resampling.unit, p=p,
            )
        )  # fmt: skip
    return pairs


def sign_flip_p(sums: Matrix) -> float:
    """Return the two-sided p-value of the sign-flip test, in its normal approximation.

    Args:
        sums: The gain of each independent unit.
    """
    squares = float((sums**2).sum())
    return math.erfc(abs(float(sums.sum())) / math.sqrt(2 * squares)) if squares else 1.0


def _holm(pairs: Sequence[VariantPair]) -> list[VariantPair]:
    """Return the pairs with their p-values corrected by Holm's method."""
    ranked, least, corrected = sorted(pairs, key=lambda pair: pair.p), 0.0, []
    for place, pair in enumerate(ranked):
        least = max(least, min(1.0, pair.p * (len(ranked) - place)))
        corrected.append(evolve(pair, corrected=least))
    return corrected


def pairs_note(pairs: Sequence[VariantPair], summaries: Sequence[VariantSummary]) -> str:
    """Return what the pairs are compared with, and how."""
    best = summaries[pairs[0].against - 1]
    units = " and ".join(sorted({f"by {pair.unit}" for pair in pairs}))
    return (
        f"Against variant {pairs[0].against}, the best on val"
        f" ({format_value(best.figures['accuracy'].mean)} here), on the same images, {units};"
        f" p-values are corrected for {len(pairs)} comparison{'s' * (len(pairs) > 1)} (Holm)."
    )
