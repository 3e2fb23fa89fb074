"""What a person reads of plans and results on a terminal: tables and lines as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlkit.system.text import printable

if TYPE_CHECKING:
    from tlkit.config.experiment import PublishedResult
    from tlkit.metrics.intervals import Interval
    from tlkit.metrics.scores import ClassScores, Scores
    from tlkit.runner.run import Run
    from tlkit.train.plan import Plan, PlannedStage

WIDEST, LONGEST, PEAKS = 100, 32, 8  # columns of a matrix, signs of a name, confused pairs
SHOWN = ("precision", "recall", "specificity", "auroc")  # of each class, on a terminal


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, the others to the right."""
    head, rows = [*map(printable, head)], [[*map(printable, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    )


def stand_in_banner(stand_in: str) -> str:
    """Return the warning that results are not about real images."""
    line = (
        f"STAND-IN DATA: drawn {stand_in}s, not real images; the results only show that things work"
    )
    edge = "=" * (len(line) + 4)
    return f"{edge}\n  {line}\n{edge}"


def leakage_text(data: Mapping[str, Any]) -> str:
    """Return the warning that a patient or picture in two splits was accepted; empty if none was.

    >>> leakage_text({"leakage_accepted": {"patient": 1, "picture": 12}})
    'warning: leakage accepted: 1 patient and 12 pictures are in more than one split'
    >>> leakage_text({"leakage_accepted": {}})
    ''
    """
    accepted = data.get("leakage_accepted", {}).items()
    what = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in accepted)
    verb = "is" if sum(count for _, count in accepted) == 1 else "are"
    return f"warning: leakage accepted: {what} {verb} in more than one split" if what else ""


def plan_text(plan: Plan) -> str:
    """Return a plan as text: data, class weights, layers with rates, stages."""
    lines = [stand_in_banner(plan.stand_in)] if plan.stand_in else []
    lines += [leakage_text(plan.data), ""] if leakage_text(plan.data) else []
    rows = [
        [split, *(str(counts[name]) for name in plan.classes), str(sum(counts.values()))]
        for split, counts in plan.counts.items()
    ]
    rows.append(["weight", *(f"{plan.class_weights[name]:.4g}" for name in plan.classes), ""])
    keys = [f"{key} {value}" for key, value in plan.loss.items() if key != "name"]
    drawn = f"loss: {', '.join([plan.loss['name'], *keys])}; sampler: {plan.sampler}"
    lines += [table(["images", *plan.classes, "all"], rows), "", drawn, ""]
    if plan.evaluated_on == "val":
        lines += ["no test split: the results will be those on val", ""]
    for number, planned in enumerate(plan.stages, start=1):
        lines += [_stage_text(plan, number, planned), ""]
    return "\n".join(lines).rstrip()


def _stage_text(plan: Plan, number: int, planned: PlannedStage) -> str:
    stage = planned.stage
    head = f"stage {number} of {len(plan.stages)}, "
    head += f"{stage.epochs} epochs of {plan.steps_per_epoch} steps"
    times = "once" if len(planned.views) == 1 else f"{len(planned.views)} times"
    frozen = f"each training image goes through the frozen layers 1-{planned.cut} {times}"
    if not planned.cut:
        frozen = "no frozen layers before the first trained one"
    params = f"{planned.trainable_params:,} trainable of {plan.layers.params:,} parameters"
    return f"{head}\n{plan.layers.render(stage.lr_multipliers)}\n{params}; {frozen}"


def scores_text(split: str, scores: Scores) -> str:
    """Return a split's scores as text: the figures with their intervals, the confusion matrix."""
    names = [_short(printable(name)) for name in scores.classes]
    rows = [
        [name, str(one.support), *(_of_class(one, figure) for figure in SHOWN)]
        for name, one in zip(names, scores.per_class.values(), strict=True)
    ]
    head = ["class", "images", *(f"{figure} %" for figure in SHOWN[:3]), "AUROC"]
    means = [
        f"balanced accuracy {share(scores.balanced_accuracy)}"
        + bracketed(scores.intervals.get("balanced_accuracy"), 100, 1),
        _named("macro F1", scores.macro_f1, scores.intervals.get("macro_f1")),
        _named("kappa", scores.kappa, scores.intervals.get("kappa")),
    ]
    losses = [
        _named("log loss", scores.log_loss, scores.intervals.get("log_loss")),
        _named("Brier score", scores.brier, scores.intervals.get("brier")),
        _named("calibration error", scores.calibration_error, None),
    ]
    accuracy = share(scores.accuracy) + bracketed(scores.intervals.get("accuracy"), 100, 1)
    return "\n".join(
        [
            f"{split}: accuracy {accuracy}, {scores.images} images; in brackets 95 % intervals",
            ", ".join(means),
            *([", ".join(losses)] if scores.log_loss is not None else []),
            "",
            table(head, rows),
            "",
            _confusion_text(names, scores.confusion),
        ]
    )


def _confusion_text(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix as text; if it is too wide with numbered columns, or its peaks."""
    corner = "truth \\ predicted"
    rows = [list(map(str, row)) for row in confusion]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    numbered = [f"{number} {name}" for number, name in zip(numbers, names, strict=True)]
    for left, above in ((names, names), (numbered, numbers)):
        cells = [[name, *row] for name, row in zip(left, rows, strict=True)]
        text = table([corner, *above], cells)
        if max(map(len, text.splitlines())) <= WIDEST:
            return text
    wrong = sorted(
        ((count, i, k) for i, row in enumerate(confusion) for k, count in enumerate(row) if i != k),
        key=lambda one: (-one[0], one[1:]),
    )
    peaks = [[names[i], names[k], str(count)] for count, i, k in wrong[:PEAKS] if count]
    return table(["most often confused: truth", "predicted", "images"], peaks)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _of_class(one: ClassScores, figure: str) -> str:
    """Return a class's figure with its interval, short enough for a table of 80 columns."""
    value: float | None = getattr(one, figure)
    if value is None:
        return "-" if figure == "auroc" else "undefined"
    scale, digits = (1, 2) if figure == "auroc" else (100, 0)
    text = f"{value:.2f}" if figure == "auroc" else f"{100 * value:.1f}"
    return text + bracketed(one.intervals.get(figure), scale, digits)


def _named(name: str, value: float | None, interval: Interval | None) -> str:
    if value is None:
        return f"{name} undefined"
    return f"{name} {value:.2f}{bracketed(interval, 1, 2)}"


def bracketed(interval: Interval | None, scale: int, digits: int) -> str:
    """Return an interval in brackets, with a blank before it; nothing if there is none.

    Args:
        interval: The interval.
        scale: What its ends are multiplied with: 100 for per cent.
        digits: How many digits they have after the point.
    """
    if interval is None:
        return ""
    return f" ({scale * interval.low:.{digits}f}–{scale * interval.high:.{digits}f})"


def cautions_text(found: Sequence[str]) -> str:
    """Return warnings as text, one below the other."""
    return "\n".join(f"! {printable(text)}" for text in found)


def epochs_text(run: Run) -> str:
    """Return which epoch's weights were kept, and how good those of the other choice are."""
    fit, split = run.experiment.fit, run.plan.evaluated_on
    last = f"last epoch, {run.last.epoch}"
    best = f"best epoch by {fit.monitor}, {run.best.epoch}"
    if run.last.epoch == run.best.epoch:
        return f"weights of the {last}, which is the best by {fit.monitor} too"
    kept, other, scored = (best, last, run.last) if fit.keep == "best" else (last, best, run.best)
    accuracy = share(scored.scores[split].accuracy)
    return f"weights of the {kept}; those of the {other}, have accuracy {accuracy} on {split}"


def references_text(
    ours: Mapping[str, float | None],
    published: Sequence[tuple[PublishedResult, Mapping[str, float | None]]],
) -> str:
    """Return our figures beside published ones, as text.

    Args:
        ours: Our figures by name.
        published: Published results with their figures under the same names.
    """
    rows = [
        [name, share(ours[name]), *(share(found[name], "-") for _, found in published)]
        for name in ours
        if any(found[name] is not None for _, found in published)
    ]
    numbers = [f"[{number}]" for number in range(1, len(published) + 1)]
    sources = [
        f"{number} {reference.source}" + ("" if reference.same_test else ", on other test images")
        for number, (reference, _) in zip(numbers, published, strict=True)
    ]
    return "\n".join([table(["beside published results", "ours", *numbers], rows), *sources])


def share(value: float | None, missing: str = "undefined") -> str:
    """Return a share as a percentage with one decimal.

    >>> share(0.7792), share(None)
    ('77.9 %', 'undefined')
    """
    return missing if value is None else f"{100 * value:.1f} %"
