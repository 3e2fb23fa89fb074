"""Variants against the one that is best on `val`, on the same images, corrected for many pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from tlkit.metrics.intervals import format_value
from tlkit.sweeps.choice import on_val
from tlkit.sweeps.summary import LOSSES, Answer, Outcome, VariantSummary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

LEVEL = 0.05
ACCURACY, BALANCED = "accuracy", "balanced accuracy"
OF_CLASS = ("precision", "recall")
MOST_CLASSES = 20  # of more, single classes are not compared
PAIR_HEAD = ("variant", "images", "seeds", "accuracy, points", "95 % interval", "only it correct",
             "only the other", "p", "p, corrected", "difference")  # fmt: skip
Key = tuple[str, str]  # an image's hash and its class


@frozen(kw_only=True)
class VariantPair:
    """A variant against another one on the same images, tested in the same folds.

    Attributes:
        number: The variant's number in the sweep, from 1.
        against: The other one's.
        figure: What is compared, such as `accuracy` or `cat recall`.
        images: Number of images that both were judged by.
        seeds: Number of seeds that both were run with, and that define the figure.
        difference: The variant's figure minus the other's.
        low: The lower end of its 95 % interval, by a paired bootstrap; None if there is none.
        high: The upper end.
        only_it: How many images only this variant classifies correctly, as a mean over the seeds;
            of a recall, images of its class; None for other figures than these and the accuracy.
        only_other: How many only the other does.
        unit: What counts as independent: `image` or `patient`.
        p: The two-sided p-value: McNemar's exact test where `only_it` is known for one seed and
            there are no patients; otherwise the sign-flip test of what each unit adds to the
            difference, in its normal approximation.
        corrected: The p-value after Holm's correction: the accuracy's for all pairs of the sweep,
            the other figures' for all pairs and figures.
    """

    number: int
    against: int
    figure: str = ACCURACY
    images: int
    seeds: int
    difference: float
    low: float | None
    high: float | None
    only_it: float | None
    only_other: float | None
    unit: str
    p: float
    corrected: float = 1.0

    @property
    def is_beyond_chance(self) -> bool:
        """Return whether the corrected p-value is below 5 %."""
        return self.corrected < LEVEL

    @property
    def ends(self) -> str:
        """Return the interval as text; a hyphen if there is none."""
        if self.low is None or self.high is None:
            return "-"
        return f"{self._text(self.low)} to {self._text(self.high)}"

    def cells(self, label: str) -> list[str]:
        """Return a row under `PAIR_HEAD`."""
        verdict = "beyond chance" if self.is_beyond_chance else "within chance"
        counts = (self.only_it or 0.0, self.only_other or 0.0)
        shares = (f"{share:.1f}".removesuffix(".0") for share in counts)
        return [label, str(self.images), str(self.seeds), self._text(self.difference), self.ends,
                *shares, p_value(self.p), p_value(self.corrected), verdict]  # fmt: skip

    def __str__(self) -> str:
        ends = "" if self.low is None else f" ({self.ends})"
        return f"{self._text(self.difference)}{ends}{' *' * self.is_beyond_chance}"

    def _text(self, value: float) -> str:
        return f"{value:+.3f}" if self.figure in LOSSES.values() else f"{100 * value:+.1f}"


def p_value(p: float) -> str:
    """Return a p-value as text."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@frozen(eq=False)
class Judged:
    """A variant's answers for some images.

    Attributes:
        classes: The classes' names.
        labels: Class numbers, `(images,)`.
        predicted: Class numbers, `(seeds, images)`.
        losses: Of each image, `(seeds, images)`, by name; those that are known.
    """

    classes: Sequence[str]
    labels: npt.NDArray[np.intp]
    predicted: npt.NDArray[np.intp]
    losses: Mapping[str, Matrix]

    @classmethod
    def of(
        cls, answers: Answers, classes: Sequence[str], keys: Sequence[Key], seeds: Sequence[int]
    ) -> Judged:
        """Return a variant's answers for these images and seeds."""
        import numpy as np

        number = {name: k for k, name in enumerate(classes)}
        rows = [[answers[seed][key] for key in keys] for seed in seeds]
        losses = {
            title: np.array([[getattr(answer, name) for _, answer in row] for row in rows], float)
            for name, title in LOSSES.items()
        }
        return cls(
            classes,
            np.array([number[label] for _, label in keys]),
            np.array([[number[predicted] for predicted, _ in row] for row in rows]),
            {title: values for title, values in losses.items() if not np.isnan(values).any()},
        )

    def figures(self, weights: Matrix) -> dict[str, Matrix]:
        """Return each figure with images weighted, `(seeds, resamples)`; NaN where undefined."""
        import numpy as np

        from tlkit.metrics.weighted import Outputs, figures_of

        of_seeds = [
            figures_of(Outputs(self.labels, predicted, len(self.classes)), weights)
            for predicted in self.predicted
        ]
        found = {name: np.stack([one[name] for one in of_seeds]) for name in of_seeds[0]}
        figures = {ACCURACY: found["accuracy"], BALANCED: found["balanced_accuracy"]}
        if len(self.classes) <= MOST_CLASSES:
            for k, name in enumerate(self.classes):
                figures |= {f"{name} {figure}": found[figure][..., k] for figure in OF_CLASS}
        for title, values in self.losses.items():  # einsum sums in a fixed order
            figures[title] = np.einsum("ri,si->sr", weights, values) / weights.sum(axis=1)
        return figures

    def shares(self, figure: str, seed: int) -> Iterator[tuple[Matrix, Matrix]]:
        """Yield the hits and the images of each share whose mean a figure is."""
        predicted = self.predicted[seed]
        if figure == ACCURACY:
            yield (self.labels == predicted).astype(float), (self.labels >= 0).astype(float)
        for k, name in enumerate(self.classes):
            own, named = (self.labels == k).astype(float), (predicted == k).astype(float)
            if figure == f"{name} precision":
                yield own * named, named
            elif figure == f"{name} recall" or (figure == BALANCED and own.any()):
                yield own * named, own

    def added(self, other: Judged, figure: str, seed: int) -> Matrix:
        """Return what each image adds to a seed's difference from another variant.

        Of shares among unlike images, as precision is, each counts as if both were equal; the test
        of the sum is then the score test of Kosinski (2013).
        """
        import numpy as np

        if figure in self.losses:
            gains: Matrix = self.losses[figure][seed] - other.losses[figure][seed]
            return gains / len(gains)
        parts = []
        shares = zip(self.shares(figure, seed), other.shares(figure, seed), strict=True)
        for (hits, among), (others_hits, others_among) in shares:
            size, others_size = among.sum(), others_among.sum()
            share = (hits.sum() + others_hits.sum()) / (size + others_size)
            ours = (hits - share * among) / size
            parts.append(ours - (others_hits - share * others_among) / others_size)
        added: Matrix = np.mean(parts, axis=0)
        return added

    def only(self, other: Judged, figure: str) -> float | None:
        """Return how many images only this variant has right; None if that is not compared."""
        right, theirs = (some.labels == some.predicted for some in (self, other))
        if figure != ACCURACY:
            of_class = [k for k, name in enumerate(self.classes) if figure == f"{name} recall"]
            if not of_class:
                return None
            right = right & (self.labels == of_class[0])
        return float((right & ~theirs).sum() / len(right))


Answers = Mapping[int, Mapping[Key, tuple[str, Answer]]]  # by seed: the predicted class


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
    classes = runs[best][0].classes
    answers = {number: _answers(some) for number, some in runs.items()}
    patients = {(a.image, o.classes[a.label]): a.patient for o in outcomes for a in o.answers}
    alike: dict[tuple[tuple[Key, ...], tuple[int, ...]], list[int]] = {}
    for number, ours in answers.items():
        seeds = tuple(seed for seed in ours if seed in answers[best])
        known = [some[seed] for some in (answers[best], ours) for seed in seeds]
        keys = tuple(key for key in known[0] if all(key in one for one in known)) if known else ()
        if number != best and keys and {*runs[number][0].classes} == {*classes}:
            alike.setdefault((keys, seeds), []).append(number)
    pairs: list[VariantPair] = []
    for (keys, seeds), numbers in alike.items():
        judged = {n: Judged.of(answers[n], classes, keys, seeds) for n in (best, *numbers)}
        pairs += _compared(best, judged, [patients[key] for key in keys])
    families = ([pair for pair in pairs if (pair.figure == ACCURACY) is is_first]
                for is_first in (True, False))  # fmt: skip
    corrected = [pair for family in families for pair in _holm(family)]
    order = [*summaries[best - 1].figures]
    return tuple(sorted(corrected, key=lambda pair: (pair.number, order.index(pair.figure))))


def _answers(outcomes: Sequence[Outcome]) -> Answers:
    """Return what was predicted for which image, over all folds."""
    found: dict[int, dict[Key, tuple[str, Answer]]] = {}
    for outcome in outcomes:
        of_seed = found.setdefault(outcome.trial.seed, {})
        for answer in outcome.answers:
            if answer.image:
                key = answer.image, outcome.classes[answer.label]
                of_seed[key] = outcome.classes[answer.predicted], answer
    return found


def _compared(
    best: int, judged: Mapping[int, Judged], patients: Sequence[str]
) -> Iterator[VariantPair]:
    """Compare variants on the same images with the best one, by every figure."""
    import numpy as np

    from tlkit.metrics.bootstrap import bootstrap_interval, draws, resampling_of, unit_numbers
    from tlkit.reports.compare import mcnemar

    theirs, units = judged[best], unit_numbers(len(patients), patients)
    columns = len(judged) * len(theirs.classes) * len(theirs.predicted)
    resampling = resampling_of(units, any(patients), columns)

    def gains(weights: Matrix) -> dict[tuple[int, str], Matrix]:
        known = {number: some.figures(weights) for number, some in judged.items()}
        return {
            (number, figure): known[number][figure] - known[best][figure]
            for number in judged
            if number != best
            for figure in known[number]
            if figure in known[best]
        }

    whole = {key: values[:, 0] for key, values in gains(np.ones((1, len(units)))).items()}
    seeds = {key: np.flatnonzero(~np.isnan(values)) for key, values in whole.items()}
    drawn: dict[tuple[int, str], list[Matrix]] = {key: [] for key in whole if len(seeds[key])}
    for weights in draws(units, resampling):
        now = gains(weights)
        for key, chunks in drawn.items():
            chunks.append(now[key][seeds[key]].mean(axis=0))
    for (number, figure), chunks in drawn.items():
        ours, some = judged[number], seeds[number, figure]
        difference = float(whole[number, figure][some].mean())
        interval = bootstrap_interval(difference, np.concatenate(chunks), len(units))
        only_it, only_other = ours.only(theirs, figure), theirs.only(ours, figure)
        if only_it is not None and only_other is not None and not any(patients) and len(some) == 1:
            p = mcnemar(int(only_other), int(only_it))
        else:
            added = np.mean([ours.added(theirs, figure, int(seed)) for seed in some], axis=0)
            p = sign_flip_p(np.bincount(units, added).astype(float))
        yield VariantPair(
            number=number, against=best, figure=figure, images=len(units), seeds=len(some),
            difference=difference, low=interval.low if interval else None,
            high=interval.high if interval else None, only_it=only_it, only_other=only_other,
            unit=resampling.unit, p=p,
        )  # fmt: skip


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


def by_accuracy(pairs: Sequence[VariantPair]) -> list[VariantPair]:
    """Return the pairs that compare accuracies, the best variant first."""
    some = [pair for pair in pairs if pair.figure == ACCURACY]
    return sorted(some, key=lambda pair: -pair.difference)


def other_figures(pairs: Sequence[VariantPair]) -> list[str]:
    """Return what is compared besides the accuracy."""
    return list(dict.fromkeys(pair.figure for pair in pairs if pair.figure != ACCURACY))


def pairs_note(pairs: Sequence[VariantPair], summaries: Sequence[VariantSummary]) -> str:
    """Return what the pairs are compared with, and how."""
    best = summaries[pairs[0].against - 1]
    units = " and ".join(sorted({f"by {pair.unit}" for pair in pairs}))
    count = len(by_accuracy(pairs))
    return (
        f"Against variant {pairs[0].against}, the best on val"
        f" ({format_value(best.figures[ACCURACY].mean)} here), on the same images, {units};"
        f" p-values are corrected for {count} comparison{'s' * (count > 1)} (Holm)."
    )


def others_note(pairs: Sequence[VariantPair]) -> str:
    """Return how many comparisons of other figures than the accuracy are beyond chance."""
    others = [pair for pair in pairs if pair.figure != ACCURACY]
    count = sum(pair.is_beyond_chance for pair in others)
    return (
        f"Other figures: {count} of {len(others)} comparisons beyond chance, corrected for all of "
        "them (Holm)"
    )
