"""A probe's table for a terminal, and its page, which needs no other file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tlkit.metrics.intervals import format_interval, format_value
from tlkit.metrics.scores import Scores
from tlkit.probes.result import ProbedBackbone, ProbeResult
from tlkit.reports.compare import PAIR_HEAD, pair_rows
from tlkit.reports.console import table
from tlkit.reports.page import page
from tlkit.reports.svg import interval_plot
from tlkit.system.text import printable, shell_quoted

HEAD = ("", "accuracy", "95 %", "balanced", "95 %", "ms per image", "px", "parameters")
MAX_CLASSES = 12  # classes whose recall the page shows


def probe_text(result: ProbeResult) -> str:
    """Return the ranking and the comparison with the best, for a terminal."""
    rows = [
        [f"[{number}] {one.label}", *_cells(one)]
        for number, one in enumerate(result.backbones, start=1)
    ]
    blocks = [table(HEAD, rows)]
    if result.against_best:
        blocks.append(table(PAIR_HEAD, pair_rows(result.against_best)))
    if texts := [f"! {printable(text)}" for text in cautions(result)]:
        blocks.append("\n".join(texts))
    return "\n\n".join(blocks)


def _cells(one: ProbedBackbone) -> list[str]:
    scores = one.scores
    return [
        format_value(scores.accuracy),
        format_interval(scores.intervals["accuracy"]),
        format_value(scores.balanced_accuracy),
        format_interval(scores.intervals["balanced_accuracy"]),
        f"{one.ms_per_image:.1f}",
        str(one.image_size),
        f"{one.params / 1e6:.1f} M",
    ]


def cautions(result: ProbeResult) -> Iterator[str]:
    """Yield what a reader should know before choosing."""
    if len(result.backbones) > 1:
        yield ("the best of several looks better than it is, because it was chosen on these images")
    if len(result.backbones) > 2:
        yield f"p-values are not corrected for {len(result.backbones) - 1} comparisons"


def probe_page(result: ProbeResult) -> str:
    """Return the page."""
    images = f"{result.images:,} images in {result.groups:,} groups"
    classes = result.classes[:MAX_CLASSES]
    return page(
        "probe.html.j2",
        title=f"{result.data.name}: {len(result.backbones)} networks probed",
        name=result.data.name,
        lead=f"{images}, {len(result.classes)} classes, {result.folds} folds, seed {result.seed}",
        cautions=[f"{text[:1].upper()}{text[1:]}." for text in cautions(result)],
        notes=[f"{text[:1].upper()}{text[1:]}." for text in result.notes],
        rows=[_row(number, one) for number, one in enumerate(result.backbones, start=1)],
        unit="patient" if _by_patient(result.best.scores) else "image",
        pair_head=PAIR_HEAD,
        pairs=pair_rows(result.against_best),
        classes=classes,
        more_classes=len(result.classes) - len(classes),
        recalls=[
            (one.label, [_recall(one.scores, name) for name in classes]) for one in result.backbones
        ],
        command=f"tlkit run {shell_quoted(result.experiment)}",
    )


def _row(number: int, one: ProbedBackbone) -> dict[str, Any]:
    scores = one.scores
    return {
        "number": number,
        "label": one.name,
        "source": one.source,
        "accuracy": scores.accuracy,
        "ends": scores.intervals["accuracy"],
        "plot": interval_plot(scores.accuracy, scores.intervals["accuracy"]),
        "balanced": scores.balanced_accuracy,
        "balanced_ends": scores.intervals["balanced_accuracy"],
        "ms": f"{one.ms_per_image:.1f}",
        "px": one.image_size,
        "params": f"{one.params / 1e6:.1f} M",
        "features": f"{one.features:,}",
        "l2": ", ".join(f"{l2:.2g}" for l2 in sorted(set(one.l2), reverse=True)),
    }


def _recall(scores: Scores, name: str) -> str:
    own = scores.per_class[name]
    return f"{format_value(own.recall)} ({format_interval(own.intervals['recall'])})"


def _by_patient(scores: Scores) -> bool:
    return scores.resampling is not None and scores.resampling.unit == "patient"
