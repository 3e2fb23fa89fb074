"""A linear probe in folds: standardized features, logistic regression, its strength chosen inside.

Nothing of a held-out fold is used for its own predictions: not in the means and deviations, not in
the choice of the regularization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.data.folds import fewest_groups, stratified_folds
from tlkit.parts.heads import CONSTANT
from tlkit.parts.optimizers import LBFGS
from tlkit.system.errors import DataError
from tlkit.system.signals import stop_if_asked
from tlkit.train.solver import LogisticRegression, one_thread

Floats = npt.NDArray[np.float64]

STRENGTHS = LBFGS().strengths(12)  # from strong to weak, as in the recipe `probe`
INNER_FOLDS = 3
PATIENCE = 2  # weaker strengths are not tried once so many did not help
ROUGH = 1e-5  # the solver's tolerance while strengths are compared


@frozen(eq=False)
class OutOfFold:
    """Predictions for every image by a model that was not fitted on its fold.

    Attributes:
        probabilities: `(images, classes)`.
        l2: The strength that was chosen in each fold.
    """

    probabilities: Floats
    l2: tuple[float, ...]


@frozen(eq=False)
class Folds:
    """Images in folds, for any number of networks.

    Attributes:
        labels: The images' class numbers.
        groups: A number per image; images of one group are in one fold.
        classes: The number of classes.
        held_out: The images of each fold.
        seed: The seed of the folds.
    """

    labels: npt.NDArray[np.int32]
    groups: npt.NDArray[np.intp]
    classes: int
    held_out: tuple[npt.NDArray[np.intp], ...]
    seed: int

    @classmethod
    def cut(
        cls,
        labels: Sequence[int],
        groups: Sequence[int],
        names: Sequence[str],
        folds: int,
        seed: int,
    ) -> Folds:
        """Cut images into folds, stratified by class."""
        smallest, rarest = fewest_groups(labels, groups)
        if smallest < max(folds, 3):
            raise DataError(
                f"folds: {folds} folds need {max(folds, 3)} different images or patients of each "
                f"class, got {smallest} of {names[rarest]!r}; use fewer folds or more images"
            )
        held_out = stratified_folds(labels, groups, folds, seed)
        return cls(
            np.array(labels, np.int32),
            np.array(groups, np.intp),
            len(names),
            tuple(np.array(sorted(fold), np.intp) for fold in held_out),
            seed,
        )

    def probe(
        self, features: npt.NDArray[Any], on_fold: Callable[[int, int], None] = lambda *_: None
    ) -> OutOfFold:
        """Return the predictions of a linear probe on features, `(images, width)`."""
        with one_thread():
            return self._probe(features, on_fold)

    def _probe(self, features: npt.NDArray[Any], on_fold: Callable[[int, int], None]) -> OutOfFold:
        probabilities = np.zeros((len(self.labels), self.classes))
        chosen = []
        for number, test in enumerate(self.held_out, start=1):
            train = np.setdiff1d(np.arange(len(self.labels)), test)
            place = self._best_strength(features, train)
            chosen.append(STRENGTHS[place])
            probe = _Probe.of(features[train], self.labels[train], self.classes)
            for l2 in STRENGTHS[:place]:  # each starts from the one before
                probe.solve(l2, ROUGH)
            probe.solve(STRENGTHS[place])
            probabilities[test] = probe.predict(features[test])
            on_fold(number, len(self.held_out))
        return OutOfFold(probabilities, tuple(chosen))

    def _best_strength(self, features: npt.NDArray[Any], train: npt.NDArray[np.intp]) -> int:
        """Return the place of the strength with the lowest loss in folds of the training part."""
        labels, groups = self.labels[train], self.groups[train]
        count = max(2, min(INNER_FOLDS, fewest_groups(labels.tolist(), groups.tolist())[0]))
        inner = []
        for fold in stratified_folds(labels.tolist(), groups.tolist(), count, self.seed):
            val = np.array(sorted(fold), np.intp)
            rest = np.setdiff1d(np.arange(len(train)), val)
            inner.append((_Probe.of(features[train[rest]], labels[rest], self.classes), val))
        losses: list[float] = []
        for l2 in STRENGTHS:
            total = 0.0
            for probe, val in inner:
                probe.solve(l2, ROUGH)
                total += probe.loss(features[train[val]], labels[val])
            losses.append(total)
            if len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
                break
        return int(np.argmin(losses))


class _Probe:
    """Standardization and logistic regression on some images."""

    def __init__(self, mean: Floats, deviation: Floats, regression: LogisticRegression) -> None:
        self.mean, self.deviation, self.regression = mean, deviation, regression
        self.solution: Floats | None = None

    @classmethod
    def of(cls, features: npt.NDArray[Any], labels: npt.NDArray[np.int32], classes: int) -> _Probe:
        x = features.astype(np.float64)
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        deviation[deviation <= CONSTANT * np.abs(mean)] = 1
        x = (x - mean) / deviation
        return cls(mean, deviation, LogisticRegression(x, labels, np.ones(len(x)), classes))

    def solve(self, l2: float, tolerance: float | None = None) -> None:
        options = {} if tolerance is None else {"tolerance": tolerance}
        self.solution = self.regression.solve(l2, self.solution, stop_if_asked, **options)

    def predict(self, features: npt.NDArray[Any]) -> Floats:
        assert self.solution is not None
        x = (features.astype(np.float64) - self.mean) / self.deviation
        logits = x @ self.solution[:-1] + self.solution[-1]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
        return probabilities

    def loss(self, features: npt.NDArray[Any], labels: npt.NDArray[np.int32]) -> float:
        """Return the sum of the images' cross-entropies."""
        own = self.predict(features)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(own, 1e-300)).sum())
