"""Successive halving: variants are compared after some epochs, and the weakest are dropped.

Who goes on depends on the results alone, not on when or where they came.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from tlkit.config.sweep import SearchTable
from tlkit.sweeps.trials import Trial, Trials
from tlkit.train.callback import Epoch, best_of

Value = tuple[float, float]  # accuracy on val, and minus the loss there, which decides ties
WORST: Value = (-math.inf, -math.inf)


def rungs(search: SearchTable, trials: Sequence[Trial]) -> list[int]:
    """Return after how many epochs variants are compared; none without successive halving."""
    if search.min_epochs is None:
        return []
    most = max(trial.plan.epochs for trial in trials)
    counts = (search.min_epochs * search.factor**step for step in range(most.bit_length()))
    return [count for count in counts if count < most]


@frozen
class Standing:
    """Which runs may go how far, by their names.

    Attributes:
        until: After how many epochs a run pauses until it is known whether it goes on; None: it
            goes to its end.
        dropped: After how many epochs its variant was dropped.
        epochs: How many epochs it will have, on average over what is not known yet.
    """

    until: Mapping[str, int | None]
    dropped: Mapping[str, int]
    epochs: Mapping[str, float]


def standing(trials: Trials, value_at: Callable[[Trial, int], Value | None]) -> Standing:
    """Decide by successive halving, as far as the results so far allow.

    A variant goes on as soon as nothing that is still unknown can keep it from being among the
    best, and is dropped as soon as enough others are better.

    Args:
        trials: All runs.
        value_at: A run's value after some epochs, `WORST` if it failed; None if not known yet.
    """
    until: dict[str, int | None] = {}
    dropped: dict[str, int] = {}
    expected = {trial.name: float(trial.plan.epochs) for trial in trials.trials}
    if trials.search is None or trials.search.min_epochs is None:
        return Standing({trial.name: None for trial in trials.trials}, dropped, expected)
    for batch in batches_of(trials):
        alive, unborn = batch, 0  # `unborn`: how many more will come, not yet known which
        chance = {runs[0].name: 1.0 for runs in batch}  # of variants that may go on, that they do
        for epochs in rungs(trials.search, [trial for runs in batch for trial in runs]):
            keep = math.ceil((len(alive) + unborn) / trials.search.factor)
            valued = [(runs, mean_value([value_at(t, epochs) for t in runs])) for runs in alive]
            ranked = sorted(
                ((runs, value) for runs, value in valued if value is not None),
                key=lambda pair: (-pair[1][0], -pair[1][1]),
            )
            unknown = unborn + len(valued) - len(ranked)
            alive = []
            for runs, value in valued:
                if value is None:
                    until |= {trial.name: epochs for trial in runs}
            for place, (runs, _) in enumerate(ranked):
                if place >= keep:
                    dropped |= {trial.name: epochs for trial in runs}
                elif place + unknown >= keep:
                    until |= {trial.name: epochs for trial in runs}
                else:
                    alive.append(runs)
            unborn = keep - len(alive)
            going = dict.fromkeys((runs[0].name for runs in alive), 1.0)
            open_ = {n: c for n, c in chance.items() if n not in dropped and n not in going}
            total = sum(open_.values()) or 1.0
            now = going | {name: one * unborn / total for name, one in open_.items()}
            for runs in batch:
                lost = chance.get(runs[0].name, 0.0) - now.get(runs[0].name, 0.0)
                for trial in runs:
                    expected[trial.name] -= lost * (trial.plan.epochs - epochs)
            chance = now
        until |= {trial.name: None for runs in alive for trial in runs}
    return Standing(until, dropped, expected)


def batches_of(trials: Trials) -> list[list[list[Trial]]]:
    """Return the runs of each variant, by the batches in which the variants were drawn."""
    batches: dict[int, list[list[Trial]]] = {}
    for trial in trials.trials:
        batch = batches.setdefault(trial.batch, [])
        known = next((runs for runs in batch if runs[0].variant == trial.variant), None)
        if known is None:
            batch.append([trial])
        else:
            known.append(trial)
    return list(batches.values())


def mean_value(values: Sequence[Value | None]) -> Value | None:
    """Return a variant's value from those of its runs; the worst one if any failed."""
    if WORST in values:
        return WORST
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    accuracy, loss = (statistics.fmean(column) for column in zip(*known, strict=True))
    return accuracy, loss


def value_after(trial: Trial, history: Sequence[Epoch]) -> Value:
    """Return a run's value after some epochs: that of the epoch whose weights it would keep."""
    fit = trial.experiment.fit
    epoch = best_of(history, fit.monitor) if fit.keep == "best" else history[-1]
    return epoch.val_accuracy, -epoch.val_loss
