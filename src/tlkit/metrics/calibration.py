"""Probabilities that mean what they say, and a decision that misses few of one class.

Both are learnt from the validation split once training has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen
from scipy.optimize import minimize_scalar

from tlkit.config.experiment import Calibration
from tlkit.data.splits import Splits
from tlkit.metrics.scoring import score
from tlkit.runfolder.folder import RunFolder
from tlkit.system.errors import RunFolderError

Probabilities = npt.NDArray[np.float32]
CALIBRATION = "calibration.json"
COMPARED = ("accuracy", "log_loss", "calibration_error")
LOWEST, HIGHEST = 0.05, 20.0  # between them a temperature is looked for
TINY = float(np.finfo(np.float32).tiny)


@frozen(kw_only=True)
class Calibrator:
    """What was learnt.

    Attributes:
        temperature: What the logarithms of the probabilities are divided by.
        favoured: The number of the class with a threshold of its own; None: no class has one.
        threshold: An image is called this class if its calibrated probability is at least this.
    """

    temperature: float = 1.0
    favoured: int | None = None
    threshold: float = 0.0

    def probabilities(self, raw: Probabilities) -> Probabilities:
        """Return the calibrated form of a model's probabilities, both `(images, classes)`."""
        if self.temperature == 1:
            return raw
        logarithms = _logarithms(raw) / self.temperature
        powers = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
        found: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return found

    def predicted(self, calibrated: Probabilities) -> npt.NDArray[np.int64]:
        """Return the class numbers that calibrated probabilities, `(images, classes)`, lead to."""
        highest: npt.NDArray[np.int64] = calibrated.argmax(axis=1)
        if self.favoured is None:
            return highest
        others = calibrated.copy()
        others[:, self.favoured] = -1
        called = calibrated[:, self.favoured] >= np.float32(self.threshold)
        return np.where(called, self.favoured, others.argmax(axis=1))


def fit_calibrator(
    settings: Calibration,
    labels: Sequence[int] | npt.NDArray[Any],
    raw: Probabilities,
    classes: Sequence[str],
) -> Calibrator:
    """Learn what the settings ask for.

    Args:
        settings: What is asked for.
        labels: The validation images' class numbers.
        raw: The model's probabilities for them, `(images, classes)`.
        classes: Class names in the order of the columns.
    """
    numbers = np.asarray(labels)
    temperature = best_temperature(numbers, raw) if settings.temperature else 1.0
    found = Calibrator(temperature=temperature)
    for name, share in settings.min_recall.items():  # there is one at most
        favoured = classes.index(name)
        own = found.probabilities(raw)[numbers == favoured, favoured]
        return Calibrator(
            temperature=temperature, favoured=favoured, threshold=threshold(own, share)
        )
    return found


def best_temperature(labels: npt.NDArray[Any], raw: Probabilities) -> float:
    """Return the temperature with the least log loss.

    Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2. It is 1 if all images
    are classified rightly: then the sharpest probabilities have the least loss, whatever the
    model, and nothing can be learnt.
    """
    if (raw.argmax(axis=1) == labels).all():
        return 1.0
    logarithms = _logarithms(raw)

    def loss(log_temperature: float) -> float:
        scaled = logarithms / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        sums = np.exp(scaled - highest[:, None]).sum(axis=1)
        return float((highest + np.log(sums) - scaled[np.arange(len(labels)), labels]).mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def threshold(probabilities: npt.NDArray[np.float32], share: float) -> float:
    """Return the highest threshold that at least this share of a class's probabilities reach."""
    falling = np.sort(probabilities)[::-1]
    needed = int(np.ceil(share * len(falling) - 1e-9))
    return float(falling[max(needed, 1) - 1])


def _logarithms(raw: Probabilities) -> npt.NDArray[np.float64]:
    """Return the logarithms in float64; a probability of 0 counts as float32's least."""
    found: npt.NDArray[np.float64] = np.log(np.maximum(raw.astype(np.float64), TINY))
    return found


@frozen
class Calibrated:
    """A run's answers, by split.

    Attributes:
        calibrator: What they were calibrated by.
        probabilities: `(images, classes)` float32.
        predicted: Class numbers, `(images,)`.
    """

    calibrator: Calibrator
    probabilities: Mapping[str, Probabilities]
    predicted: Mapping[str, npt.NDArray[np.int64]]


def calibrate(
    settings: Calibration, splits: Splits, raw: Mapping[str, Probabilities]
) -> Calibrated:
    """Learn from the validation split what the settings ask for, and apply it to all splits.

    Args:
        settings: What is asked for.
        splits: The images.
        raw: The model's probabilities by split, `val` among them.
    """
    calibrator = fit_calibrator(settings, splits.labels(splits.val), raw["val"], splits.classes)
    found = {split: calibrator.probabilities(one) for split, one in raw.items()}
    return Calibrated(
        calibrator, found, {split: calibrator.predicted(one) for split, one in found.items()}
    )


def calibration_json(
    calibrator: Calibrator, splits: Splits, raw: Mapping[str, Probabilities]
) -> dict[str, Any]:
    """Return plain values for `calibration.json`: what was learnt, and how good it was without."""
    examples, threshold = dict(splits.items()), None
    if calibrator.favoured is not None:
        threshold = {"class": splits.classes[calibrator.favoured], "p": calibrator.threshold}
    without = {
        split: score(splits.labels(examples[split]), found, splits.classes)
        for split, found in raw.items()
    }
    return {
        "temperature": calibrator.temperature,
        "threshold": threshold,
        "raw": {
            split: {name: getattr(scores, name) for name in COMPARED}
            for split, scores in without.items()
        },
    }


def calibration_text(table: Mapping[str, Any], split: str, error: float | None) -> str:
    """Return what a run has learnt from its validation split, for people; empty if nothing.

    Args:
        table: What `calibration_json` gave, or nothing.
        split: The split that the run is judged by.
        error: The calibration error of its answers there.

    >>> raw = {"test": {"calibration_error": 0.091}}
    >>> print(calibration_text({"temperature": 1.7, "threshold": None, "raw": raw}, "test", 0.04))
    Probabilities are calibrated on val (temperature 1.7: the model alone is too sure); on test \
this took the calibration error from 0.091 to 0.040.
    """
    if not table:
        return ""
    found, temperature, before = [], table["temperature"], table["raw"][split]["calibration_error"]
    if temperature != 1:
        sure = "too sure" if temperature > 1 else "not sure enough"
        took = (
            ""
            if error is None
            else (f"; on {split} this took the calibration error from {before:.3f} to {error:.3f}")
        )
        found.append(
            f"Probabilities are calibrated on val (temperature {temperature:.3g}: the model alone "
            f"is {sure}){took}."
        )
    if table["threshold"]:
        found.append(
            f"An image is called {table['threshold']['class']} if its probability of that is "
            f"{100 * table['threshold']['p']:.1f} % or more, a threshold chosen on val."
        )
    return " ".join(found)


def read_calibrator(folder: RunFolder, classes: Sequence[str]) -> Calibrator:
    """Return what a run has learnt.

    Raises:
        RunFolderError: If its file is missing or is not as tlkit writes it.
    """
    table = folder.read_json(CALIBRATION)
    try:
        threshold = table["threshold"]
        return Calibrator(
            temperature=float(table["temperature"]),
            favoured=None if threshold is None else classes.index(threshold["class"]),
            threshold=0.0 if threshold is None else float(threshold["p"]),
        )
    except (KeyError, TypeError, ValueError):
        where = folder.path / CALIBRATION
        raise RunFolderError(f"{where}: is not a calibration written by tlkit") from None
