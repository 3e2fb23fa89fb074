"""Calibration: temperature scaling and a per-class threshold, both fitted on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.config.experiment import Calibration
from tlkit.data.splits import Splits
from tlkit.metrics.scores import Scores
from tlkit.metrics.scoring import score_examples

Probabilities = npt.NDArray[np.float32]
LOWEST, HIGHEST = 0.05, 20.0  # range of temperatures
TINY = float(np.finfo(np.float32).tiny)
ROUNDING = 1e-6  # programs that compute the same network differ by less


@frozen(kw_only=True)
class Calibrator:
    """A fitted calibration.

    Attributes:
        temperature: The divisor of the logarithms of the probabilities.
        favored: The number of the class with a threshold of its own; None if there is none.
        threshold: The least calibrated probability at which that class is predicted.
    """

    temperature: float = 1.0
    favored: int | None = None
    threshold: float = 0.0

    def probabilities(self, raw: Probabilities) -> Probabilities:
        """Return calibrated probabilities for a model's own, both `(images, classes)`."""
        if self.temperature == 1:
            return raw
        logarithms = _logarithms(raw) / self.temperature
        powers = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
        calibrated: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return calibrated

    def predicted(self, calibrated: Probabilities) -> npt.NDArray[np.int64]:
        """Return the predicted class numbers for calibrated probabilities, `(images, classes)`."""
        return decide(calibrated, self.favored, self.threshold)


def decide(
    probabilities: Probabilities, favored: int | None = None, threshold: float = 0.0
) -> npt.NDArray[np.int64]:
    """Return the predicted class numbers: the favored class where it reaches its threshold.

    Elsewhere the most probable of the others; without a favored class, of all. The threshold is
    one image's own probability, so what rounding may change does not count.
    """
    highest: npt.NDArray[np.int64] = probabilities.argmax(axis=1)
    if favored is None:
        return highest
    others = probabilities.copy()
    others[:, favored] = -1
    reached = probabilities[:, favored] >= np.float32(threshold - ROUNDING)
    return np.where(reached, favored, others.argmax(axis=1))


def fit_calibrator(
    settings: Calibration,
    labels: Sequence[int] | npt.NDArray[Any],
    raw: Probabilities,
    classes: Sequence[str],
) -> Calibrator:
    """Fit a calibration."""
    numbers = np.asarray(labels)
    temperature = best_temperature(numbers, raw) if settings.temperature else 1.0
    calibrator = Calibrator(temperature=temperature)
    for name, share in settings.min_recall.items():  # at most one
        favored = classes.index(name)
        own = calibrator.probabilities(raw)[numbers == favored, favored]
        return Calibrator(temperature=temperature, favored=favored, threshold=threshold(own, share))
    return calibrator


def best_temperature(labels: npt.NDArray[Any], raw: Probabilities) -> float:
    """Return the temperature with the lowest log loss (Guo et al. 2017, section 4.2).

    It is 1 if all images are classified correctly: the loss then falls with the temperature,
    whatever the model, so nothing can be fitted.
    """
    if (raw.argmax(axis=1) == labels).all():
        return 1.0
    logarithms = _logarithms(raw)

    def loss(log_temperature: float) -> float:
        scaled = logarithms / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        sums = np.exp(scaled - highest[:, None]).sum(axis=1)
        return float((highest + np.log(sums) - scaled[np.arange(len(labels)), labels]).mean())

    from scipy.optimize import minimize_scalar  # slow to import

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def threshold(probabilities: npt.NDArray[np.float32], share: float) -> float:
    """Return the highest threshold that at least this share of the probabilities reach."""
    falling = np.sort(probabilities)[::-1]
    needed = int(np.ceil(share * len(falling) - 1e-9))
    return float(falling[max(needed, 1) - 1])


def _logarithms(raw: Probabilities) -> npt.NDArray[np.float64]:
    """Return logarithms in float64; a probability of 0 counts as float32's smallest."""
    logarithms: npt.NDArray[np.float64] = np.log(np.maximum(raw.astype(np.float64), TINY))
    return logarithms


@frozen(kw_only=True)
class CalibratedOutputs:
    """A model's outputs on the splits, calibrated once.

    Attributes:
        calibrator: The fitted calibration.
        raw: The model's own probabilities by split, `(images, classes)` float32.
        probabilities: The calibrated ones.
        predicted: Predicted class numbers by split, `(images,)`.
        scores: Scores of the calibrated outputs by split.
    """

    calibrator: Calibrator
    raw: Mapping[str, Probabilities]
    probabilities: Mapping[str, Probabilities]
    predicted: Mapping[str, npt.NDArray[np.int64]]
    scores: Mapping[str, Scores]


def calibrate(
    settings: Calibration, splits: Splits, raw: Mapping[str, Probabilities]
) -> CalibratedOutputs:
    """Fit a calibration on validation, apply it to all splits, and score the outputs."""
    calibrator = fit_calibrator(settings, splits.labels(splits.val), raw["val"], splits.classes)
    examples = dict(splits.items())
    probabilities = {split: calibrator.probabilities(p) for split, p in raw.items()}
    predicted = {split: calibrator.predicted(p) for split, p in probabilities.items()}
    return CalibratedOutputs(
        calibrator=calibrator,
        raw=raw,
        probabilities=probabilities,
        predicted=predicted,
        scores={
            split: score_examples(examples[split], p, splits.classes, predicted[split])
            for split, p in probabilities.items()
        },
    )
