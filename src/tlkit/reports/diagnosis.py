"""What to change when a run has not learned what it could, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    kept, last = _phase(run, _kept(run)), _phase(run, run.history[-1])
    collapse = [*_collapse(run, kept, hint)]
    one_class = len(run.scores.never_predicted) == len(run.classes) - 1
    return [
        *collapse,
        *_strength(run, kept, hint),
        *([] if one_class else _loss(run, last, hint)),
        *_overfitting(run, kept),
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


@frozen
class _Phase:
    """A phase, or the only one.

    Attributes:
        number: Its number in the file; None if that has no phases.
        tables: What the file says of it.
        epochs: Its epochs.
    """

    number: int | None
    tables: Mapping[str, Any]
    epochs: tuple[Epoch, ...]

    @property
    def solver(self) -> bool:
        """Tell whether it is fitted to convergence, so that rates and epochs are not at fault."""
        return bool(self.tables.get("optimizer", {}).get("name") == "lbfgs")

    @property
    def standardizing(self) -> str:
        """Return how its head would standardize features; empty if it does."""
        head = self.tables.get("head", {})
        if head.get("standardize") or head.get("name") == "kernel":
            return ""
        pooled = "" if "standardize" in head else 'name = "pooled", '
        return f"[head] {pooled}standardize = true"

    @property
    def name(self) -> str:
        """Return what follows a noun, such as ` of phase 2`."""
        return "" if self.number is None else f" of phase {self.number}"

    @property
    def learning_rate(self) -> str:
        """Return the name of its learning rate."""
        return f"[optimizer] learning_rate{self.name}"

    def finds_rate(self, hint: Hint) -> str:
        """Return the command that finds a learning rate, which knows only the first phase."""
        return f": {hint('lr-find', 'FILE')}" if self.number in {None, 1} else ""


def _phase(run: RunRecord, epoch: Epoch) -> _Phase:
    """Return the phase of an epoch."""
    stages, tables = run.plan.stages, run.experiment.table
    number, phases = stages[epoch.stage - 1].phase, tables.get("phase")
    return _Phase(
        number if phases else None,
        {**tables, **phases[number - 1]} if phases else tables,
        tuple(each for each in run.history if stages[each.stage - 1].phase == number),
    )


def _kept(run: RunRecord) -> Epoch:
    kept = (epoch for epoch in run.history if epoch.epoch == run.metrics.kept.epoch)
    return next(kept, run.history[-1])


def _collapse(run: RunRecord, phase: _Phase, hint: Hint) -> Iterator[Finding]:
    scores, counts = run.scores, run.plan.counts["train"].values()
    missing = scores.never_predicted
    balanced = max(counts) <= 1.5 * max(1, min(counts))
    if len(missing) == len(run.classes) - 1:
        only = next(name for name in run.classes if name not in missing)
        options = [] if balanced else ['[class_weights] name = "balanced"']
        if phase.solver:
            options.append(f"larger images or another backbone: {hint('probe', 'FOLDER')}")
        else:
            options.append(f"a tenth of {phase.learning_rate}")
            options += [phase.standardizing] if phase.standardizing else []
        yield Finding(f"Every image is called {only}.", f"Try {', or '.join(options)}.")
    elif missing and not balanced:
        names = ", ".join(missing)
        yield Finding(f"No image is called {names}.", 'Try [class_weights] name = "balanced".')


def _strength(run: RunRecord, phase: _Phase, hint: Hint) -> Iterator[Finding]:
    """Yield a finding if the solver would regularize more strongly than it may."""
    kept, guess = _kept(run), _guessing(run)
    chosen = phase.solver and run.metrics.keep == "best" and len(phase.epochs) > 1
    if chosen and kept is phase.epochs[0] and kept.val_loss > FLAT * guess:
        strongest = phase.tables["optimizer"].get("strongest", 10.0)
        yield Finding(
            f"The strongest regularization that was tried{phase.name} is the best on val, where "
            f"the loss is {kept.val_loss:.2f}; guessing has {guess:.2f}.",
            f"Try optimizer.strongest = {10 * strongest:g}. If that changes little, these features "
            f"do not tell the classes apart: try larger images or another backbone: "
            f"{hint('probe', 'FOLDER')}.",
        )


def _loss(run: RunRecord, phase: _Phase, hint: Hint) -> Iterator[Finding]:
    if phase.solver:
        return
    first, last, guess = phase.epochs[0], phase.epochs[-1], _guessing(run)
    began_far = first.loss_unweighted > FAR * guess
    if began_far and phase.standardizing and phase.number in {None, 1}:
        yield Finding(
            f"The training loss began at {first.loss_unweighted:.1f}, where guessing has "
            f"{guess:.1f}: the features are far from the range that a new layer expects.",
            f"Try {phase.standardizing}, or the recipe: {hint('init --recipe', 'probe')}.",
        )
    elif began_far or last.loss_unweighted > FAR * guess:
        did, loss = ("began", first) if began_far else ("ended", last)
        yield Finding(
            f"The training loss{phase.name} {did} at {loss.loss_unweighted:.1f}, where guessing "
            f"has {guess:.1f}: the steps are too large.",
            f"Try a tenth of {phase.learning_rate}.",
        )
    elif _still_falling(run.history):
        count = 2 * len(phase.epochs)
        longer = f"fit.epochs = {2 * last.epoch}" if phase.number is None else f"epochs = {count}"
        yield Finding(
            f"The loss{phase.name} was still falling in the last epoch, in training and on val: "
            "training was not finished.",
            f"Try {longer}, or a higher learning rate{phase.finds_rate(hint)}.",
        )
    elif min(epoch.loss_unweighted for epoch in phase.epochs) > FLAT * guess:
        standardize = f"{phase.standardizing}, " if phase.standardizing else ""
        yield Finding(
            f"The training loss{phase.name} stayed at {last.loss_unweighted:.2f}; guessing has "
            f"{guess:.2f}.",
            f"Try {standardize}more trained layers with [freeze], or another learning rate"
            f"{phase.finds_rate(hint)}. If nothing helps, look at the labels: "
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


def _overfitting(run: RunRecord, phase: _Phase) -> Iterator[Finding]:
    last, best = run.history[-1], best_of(run.history, "val_loss")
    if run.metrics.keep == "last":
        rises = last.val_loss > RISING * best.val_loss
        if rises and last.loss_unweighted < best.loss_unweighted:
            lowest = f"The loss on val was lowest in epoch {best.epoch}"
            if phase.solver:
                yield Finding(
                    f"{lowest}, with a stronger regularization, and rose from there.",
                    'Try fit.keep = "best", which chooses the strength on val.',
                )
                return
            yield Finding(
                f"{lowest} and rose while the training loss fell: the model learned the training "
                "images.",
                'Try fit.keep = "best" and fit.early_stop_patience = 3; an [augmentation]; fewer '
                "trained layers.",
            )
            return
    # A solver of more features than images always fits them; its strength is chosen on val.
    kept = _kept(run)
    by_heart = kept.accuracy >= BY_HEART and kept.accuracy - kept.val_accuracy > GAP
    if by_heart and not phase.solver:
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
