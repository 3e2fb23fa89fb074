"""A finished sweep's tables, chart and page, which needs no other file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from tlkit.metrics.intervals import format_interval, format_value
from tlkit.reports.console import stand_in_text
from tlkit.reports.page import page
from tlkit.reports.svg import standalone
from tlkit.sweeps.charts import sweep_chart
from tlkit.sweeps.folder import RUNS, SweepFolder, figure_cell
from tlkit.sweeps.summary import Outcome, Sweep, published_results, values_of
from tlkit.sweeps.text import figure_text, published_cells, runs_text
from tlkit.sweeps.trials import brief
from tlkit.system.files import write_text


def write_results(folder: SweepFolder, sweep: Sweep) -> None:
    """Write the tables, the picture and the page; `published.csv` only if anything is cited."""
    _write_summary(folder, sweep)
    _write_published(folder, sweep)
    picture = sweep_chart(sweep.summaries, sweep.trials.swept)
    if picture is not None:
        write_text(folder.path / "accuracy.svg", standalone(picture) + "\n")
    write_text(folder.path / "sweep.html", sweep_page(sweep, picture))


def _write_summary(folder: SweepFolder, sweep: Sweep) -> None:
    """Write one row per variant and metric."""
    rows = [
        [s.label, figure.name, figure.count, s.folds, s.images, figure_cell(figure.mean),
         figure_cell(figure.sd), figure_cell(figure.low), figure_cell(figure.high), s.interval]
        for s in sweep.all_summaries
        for figure in s.figures.values()
    ]  # fmt: skip
    head = ["variant", "figure", "seeds", "folds", "images", "mean", "sd", "low", "high"]
    folder.write_csv("summary.csv", [*head, "interval"], rows)


def _write_published(folder: SweepFolder, sweep: Sweep) -> None:
    """Write one row per published number, with ours."""
    published = published_results(sweep)
    labeled = [(f"{row.label}, accuracy", row) for row in published.accuracy]
    labeled += [(row.label, row) for row in published.per_class]
    rows = [
        [label, figure_cell(row.ours.mean if row.ours else None),
         figure_cell(row.ours.sd if row.ours else None), figure_cell(value), source]
        for label, row in labeled
        for value, source in zip(row.theirs, published.sources, strict=True)
        if value is not None
    ]  # fmt: skip
    if rows:
        head = ["figure", "ours", "sd", "published", "source"]
        folder.write_csv("published.csv", head, rows)


def sweep_page(sweep: Sweep, picture: Markup | None) -> str:
    """Return the page."""
    metrics = list(dict.fromkeys(name for s in sweep.all_summaries for name in s.figures))
    others = [name for name in metrics if name != "accuracy"]
    name, count = sweep.trials.file.stem, len(sweep.outcomes)
    return page(
        "sweep.html.j2",
        title=f"{name}: a sweep of {count} runs",
        banners=list(_banners(sweep)),
        name=name,
        lead=_lead(sweep),
        cautions=list(_cautions(sweep)),
        failed=bool(sweep.failed),
        picture=picture,
        swept=sweep.trials.swept,
        metrics=others,
        summary=list(_summary_rows(sweep, others)),
        notes=list(_notes(sweep)),
        published=_published(sweep),
        folds=any(outcome.trial.fold is not None for outcome in sweep.outcomes),
        runs=[_run_row(sweep, outcome) for outcome in sweep.outcomes],
    )


def _banners(sweep: Sweep) -> Iterator[str]:
    if sweep.stand_in:
        yield f"Stand-in data: {stand_in_text(sweep.stand_in)}."
    if sweep.failed:
        yield (
            f"{len(sweep.failed)} of {len(sweep.outcomes)} runs failed; the table of all runs "
            "says why."
        )


def _lead(sweep: Sweep) -> str:
    trials = sweep.trials.trials
    seeds = sorted({trial.seed for trial in trials})
    folds = {trial.fold for trial in trials if trial.fold is not None}
    variants = len(sweep.trials.variants)
    texts = [f"{len(trials)} runs of {variants} variant{'s' * (variants > 1)}"]
    texts.append(f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}")
    if folds:
        texts.append(f"{len(folds)} folds")
    return ", ".join(texts)


def _cautions(sweep: Sweep) -> Iterator[str]:
    yield from sweep.trials.notes
    if sweep.machine_note:
        yield sweep.machine_note
    if len(sweep.summaries) > 1:
        yield (
            "The best of several variants looks better than it is, because it was chosen on these "
            "images."
        )


def _summary_rows(sweep: Sweep, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, summary in enumerate(sweep.all_summaries, start=1):
        variant, accuracy = summary.variant, summary.figures.get("accuracy")
        settings = variant.settings if variant else {}
        yield {
            "number": "" if variant is None else number,
            "label": variant.file.stem if variant else summary.label,
            "extra": variant is None,
            "settings": [brief(settings[k]) if k in settings else "" for k in sweep.trials.swept],
            "runs": runs_text(summary),
            "accuracy": figure_text(accuracy),
            "ends": format_interval(accuracy.interval) if accuracy else "-",
            "metrics": [figure_text(summary.figures.get(name)) for name in metrics],
        }


def _notes(sweep: Sweep) -> Iterator[str]:
    summaries = sweep.all_summaries
    splits = dict.fromkeys(s.split for s in summaries if s.split)
    if splits:
        yield f"Metrics are on {', '.join(splits)}: mean ± standard deviation over the seeds."
    if any(s.folds for s in summaries):
        yield "Folds are pooled, so every image is tested once per seed. Each dot is a fold."
    if any(len(s.seeds) > 1 for s in summaries):
        yield (
            "Student's interval over seeds is of the mean: how far it would move with other seeds "
            "on the same images, not with other images."
        )
    if any(len(s.seeds) == 1 for s in summaries):
        yield (
            "Wilson's interval is over the images: how far the result would move with other images "
            "of the same kind. Images of one patient count as less than independent ones."
        )
    if any(s.figures and s.figures["accuracy"].sd == 0 for s in summaries):
        yield (
            "Where all seeds gave the same accuracy, the interval has no width. That is no "
            "certainty: look at whether these runs learned anything."
        )


def _published(sweep: Sweep) -> dict[str, Any]:
    published = published_results(sweep)
    indices = published.class_sources
    accuracy = published_cells(published.accuracy)
    per_class = published_cells(published.per_class, indices)
    return {
        "sources": published.sources,
        "class_sources": [published.sources[index] for index in indices],
        "accuracy": [(label, ours, theirs) for label, ours, *theirs in accuracy],
        "per_class": [(label, ours, theirs) for label, ours, *theirs in per_class],
    }


def _run_row(sweep: Sweep, outcome: Outcome) -> dict[str, Any]:
    trial = outcome.trial
    accuracies = {
        split: values_of(confusion, outcome.classes)["accuracy"]
        for split, confusion in outcome.confusions.items()
    }
    link = f"{RUNS}/{trial.name}/report.html"
    return {
        "name": trial.name,
        "link": quote(link) if (sweep.folder / link).is_file() else "",
        "variant": trial.variant.label,
        "fold": trial.fold,
        "seed": trial.seed,
        "accuracy": format_value(accuracies[outcome.split]) if accuracies else outcome.status,
        "val": format_value(accuracies["val"]) if accuracies else "",
        "error": outcome.error,
    }
