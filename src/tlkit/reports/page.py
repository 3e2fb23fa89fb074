"""`report.html`: one page with everything, from the files of a run's folder."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import math
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from tlkit.metrics.calibration import calibration_text
from tlkit.metrics.published import ReferenceRow, beside, remarks
from tlkit.reports.caveats import caveats, source_table
from tlkit.reports.charts import (
    learning_charts,
    precision_recall_chart,
    reliability_chart,
    roc_chart,
)
from tlkit.reports.gallery import Gallery
from tlkit.reports.svg import interval_bar
from tlkit.reports.tables import class_tables, ends, method_text, overall_rows, value_text
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.run_record import RunRecord
from tlkit.system.files import write_text
from tlkit.system.text import printable, printable_lines

TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, **values: Any) -> str:
    """Return a template's page with our style, which is the only thing its policy allows.

    Args:
        template: The template's file.
        values: What it shows; every text is made printable and escaped.
    """
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704  # our own file
            style_hash=f"sha256-{digest}",
            version=importlib.metadata.version("tlkit"),
            **values,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        keep_trailing_newline=True,
    )


def _harmless(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


MATRIX, HEADLINE = 30, 4  # so many classes are shown in the matrix, and above everything
# The experiment's tables that name a part or settle how it is used.
PARTS = ("data", "backbone", "head", "freeze", "class_weights", "augmentation", "loss",
         "optimizer", "schedule", "fit")  # fmt: skip


def what_was_run(run: RunRecord) -> dict[str, Any]:
    """Return what was run."""
    plan, experiment = run.plan, run.experiment
    rates = [stage["rates"] for stage in plan["stages"]]
    layers = [
        {**layer, "rates": [(stage[index], _shade(stage[index])) for stage in rates]}
        for index, layer in enumerate(plan["layers"])
    ]
    trained = sum(plan["counts"]["train"].values())
    networks = " + ".join(str(experiment[kind]["name"]) for kind in ("backbone", "head"))
    parts = [*PARTS, "calibration"] if run.calibration else PARTS
    sources = source_table(run)
    return {
        "name": run.name,
        "classes": run.classes,
        "split": run.split,
        "stand_in": run.stand_in,
        "summary": f"{networks}, trained on {trained:,} images of {len(run.classes)} classes",
        "cautions": caveats(run),
        "plan": plan,
        "sources": sources if any(name for name, _ in sources) else [],
        "parts": [(kind, *_settings(experiment[kind])) for kind in parts],
        "layers": layers,
        "not_for": run.said["not for"],
        "card_rows": [(title, text) for title, text in run.said.items() if text],
        "not_provided": [title for title, text in run.said.items() if not text],
    }


def _settings(table: Mapping[str, Any]) -> tuple[str, str]:
    """Return a part's name and its settings as text."""
    rest = {key: value for key, value in table.items() if key != "name" and value is not None}
    texts = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in rest.items()]
    return str(table.get("name", "")), ", ".join(texts)


def _shade(rate: float) -> int:
    """Return how dark a learning rate is shown, from 2 to 10, by its power of ten.

    >>> _shade(1.0), _shade(0.1), _shade(1e-9)
    (10, 7, 2)
    """
    return 0 if rate <= 0 else max(2, min(10, 10 + round(3 * math.log10(rate))))


def how_it_went(run: RunRecord) -> dict[str, Any]:
    """Return how the training went."""
    keep, history = run.metrics["keep"], run.history
    other = "last" if keep == "best" else "best"
    kept, rest = run.metrics["epoch"], run.metrics[other]["epoch"]
    best = kept if keep == "best" else rest
    by = run.experiment["fit"]["monitor"]
    text = f"{len(history)} epochs. The weights are those of the {keep} epoch, {kept}"
    accuracy = run.metrics[other][run.split]["accuracy"]
    if kept == rest:
        text += f", which is {'the last' if keep == 'best' else f'the best by {by}'} too."
    else:
        named = f"best by {by}" if keep == "last" else "last"
        text += f"; those of the {named}, {rest}, are right for {100 * accuracy:.1f} %."
    return {"kept_text": text, "learning": learning_charts(history, best, kept)}


def how_good_it_is(run: RunRecord) -> dict[str, Any]:
    """Return the figures, the confusion matrix, the curves and published results."""
    scores = run.scores
    labels = np.array([run.classes.index(one.label) for one in run.judged], np.intp)
    shares = np.array([[*one.probabilities.values()] for one in run.judged], np.float64)
    areas, precisions = (
        {name: getattr(one, figure) for name, one in scores.per_class.items()}
        for figure in ("auroc", "average_precision")
    )
    curves = [
        roc_chart(run.classes, labels, shares, areas),
        precision_recall_chart(run.classes, labels, shares, precisions),
        reliability_chart(labels, shares, scores.calibration_error),
    ]
    worst = sorted(scores.per_class, key=lambda name: scores.per_class[name].recall or 0.0)
    first = [name for name in scores.classes if name in worst[:HEADLINE]]
    return {
        "scores": scores,
        "headline": [_headline(run, name) for name in first],
        "accuracy_bar": interval_bar(scores.accuracy, scores.intervals["accuracy"]),
        "baseline": _baseline(run),
        "overall": overall_rows(scores),
        "class_tables": class_tables(scores),
        "method": method_text(scores.resampling),
        "confusion": _confusion(run) if len(run.classes) <= MATRIX else [],
        "curves": curves,
        "calibration": calibration_text(run.calibration, run.split, scores.calibration_error),
        "references": [] if not run.reference else _references(run),
    }


def _headline(run: RunRecord, name: str) -> dict[str, Any]:
    one = run.scores.per_class[name]
    interval = one.intervals["recall"]
    return {
        "name": name,
        "value": one.recall,
        "ends": ends(interval),
        "images": one.support,
        "bar": interval_bar(one.recall, interval),
    }


def _baseline(run: RunRecord) -> tuple[str, float]:
    """Return the commonest class of the judged images, and its share of them."""
    counts = {name: one.support for name, one in run.scores.per_class.items()}
    commonest = max(counts, key=lambda name: counts[name])
    return commonest, counts[commonest] / run.scores.images


def _confusion(run: RunRecord) -> list[tuple[str, list[dict[str, Any]]]]:
    rows = []
    for row, (name, counts) in enumerate(zip(run.classes, run.scores.confusion, strict=True)):
        total = sum(counts) or 1
        cells = [
            {
                "count": count,
                "share": f"{100 * count / total:.1f} %",
                "hit": row == column,
                "shade": math.ceil(10 * count / total),
            }
            for column, count in enumerate(counts)
        ]
        rows.append((name, cells))
    return rows


def _references(run: RunRecord) -> list[dict[str, Any]]:
    found = []
    for reference in run.reference:
        rows = beside(run.scores, reference)
        found.append(
            {
                "source": reference.source,
                "same_test": reference.same_test,
                "rows": [_beside_row(row) for row in rows],
                "remarks": [] if run.stand_in else remarks(run.scores, reference),
            }
        )
    return found


def _beside_row(row: ReferenceRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "ours": value_text(row.ours.value),
        "our_ends": ends(row.ours.interval),
        "theirs": value_text(row.theirs.value),
        "their_ends": ends(row.theirs.interval),
        "bars": interval_bar(row.ours.value, row.ours.interval)
        + interval_bar(row.theirs.value, row.theirs.interval, hollow=True),
        "p": "" if row.p is None else "< 0.001" if row.p < 0.001 else f"{row.p:.3f}",
        "verdict": row.verdict or "cannot be said",
    }


def how_to_repeat_it(run: RunRecord) -> dict[str, Any]:
    """Return the commands, the environment and the experiment."""
    environment = run.environment
    packages = environment.get("packages", {})
    overrides = "".join(f" --set {shlex.quote(text)}" for text in environment.get("overrides", []))
    file = f"{run.name}.toml" if run.toml else "EXPERIMENT.toml"
    versions = " ".join(f"{name}=={version}" for name, version in packages.items())
    repeat = f"pip install {versions}\ntlkit run {shlex.quote(file)}{overrides}"
    weights = run.metrics.get("weights", {})
    rows = [
        ("weights", " ".join(str(weights[key]) for key in ("source", "sha256") if key in weights)),
        ("Python", environment.get("python", "")),
        ("system", environment.get("system", "")),
        ("processor", f"{environment.get('processor', '')}, {environment.get('cpus', '')} CPUs"),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("other parts", ", ".join(_foreign(part) for part in environment.get("parts", []))),
    ]
    return {
        "repeat": _lines(repeat),
        "environment": [(title, text) for title, text in rows if text],
        "toml": _lines(run.toml),
        "resolved": _lines(json.dumps(run.experiment, indent=2, ensure_ascii=False)),
    }


def _foreign(part: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in part.values())


def _lines(text: str) -> Markup:
    """Return a text of several lines, made printable."""
    return escape(printable_lines(text))


REPORT = "report.html"
SECTIONS = {
    "results": "How good it is",
    "references": "Beside published results",
    "looks": "What it looks at",
    "training": "How it went",
    "run": "What was run",
    "use": "What it is for",
    "repeat": "How to repeat it",
}


def write_report(folder: RunFolder, run: RunRecord, gallery: Gallery) -> None:
    """Write a run's report."""
    write_text(folder.path / REPORT, report(run, gallery))


def report(run: RunRecord, gallery: Gallery) -> str:
    """Return a run's report as a page that needs nothing else."""
    return page(
        "report.html.j2",
        sections=[(k, v) for k, v in SECTIONS.items() if k != "references" or run.reference],
        ends=ends,
        gallery=gallery,
        **what_was_run(run),
        **how_it_went(run),
        **how_good_it_is(run),
        **how_to_repeat_it(run),
    )
