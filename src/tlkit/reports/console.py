"""Plans and results as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlkit.metrics.intervals import format_interval, format_share, format_value
from tlkit.model.layers import MOST_ROWS
from tlkit.system.text import printable

if TYPE_CHECKING:  # so that the command line, which imports this module, starts quickly
    from tlkit.metrics.scores import ClassScores, Scores
    from tlkit.train.plan import Plan, PlannedStage

MAX_WIDTH = 80  # of a table with a column for each class
MAX_NAME = 32  # of a class, in characters
MOST_CLASSES = 20  # that are listed if a column for each is too wide
PEAKS = 8  # confused pairs that are listed if the matrix is too wide
CLASS_METRICS = ("precision", "recall", "specificity", "auroc")
STYLES = (  # of lines on a terminal, by how they begin
    (re.compile(r"! |={9}|  STAND-IN DATA|  results only |warning: "), "yellow"),
    (re.compile(r"note: "), "cyan"),
    (re.compile(r"next: "), "green"),
    (re.compile(r"\S.*: accuracy \d"), "bold"),
)


def style_of(line: str) -> str:
    """Return how a line is shown on a terminal: a color, `bold`, or nothing.

    >>> style_of("! few: 12 images"), style_of("test: accuracy 93.1 %"), style_of("images: 3")
    ('yellow', 'bold', '')
    """
    return next((style for form, style in STYLES if form.match(line)), "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, the others to the right."""
    lines = [[*map(printable, row)] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    )


def stand_in_text(stand_in: str) -> str:
    """Return what must be said wherever results on stand-in data are shown.

    >>> stand_in_text("shapes")
    'synthetic images (shapes), not the real data; results only show that the pipeline works'
    """
    return (
        f"synthetic images ({stand_in}), not the real data; results only show that the pipeline "
        "works"
    )


def stand_in_banner(stand_in: str) -> str:
    """Return the warning above and below results on stand-in data."""
    text = f"  STAND-IN DATA: {stand_in_text(stand_in)}".replace("; ", ";\n  ")
    edge = "=" * (max(map(len, text.split("\n"))) + 2)
    return f"{edge}\n{text}\n{edge}"


def leakage_text(data: Mapping[str, Any]) -> str:
    """Return the warning that leakage was accepted; empty if there is none.

    >>> leakage_text({"leakage_accepted": {"patient": 1, "picture": 12}})
    'warning: leakage accepted: 1 patient and 12 pictures are in more than one split'
    >>> leakage_text({"leakage_accepted": {}})
    ''
    """
    accepted = data.get("leakage_accepted", {}).items()
    what = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in accepted)
    verb = "is" if sum(count for _, count in accepted) == 1 else "are"
    return f"warning: leakage accepted: {what} {verb} in more than one split" if what else ""


def plan_text(plan: Plan, all_layers: bool = False) -> str:
    """Return a plan: data, class weights, stages with their layers and learning rates.

    Args:
        plan: The plan.
        all_layers: Show a row per layer, in large networks too, instead of one per block.
    """
    lines = [stand_in_banner(plan.stand_in)] if plan.stand_in else []
    lines += [leakage_text(plan.data), ""] if leakage_text(plan.data) else []
    settings = [f"{key} {value}" for key, value in plan.loss.items() if key != "name"]
    loss = f"loss: {', '.join([plan.loss['name'], *settings])}; sampler: {plan.sampler}"
    lines += [_counts_text(plan), "", loss, ""]
    if plan.evaluated_on == "val":
        lines += ["no test split: results will be on val", ""]
    for number, planned in enumerate(plan.stages, start=1):
        lines += [_stage_text(plan, number, planned, all_layers), ""]
    return "\n".join(lines).rstrip()


def _counts_text(plan: Plan) -> str:
    """Return images and weights per class: a column per class, or a row if there are too many."""
    rows = [
        [split, *(str(counts[name]) for name in plan.classes), str(sum(counts.values()))]
        for split, counts in plan.counts.items()
    ]
    rows.append(["weight", *(f"{plan.class_weights[name]:.4g}" for name in plan.classes), ""])
    head = ["images", *map(_short, plan.classes), "all"]
    text = table(head, rows)
    if max(map(len, text.splitlines())) <= MAX_WIDTH:
        return text
    columns = [[name, *cells] for name, *cells in zip(head, *rows, strict=True)]
    hidden = columns[MOST_CLASSES + 1 : -1]
    shown = [*columns[: MOST_CLASSES + 1], columns[-1]] if hidden else columns
    text = table(shown[0], shown[1:])
    if not hidden:
        return text
    ranges = (
        f"{min(counts.values())} to {max(counts.values())} {split}"
        for split, counts in plan.counts.items()
    )
    return f"{text}\n… and {len(hidden)} more classes; images per class: {', '.join(ranges)}"


def _stage_text(plan: Plan, number: int, planned: PlannedStage, all_layers: bool) -> str:
    stage = planned.stage
    phase = f" (phase {planned.phase})" if plan.phases > 1 else ""
    head = f"stage {number} of {len(plan.stages)}{phase}, "
    if planned.l2:
        head += f"solved with {stage.epochs} strengths of L2 regularization, "
        head += " to ".join(f"{l2:.3g}" for l2 in dict.fromkeys((planned.l2[0], planned.l2[-1])))
    else:
        head += f"{stage.epochs} epoch{'s' * (stage.epochs > 1)} of {plan.steps_per_epoch} steps"
    times = "once" if len(planned.views) == 1 else f"{len(planned.views)} times"
    frozen = f"each training image goes through the frozen layers 1-{planned.cut} {times}"
    if not planned.cut:
        frozen = "no frozen layers before the first trained layer"
    params = f"{planned.trainable_params:,} trainable of {plan.layers.params:,} parameters"
    if planned.devices > 1:
        params += f"; {planned.devices} devices share each step"
    by_block = len(plan.layers) > MOST_ROWS and not all_layers
    layers = plan.layers.render(stage.lr_multipliers, by_block)
    return f"{head}\n{layers}\n{params}\n{frozen}"


def scores_text(split: str, scores: Scores) -> str:
    """Return a split's scores with their intervals, and the confusion matrix."""
    names = [_short(printable(name)) for name in scores.classes]
    rows = [
        [name, str(of_class.support), *(_class_metric(of_class, key) for key in CLASS_METRICS)]
        for name, of_class in zip(names, scores.per_class.values(), strict=True)
    ]
    head = ["class", "images", *(f"{metric} %" for metric in CLASS_METRICS[:3]), "AUROC"]

    def share(metric: str) -> str:
        return format_share(getattr(scores, metric), scores.intervals.get(metric))

    def decimal(metric: str) -> str:
        interval = scores.intervals.get(metric)
        return format_share(getattr(scores, metric), interval, percent=False, digits=2)

    means = f"balanced accuracy {share('balanced_accuracy')}, macro F1 {decimal('macro_f1')}"
    lines = [
        f"{split}: accuracy {share('accuracy')}, {scores.images:,} images (95 % intervals)",
        f"{means}, kappa {decimal('kappa')}",
    ]
    if scores.log_loss is not None:
        error = format_value(scores.calibration_error, percent=False, digits=2)
        lines.append(
            f"log loss {decimal('log_loss')}, Brier score {decimal('brier')}, "
            f"calibration error {error}"
        )
    confusion = _confusion_text(names, scores.confusion)
    text = table(head, rows)
    if len(rows) > 2 * MOST_CLASSES:
        recalls = [2.0 if c.recall is None else c.recall for c in scores.per_class.values()]
        worst = sorted(range(len(rows)), key=recalls.__getitem__)
        text = table(head, [rows[number] for number in worst[:MOST_CLASSES]])
        text += f"\n… and {len(rows) - MOST_CLASSES} more classes with a recall as high or higher"
    return "\n".join([*lines, "", text, "", confusion])


def _confusion_text(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix; if it is too wide, with numbered columns or only its peaks."""
    corner = "truth \\ predicted"
    rows = [list(map(str, row)) for row in confusion]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    numbered = [f"{number} {name}" for number, name in zip(numbers, names, strict=True)]
    for left, above in ((names, names), (numbered, numbers)):
        cells = [[name, *row] for name, row in zip(left, rows, strict=True)]
        text = table([corner, *above], cells)
        if max(map(len, text.splitlines())) <= MAX_WIDTH:
            return text
    wrong = sorted(
        (-count, i, k) for i, row in enumerate(confusion) for k, count in enumerate(row) if i != k
    )
    peaks = [[names[i], names[k], str(-count)] for count, i, k in wrong[:PEAKS] if count]
    return table(["most often confused: truth", "predicted", "images"], peaks)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _class_metric(scores: ClassScores, metric: str) -> str:
    """Return a class's metric with its interval, short enough for a table of 80 columns."""
    value: float | None = getattr(scores, metric)
    interval = scores.intervals.get(metric)
    if metric == "auroc":
        return format_share(value, interval, percent=False, missing="-", digits=2)
    text = format_value(value).removesuffix(" %")
    return f"{text} ({format_interval(interval, digits=0)})" if interval else text


def caveats_text(caveats: Iterable[str]) -> str:
    """Return warnings, one per line."""
    return "\n".join(f"! {printable(text)}" for text in caveats)


def kept_epoch_text(
    keep: str,
    monitor: str,
    kept: int,
    other: int,
    other_accuracy: float,
    split: str,
    refit_images: int | None = None,
) -> str:
    """Return which epoch's weights were kept, and the accuracy of the alternative.

    >>> kept_epoch_text("last", "val_loss", 5, 5, 0.5, "test")
    'weights from epoch 5, the last and the best by val_loss'
    >>> kept_epoch_text("last", "val_loss", 5, 3, 0.5, "test")
    'weights from epoch 5, the last; epoch 3, the best by val_loss, has accuracy 50.0 % on test'
    """
    last, best = "the last", f"the best by {monitor}"
    if refit_images is not None:
        setting = f"the setting of epoch {kept}, {best if keep == 'best' else last}"
        return (
            f"weights from {setting}, fitted again to all {refit_images:,} training and validation "
            "images; the scores on val are from before that"
        )
    if kept == other:
        return f"weights from epoch {kept}, {last} and {best}"
    mine, theirs = (last, best) if keep == "last" else (best, last)
    return (
        f"weights from epoch {kept}, {mine}; epoch {other}, {theirs}, has accuracy "
        f"{format_value(other_accuracy)} on {split}"
    )


def references_text(
    ours: Mapping[str, float | None], cited: Mapping[str, Mapping[str, float | None]]
) -> str:
    """Return our metrics next to published ones."""
    rows = [
        [
            name,
            format_value(value),
            *(format_value(theirs[name], missing="-") for theirs in cited.values()),
        ]
        for name, value in ours.items()
        if any(theirs[name] is not None for theirs in cited.values())
    ]
    marks = [f"[{number}]" for number in range(1, len(cited) + 1)]
    sources = [" ".join(pair) for pair in zip(marks, cited, strict=True)]
    return "\n".join([table(["published results", "ours", *marks], rows), *sources])
