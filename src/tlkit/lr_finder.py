"""The learning-rate finder: a short training with a rate that rises at every step.

Where the loss falls fastest is a good learning rate (Smith 2017, Cyclical Learning Rates for
Training Neural Networks, section 3.3). Features of frozen layers are computed once, for one view,
and kept for the run that follows.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.runner.run import prepare_run
from tlkit.system.errors import ConfigError, NumericalError, Problem
from tlkit.system.files import write_text
from tlkit.train.callback import Callback

if TYPE_CHECKING:
    import numpy.typing as npt

    from tlkit.train.stage import StageTrainer

WINDOW = 0.1  # how many losses are averaged before one is judged, as a share of the steps
DIVERGED = 4.0  # stop when that average is this many times its least
SMOOTHING_STEPS = 0.04  # the width of the Gaussian that smooths the losses, as a share of the steps
FALLS = 0.95  # a loss that never comes below this share of what it was has not fallen


@frozen
class RateCurve:
    """How the loss changes while the learning rate rises.

    Attributes:
        rates: The rate of each step, rising by the same factor.
        losses: The mean weighted loss of its batch, before the step.
        folder: Where curve and picture are.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    folder: Path

    @property
    def smoothed(self) -> npt.NDArray[Any]:
        """Return the losses under a Gaussian, `(steps,)`: one batch says little."""
        return smoothed(self.losses)

    @property
    def suggestion(self) -> float | None:
        """Return the rate at which the smoothed loss falls fastest; None if it does not fall."""
        return steepest(self.rates, self.losses)


def smoothed(losses: Sequence[float]) -> npt.NDArray[Any]:
    """Return losses under a Gaussian that looks both ways, so that nothing is shifted."""
    import numpy as np
    from scipy.ndimage import gaussian_filter1d

    width = max(1.0, SMOOTHING_STEPS * len(losses))
    found: npt.NDArray[Any] = gaussian_filter1d(np.asarray(losses, float), width, mode="nearest")
    return found


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate at which the smoothed loss falls fastest, before its least value.

    Args:
        rates: Rising.
        losses: One a rate.
    """
    import numpy as np

    curve = smoothed(losses)
    end = int(curve.argmin())
    if end < 2 or curve[end] > FALLS * curve[:end].max():
        return None
    slopes = np.gradient(curve[: end + 1], np.log10(rates[: end + 1]))
    return float(rates[int(slopes[:-1].argmin())])


def lr_find(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    steps: int = 100,
    lowest: float = 1e-7,
    highest: float = 1.0,
    callback: Callback | None = None,
) -> RateCurve:
    """Train the first stage with a rising learning rate; write the curve and its picture.

    Args:
        experiment: As for `run`.
        out: The folder for `lr-find.csv` and `lr-find.svg`, which must not exist; unset:
            `runs/NAME-lr-find-N`.
        overrides: As for `run`.
        steps: How many batches are trained on at most; it ends earlier when the loss has grown
            fourfold.
        lowest: The first rate.
        highest: The last rate.
        callback: Told how it goes, such as `tlkit.Terminal()`; unset: nobody.

    Raises:
        TlkitError: Of the kind that says what is wrong.
    """
    if not (0 < lowest < highest < float("inf") and steps >= 10):
        what = f"needs 0 < lowest < highest and at least 10 steps, got {lowest}, {highest}, {steps}"
        raise ConfigError([Problem("lr-find", what)])

    from tlkit.reports.charts import learning_rate_chart
    from tlkit.reports.svg import standalone
    from tlkit.runfolder.folder import RunFolder
    from tlkit.train.stage import StageTrainer

    out = None if out is None else Path(out)
    callback = callback or Callback()
    ready = prepare_run(experiment, out, overrides, callback)
    # One view of the images is enough to see how the loss reacts.
    once = evolve(ready.experiment, augmentation=evolve(ready.experiment.augmentation, views=1))
    first = evolve(ready.plan.stages[0], views=(0,))
    brief = evolve(ready, experiment=once, plan=evolve(ready.plan, stages=(first,)))
    stage = StageTrainer(brief, 1, callback)
    factor = (highest / lowest) ** (1 / (steps - 1))
    rates = [lowest * factor**step for step in range(steps)]
    losses = list(_losses(stage, rates))
    if not losses:
        raise NumericalError("the first training loss is nan or infinite, before any step")
    curve = RateCurve(tuple(rates[: len(losses)]), tuple(losses), Path())

    def fill(folder: RunFolder) -> None:
        smoothed = curve.smoothed.tolist()
        rows = zip(curve.rates, curve.losses, smoothed, strict=True)
        folder.write_csv("lr-find.csv", ["learning_rate", "loss", "smoothed"], rows)
        chart = learning_rate_chart(curve.rates, curve.losses, smoothed, curve.suggestion)
        write_text(folder.path / "lr-find.svg", standalone(chart.picture))

    return evolve(curve, folder=RunFolder.create(out, f"{once.name}-lr-find", fill).path)


def _losses(stage: StageTrainer, rates: Sequence[float]) -> Iterator[float]:
    """Yield the loss of one batch a rate, until it is no number or has grown too far."""
    batches = itertools.chain.from_iterable(map(stage.batches, itertools.count(1)))
    recent: deque[float] = deque(maxlen=max(5, round(WINDOW * len(rates))))
    least = float("inf")
    for rate, (x, _, labels, weights) in zip(rates, batches, strict=False):
        stage.step.optimizer.learning_rate.assign(rate)
        loss = stage.step.train(x, labels, weights).mean("loss")
        if not loss < float("inf"):
            return
        yield loss
        recent.append(loss)
        if len(recent) == recent.maxlen:
            mean = sum(recent) / len(recent)
            least = min(least, mean)
            if mean > DIVERGED * least:
                return
