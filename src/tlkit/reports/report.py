"""`report.html`: everything about a finished run on one page, from its folder's files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from markupsafe import Markup, escape

from tlkit.metrics.intervals import format_interval
from tlkit.metrics.published import ReferenceRow, reference_rows, remarks
from tlkit.metrics.scores import Scores
from tlkit.reports.card import weights_text
from tlkit.reports.caveats import caveats, source_table
from tlkit.reports.charts import (
    Labels,
    Probabilities,
    learning_charts,
    precision_recall_chart,
    reliability_chart,
    roc_chart,
)
from tlkit.reports.console import kept_epoch_text, stand_in_text
from tlkit.reports.diagnosis import diagnose
from tlkit.reports.gallery import Gallery
from tlkit.reports.page import data_element, page
from tlkit.reports.svg import interval_plot
from tlkit.reports.tables import (
    HEAD,
    class_tables,
    method_text,
    metric_row,
    overall_rows,
    p_text,
    phase_results,
    verdict,
)
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord
from tlkit.system.files import write_text
from tlkit.system.notebook import command
from tlkit.system.text import printable_lines

REPORT = "report.html"
MATRIX_CLASSES = 30  # a confusion matrix of more classes is not shown
HEADLINE_CLASSES = 4  # whose recall is shown at the top
SECTIONS = {
    "results": "Results",
    "references": "Published results",
    "explanations": "Explanations",
    "training": "Training",
    "configuration": "Configuration",
    "use": "Intended use",
    "reproduce": "Reproduce",
}
# The experiment's tables that name a part or control how it is used.
PARTS = ("data", "backbone", "head", "freeze", "class_weights", "augmentation", "loss",
         "optimizer", "schedule", "fit")  # fmt: skip


def write_report(folder: RunFolder, run: RunRecord, gallery: Gallery) -> None:
    """Write a run's report."""
    write_text(folder.path / REPORT, report(run, gallery))


def report(run: RunRecord, gallery: Gallery) -> str:
    """Return a run's report as a page that needs no other file."""
    stand_in = f"Stand-in data: {stand_in_text(run.stand_in)}." if run.stand_in else ""
    sections = {k: v for k, v in SECTIONS.items() if k != "references" or run.experiment.reference}
    return page(
        "report.html.j2",
        title=f"{run.name}: report",
        banners=[text for text in (stand_in, run.card_texts["not for"]) if text],
        sections=sections,
        gallery=gallery,
        **_configuration(run),
        **_training(run),
        **_results(run),
        **_reproduction(run),
    )


def _configuration(run: RunRecord) -> dict[str, Any]:
    plan, experiment = run.plan, run.experiment
    multipliers = [stage.rates for stage in plan.stages]
    layers = [
        {
            **attrs.asdict(layer),
            "rates": [(stage[index], _shade(stage[index])) for stage in multipliers],
        }
        for index, layer in enumerate(plan.layers)
    ]
    trained = sum(plan.counts["train"].values())
    networks = f"{experiment.backbone.name} + {experiment.head.name}"
    phases = experiment.table.get("phase", [])
    replaced = set.intersection(*map(set, phases)) if phases else set()
    parts = [*PARTS, "calibration"] if run.calibration else PARTS
    sources = source_table(run)
    return {
        "name": run.name,
        "classes": run.classes,
        "split": run.split,
        "stand_in": run.stand_in,
        "summary": f"{networks}, trained on {trained:,} images of {len(run.classes)} classes",
        "caveats": caveats(run),
        "plan": plan,
        "sources": sources if any(name for name, _ in sources) else [],
        "parts": [
            *(
                (k, *_settings(experiment.table[k]))
                for k in parts
                if k in experiment.table.keys() - replaced
            ),
            *_phases(phases),
        ],
        "layers": layers,
        "card_rows": [(title, text) for title, text in run.card_texts.items() if text],
        "not_provided": [title for title, text in run.card_texts.items() if not text],
    }


def _phases(phases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each part of a phase and one for its other keys."""
    for number, phase in enumerate(phases, start=1):
        for kind, table in phase.items():
            if isinstance(table, Mapping):
                yield f"phase {number}: {kind}", *_settings(table)
        rest = {key: value for key, value in phase.items() if not isinstance(value, Mapping)}
        yield f"phase {number}", *_settings(rest)


def _settings(table: Mapping[str, Any]) -> tuple[str, str]:
    """Return a part's name and its settings as text."""
    settings = {key: value for key, value in table.items() if key != "name" and value is not None}
    texts = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    return str(table.get("name", "")), ", ".join(texts)


def _shade(multiplier: float) -> int:
    """Return how dark a learning-rate multiplier is shown, from 2 to 10, by its power of ten.

    >>> _shade(1.0), _shade(0.1), _shade(1e-9)
    (10, 7, 2)
    """
    return 0 if multiplier <= 0 else max(2, min(10, 10 + round(3 * math.log10(multiplier))))


def _training(run: RunRecord) -> dict[str, Any]:
    metrics, history = run.metrics, run.history
    keep, kept, alternative = metrics.keep, metrics.kept.epoch, metrics.other.epoch
    text = kept_epoch_text(
        keep,
        run.experiment.fit.monitor,
        kept,
        alternative,
        metrics.other.scores[run.split].accuracy,
        run.split,
        metrics.refit_images,
    )
    best = kept if keep == "best" else alternative
    phases = phase_results(run)
    return {
        "phases": phases,
        "phase_head": HEAD,
        "phase_verdict": verdict(phases, keep, run.experiment.fit.monitor) if phases else "",
        "kept_text": f"{len(history)} epochs; {text}.",
        "learning": learning_charts(history, best, kept),
        "findings": diagnose(run, command),
    }


def _results(run: RunRecord) -> dict[str, Any]:
    scores = run.scores
    labels, probabilities = judged_arrays(run)
    aurocs, precisions = (
        {name: getattr(of_class, metric) for name, of_class in scores.per_class.items()}
        for metric in ("auroc", "average_precision")
    )
    return {
        "scores": scores,
        "headline": _headline(scores),
        "accuracy_plot": interval_plot(scores.accuracy, scores.intervals["accuracy"]),
        "baseline": _baseline(scores),
        "overall": overall_rows(scores),
        "class_tables": class_tables(scores),
        "method": method_text(scores.resampling),
        "confusion": confusion_rows(scores) if len(run.classes) <= MATRIX_CLASSES else [],
        "curves": [
            roc_chart(run.classes, labels, probabilities, aurocs),
            precision_recall_chart(run.classes, labels, probabilities, precisions),
            reliability_chart(labels, probabilities, scores.calibration_error),
        ],
        "calibration": run.calibration_text,
        "references": _references(run),
    }


def judged_arrays(run: RunRecord) -> tuple[Labels, Probabilities]:
    """Return the true class numbers and the probabilities on the split that a run is judged by."""
    labels = np.array([run.classes.index(answer.label) for answer in run.judged], np.intp)
    rows = [[*answer.probabilities.values()] for answer in run.judged]
    return labels, np.array(rows, np.float64)


def _headline(scores: Scores) -> list[Any]:
    """Return the recall of the classes with the lowest one, in the order of the classes."""
    worst = sorted(scores.per_class, key=lambda name: scores.per_class[name].recall or 0.0)
    return [
        metric_row("recall", name, of_class.recall, of_class.intervals["recall"])
        for name, of_class in scores.per_class.items()
        if name in worst[:HEADLINE_CLASSES]
    ]


def _baseline(scores: Scores) -> tuple[str, float]:
    """Return the most frequent class, and its share of the images."""
    counts = {name: of_class.support for name, of_class in scores.per_class.items()}
    most_frequent = max(counts, key=lambda name: counts[name])
    return most_frequent, counts[most_frequent] / scores.images


def confusion_rows(scores: Scores) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return a confusion matrix: each class with its cells."""
    rows = []
    for row, (name, counts) in enumerate(zip(scores.classes, scores.confusion, strict=True)):
        total = sum(counts) or 1
        cells = [
            {
                "count": count,
                "share": count / total,
                "hit": row == column,
                "shade": math.ceil(10 * count / total),
            }
            for column, count in enumerate(counts)
        ]
        rows.append((name, cells))
    return rows


def _references(run: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "source": reference.source,
            "same_test": reference.same_test,
            "rows": [_reference_row(row) for row in reference_rows(run.scores, reference)],
            "remarks": [] if run.stand_in else remarks(run.scores, reference),
        }
        for reference in run.experiment.reference
    ]


def _reference_row(row: ReferenceRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "ours": data_element(row.ours.value),
        "our_ends": format_interval(row.ours.interval),
        "theirs": data_element(row.theirs.value),
        "their_ends": format_interval(row.theirs.interval),
        "plots": interval_plot(row.ours.value, row.ours.interval)
        + interval_plot(row.theirs.value, row.theirs.interval, hollow=True),
        "p": p_text(row.p),
        "verdict": row.verdict or "unknown",
    }


def _reproduction(run: RunRecord) -> dict[str, Any]:
    environment = run.environment
    packages = environment.packages
    overrides = "".join(f" --set {shlex.quote(text)}" for text in environment.overrides)
    file = f"{run.name}.toml" if run.toml else "EXPERIMENT.toml"
    versions = " ".join(f"{name}=={version}" for name, version in packages.items())
    commands = f"pip install {versions}\ntlkit run {shlex.quote(file)}{overrides}"
    plugins = [" ".join(map(str, part.values())) for part in environment.parts]
    rows = {
        "weights": weights_text(run),
        "Python": environment.python,
        "system": environment.system,
        "processor": f"{environment.processor}, {environment.cpus} CPUs",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "other parts": ", ".join(plugins),
    }
    return {
        "commands": _lines(commands),
        "environment": [(title, text) for title, text in rows.items() if text],
        "toml": _lines(run.toml),
        "resolved": _lines(json.dumps(run.experiment.as_json(), indent=2, ensure_ascii=False)),
    }


def _lines(text: str) -> Markup:
    """Return a text of several lines, made printable."""
    return escape(printable_lines(text))
