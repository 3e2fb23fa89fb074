"""What to change when a run has not learned what it could, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from tlkit.metrics.intervals import format_value
from tlkit.reports.caveats import chance_caveat
from tlkit.runfolder.record import RunRecord
from tlkit.system.notebook import hint
from tlkit.train.callback import Epoch, best_of

FAR = 3.0  # times the loss of guessing, from which a first epoch began far off
FLAT = 0.97  # of the loss of guessing: a training loss above it has learned nothing
FALLING = 0.02  # share of the loss that an epoch must still gain
RISING = 1.1  # times its lowest value, from which the validation loss has risen
BY_HEART = 0.98  # training accuracy
GAP = 0.15  # between training and validation accuracy
Hint = Callable[..., str]
PAGE = "howto/it-does-not-learn.md"


@frozen
class Finding:
    """What the figures of a run show, and what to change.

    Attributes:
        what: What was seen.
        advice: The keys to change.
    """

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what} {self.advice}"


def diagnose(run: RunRecord, hint: Hint = hint) -> list[Finding]:
    """Return what to change, most important first; nothing for results on stand-in data.

    Args:
        run: The run.
        hint: How a verb is named: as it is used from here, or as a command for a page.
    """
    if run.stand_in or not run.history:
        return []
    return [
        *_collapse(run),
        *_loss(run, hint),
        *_overfitting(run),
        *_few_images(run, hint),
    ]


def next_steps(run: RunRecord, folder: Path, findings: Sequence[Finding]) -> list[str]:
    """Return what to do after a run, a line each."""
    if run.stand_in or run.experiment.data.name in {"shapes", "digits"}:
        return [f"your own pictures: {hint('init --from', 'FOLDER')}"]
    if chance_caveat(run.scores):
        return [
            f"change what is said above; compare with: {hint('compare', folder, 'OTHER_RUN')}"
            if findings
            else f"look at the data: {hint('data inspect', 'FOLDER')}"
        ]
    return [f"read the report, then: {hint('predict', folder, 'IMAGE...')}"]


def _guessing(run: RunRecord) -> float:
    """Return the loss of always predicting the classes' shares of the training images."""
    counts = [count for count in run.plan.counts["train"].values() if count]
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts)


def _solver(run: RunRecord) -> bool:
    """Tell whether the optimizer fits to convergence, so that rates and epochs are not at fault."""
    return bool(run.experiment.table.get("optimizer", {}).get("name") == "lbfgs")


def _collapse(run: RunRecord) -> Iterator[Finding]:
    scores, counts = run.scores, run.plan.counts["train"].values()
    missing = scores.never_predicted
    balanced = max(counts) <= 1.5 * max(1, min(counts))
    if len(missing) == len(run.classes) - 1:
        only = next(name for name in run.classes if name not in missing)
        advice = "a tenth of [optimizer] learning_rate, or [head] standardize = true."
        if not balanced:
            advice = f'[class_weights] name = "balanced", or {advice}'
        yield Finding(f"Every image is called {only}.", f"Try {advice}")
    elif missing and not balanced:
        names = ", ".join(missing)
        yield Finding(f"No image is called {names}.", 'Try [class_weights] name = "balanced".')


def _loss(run: RunRecord, hint: Hint) -> Iterator[Finding]:
    first, last, guess = run.history[0], run.history[-1], _guessing(run)
    if _solver(run):
        return
    if far := first.loss_unweighted > FAR * guess:
        yield Finding(
            f"The training loss began at {first.loss_unweighted:.1f}, where guessing has "
            f"{guess:.1f}: the features are far from the range that a new layer expects.",
            f"Try [head] standardize = true, or the recipe: {hint('init --recipe', 'probe')}.",
        )
    if _still_falling(run.history):
        yield Finding(
            "The loss was still falling in the last epoch, in training and on val: training was "
            "not finished.",
            f"Try fit.epochs = {2 * last.epoch}, or a higher learning rate: "
            f"{hint('lr-find', 'FILE')}.",
        )
    elif not far and min(epoch.loss_unweighted for epoch in run.history) > FLAT * guess:
        yield Finding(
            f"The training loss stayed at {last.loss_unweighted:.2f}; guessing has {guess:.2f}.",
            f"Try another learning rate ({hint('lr-find', 'FILE')}), [head] standardize = true, or "
            "train more layers with [freeze]. If nothing helps, look at the labels: "
            f"{hint('data inspect', 'FOLDER')}.",
        )


def _still_falling(history: Sequence[Epoch]) -> bool:
    """Tell whether both losses of the last stage fell to the end."""
    stage = [epoch for epoch in history if epoch.stage == history[-1].stage]
    if len(stage) < 3 or best_of(stage, "val_loss") is not stage[-1]:
        return False
    start, end = stage[-3], stage[-1]
    return end.loss_unweighted < (1 - 2 * FALLING) * start.loss_unweighted and (
        end.val_loss < (1 - 2 * FALLING) * start.val_loss
    )


def _overfitting(run: RunRecord) -> Iterator[Finding]:
    last, best = run.history[-1], best_of(run.history, "val_loss")
    if run.metrics.keep == "last" and not _solver(run):
        rises = last.val_loss > RISING * best.val_loss
        if rises and last.loss_unweighted < best.loss_unweighted:
            yield Finding(
                f"The loss on val was lowest in epoch {best.epoch} and rose while the training "
                "loss fell: the model learned the training images.",
                'Try fit.keep = "best" and fit.early_stop_patience = 3; an [augmentation]; fewer '
                "trained layers.",
            )
            return
    kept = next((e for e in run.history if e.epoch == run.metrics.kept.epoch), last)
    if kept.accuracy >= BY_HEART and kept.accuracy - kept.val_accuracy > GAP:
        yield Finding(
            f"Accuracy is {format_value(kept.accuracy)} in training and "
            f"{format_value(kept.val_accuracy)} on val: the training images were learned by heart.",
            "More images help most; else an [augmentation], a smaller [head] or fewer trained "
            "layers.",
        )


def _few_images(run: RunRecord, hint: Hint) -> Iterator[Finding]:
    scores = run.metrics.kept.scores
    if "test" not in scores or "val" not in scores:
        return
    val, test = (scores[split].intervals.get("accuracy") for split in ("val", "test"))
    if val and test and (val.low > test.high or test.low > val.high):
        yield Finding(
            f"Accuracy is {format_value(scores['val'].accuracy)} on val and "
            f"{format_value(scores['test'].accuracy)} on test, more apart than chance explains: "
            "the splits differ.",
            f"Look at both ({hint('data inspect', 'FOLDER')}), split by patient, or "
            "cross-validate with data.folds = 5.",
        )
