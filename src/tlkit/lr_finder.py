"""The learning-rate finder: a short training run in which the rate rises at every step.

A good learning rate is where the loss falls fastest (Smith 2017, Cyclical Learning Rates for
Training Neural Networks, section 3.3). Features of frozen layers are computed once, for one view,
and cached for the run that follows.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.parts.optimizers import LBFGS
from tlkit.parts.plugins import guarded
from tlkit.reports.svg import standalone
from tlkit.runfolder.folder import RunFolder
from tlkit.runner.prepare import prepare_run
from tlkit.system.errors import ConfigError, NumericalError, Problem
from tlkit.system.files import write_text
from tlkit.system.renames import renamed_keywords
from tlkit.train.callback import Callback

if TYPE_CHECKING:
    import numpy.typing as npt

    from tlkit.train.stage import StageTrainer

WINDOW = 0.1  # of the steps: how many losses are averaged to detect divergence
DIVERGED = 4.0  # stop when that average is this many times its minimum
SMOOTHING_STEPS = 0.04  # of the steps: the width of the Gaussian that smooths the losses
FALLS = 0.95  # a loss that stays above this share of its maximum has not fallen


@frozen
class RateCurve:
    """Loss over learning rate.

    Attributes:
        rates: The learning rate of each step, rising by a constant factor.
        losses: The mean weighted loss of each batch, before the step.
        folder: The folder with `lr-find.csv` and `lr-find.svg`.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    folder: Path

    @property
    def smoothed(self) -> npt.NDArray[Any]:
        """Return the losses smoothed by a Gaussian, `(steps,)`."""
        return smoothed(self.losses)

    @property
    def suggestion(self) -> float | None:
        """Return the rate at which the smoothed loss falls fastest; None if it does not fall."""
        return steepest(self.rates, self.losses)


def smoothed(losses: Sequence[float]) -> npt.NDArray[Any]:
    """Return losses smoothed by a centered Gaussian, which shifts nothing."""
    import numpy as np
    from scipy.ndimage import gaussian_filter1d

    width = max(1.0, SMOOTHING_STEPS * len(losses))
    curve: npt.NDArray[Any] = gaussian_filter1d(np.asarray(losses, float), width, mode="nearest")
    return curve


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate at which the smoothed loss falls fastest before its minimum."""
    import numpy as np

    curve = smoothed(losses)
    end = int(curve.argmin())
    if end < 2 or curve[end] > FALLS * curve[:end].max():
        return None
    slopes = np.gradient(curve[: end + 1], np.log10(rates[: end + 1]))
    return float(rates[int(slopes[:-1].argmin())])


@renamed_keywords(watcher="callback")
@guarded()
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
    """Train the first stage with a rising learning rate; write the curve as CSV and SVG.

    Args:
        experiment: An experiment, the path of its TOML file, or a dict with the same keys.
        out: A new folder for `lr-find.csv` and `lr-find.svg`; default: `runs/NAME-lr-find-N`.
        overrides: ``a.b=value`` expressions for an experiment given as a path or a dict.
        steps: The maximum number of steps; it stops early when the loss has grown fourfold.
        lowest: The first learning rate.
        highest: The last learning rate.
        callback: Receives progress; `tlkit.Terminal()` shows it. Unset: shown in a notebook only.

    Raises:
        TlkitError: If something is wrong; each kind of problem has its own subclass.
    """
    if not (0 < lowest < highest < float("inf") and steps >= 10):
        what = f"needs 0 < lowest < highest and at least 10 steps, got {lowest}, {highest}, {steps}"
        raise ConfigError([Problem("lr-find", what)])

    from tlkit.reports.charts import learning_rate_chart
    from tlkit.train.stage import StageTrainer

    out = None if out is None else Path(out)
    from tlkit.reports.progress import default_callback  # needs rich

    callback = callback or default_callback()
    prepared = prepare_run(experiment, out, overrides, callback)
    # One view of the images is enough to see how the loss reacts.
    experiment, plan = prepared.experiment.phases[0], prepared.plan
    if isinstance(experiment.optimizer, LBFGS):
        raise ConfigError([Problem("optimizer", "'lbfgs' has no learning rate; use another one")])
    one_view = evolve(experiment, augmentation=evolve(experiment.augmentation, views=1))
    first_stage = evolve(plan, stages=(evolve(plan.stages[0], views=(0,), devices=1),))
    stage = StageTrainer(evolve(prepared, experiment=one_view, plan=first_stage), 1, callback)
    stage.fit_statistics()
    factor = (highest / lowest) ** (1 / (steps - 1))
    rates = [lowest * factor**step for step in range(steps)]
    losses = list(_losses(stage, rates))
    if not losses:
        raise NumericalError(
            "the first training loss is nan or infinite, before any step; check the loss and the "
            "initial weights"
        )
    curve = RateCurve(tuple(rates[: len(losses)]), tuple(losses), Path())

    def fill(folder: RunFolder) -> None:
        smoothed = curve.smoothed.tolist()
        rows = zip(curve.rates, curve.losses, smoothed, strict=True)
        folder.write_csv("lr-find.csv", ["learning_rate", "loss", "smoothed"], rows)
        chart = learning_rate_chart(curve.rates, curve.losses, smoothed, curve.suggestion)
        write_text(folder.path / "lr-find.svg", standalone(chart.picture))

    return evolve(curve, folder=RunFolder.create(out, f"{experiment.name}-lr-find", fill).path)


def _losses(stage: StageTrainer, rates: Sequence[float]) -> Iterator[float]:
    """Yield the loss of one batch per rate, until it is not finite or has diverged."""
    from tlkit.train.step import TrainStep

    batches = itertools.chain.from_iterable(map(stage.batches, itertools.count(1)))
    assert isinstance(stage.step, TrainStep)
    recent: deque[float] = deque(maxlen=max(5, round(WINDOW * len(rates))))
    lowest = float("inf")
    for rate, (x, _, labels, weights) in zip(rates, batches, strict=False):
        stage.step.optimizer.learning_rate.assign(rate)
        loss = stage.step.train(x, labels, weights).mean("loss")
        if not loss < float("inf"):
            return
        yield loss
        recent.append(loss)
        if len(recent) == recent.maxlen:
            mean = sum(recent) / len(recent)
            lowest = min(lowest, mean)
            if mean > DIVERGED * lowest:
                return
