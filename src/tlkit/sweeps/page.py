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
from tlkit.sweeps.charts import MAX_ROWS, curve_chart, sweep_chart
from tlkit.sweeps.choice import search_note
from tlkit.sweeps.folder import RUNS, SweepFolder, figure_cell
from tlkit.sweeps.pairs import (
    PAIR_HEAD,
    VariantPair,
    by_accuracy,
    other_figures,
    others_note,
    pairs_note,
)
from tlkit.sweeps.results import Sweep, published_results
from tlkit.sweeps.summary import Outcome, values_of
from tlkit.sweeps.text import (
    figure_text,
    numbered,
    published_cells,
    runs_text,
)
from tlkit.sweeps.trials import Variant, brief
from tlkit.system.files import write_text


def write_results(folder: SweepFolder, sweep: Sweep) -> None:
    """Write the tables, the picture and the page; `published.csv` only if anything is cited."""
    _write_summary(folder, sweep)
    _write_published(folder, sweep)
    _write_pairs(folder, sweep)
    picture = sweep_chart(sweep.summaries, sweep.trials.swept)
    if picture is not None:
        write_text(folder.path / "accuracy.svg", standalone(picture) + "\n")
    write_text(folder.path / "sweep.html", sweep_page(sweep, picture))


def _write_summary(folder: SweepFolder, sweep: Sweep) -> None:
    """Write one row per variant and metric."""
    rows = [
        [s.label, figure.name, figure.count, s.folds, s.images, figure_cell(figure.mean),
         figure_cell(figure.sd), figure_cell(figure.low), figure_cell(figure.high),
         figure.kind or s.interval]
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


def _write_pairs(folder: SweepFolder, sweep: Sweep) -> None:
    """Write one row per figure of each variant that is compared with the best one."""
    rows = [
        [sweep.summaries[p.number - 1].label, sweep.summaries[p.against - 1].label, p.figure,
         p.images, p.seeds, figure_cell(p.difference), figure_cell(p.low), figure_cell(p.high),
         figure_cell(p.only_it), figure_cell(p.only_other),
         p.unit, figure_cell(p.p), figure_cell(p.corrected)]
        for p in sweep.pairs
    ]  # fmt: skip
    if rows:
        head = ["variant", "against", "figure", "images", "seeds", "difference", "low", "high",
                "only it correct", "only the other", "unit", "p", "p corrected"]  # fmt: skip
        folder.write_csv("pairs.csv", head, rows)


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
        wide=curve_chart(sweep.summaries, sweep.trials.swept) is not None,
        caption=_caption(sweep),
        files=sweep.nested is not None or len({v.file for v in sweep.trials.variants}) > 1,
        swept=sweep.trials.swept,
        metrics=others,
        summary=list(_summary_rows(sweep, others)),
        notes=list(_notes(sweep)),
        published=_published(sweep),
        pair_head=PAIR_HEAD,
        pairs=[pair.cells(str(pair.number)) for pair in by_accuracy(sweep.pairs)],
        pairs_note=pairs_note(sweep.pairs, sweep.summaries) if sweep.pairs else "",
        other_figures=other_figures(sweep.pairs),
        other_pairs=list(_other_pairs(sweep.pairs)),
        others_note=others_note(sweep.pairs),
        folds=any(outcome.trial.fold is not None for outcome in sweep.outcomes),
        runs=[_run_row(sweep, outcome) for outcome in sweep.outcomes],
    )


def _other_pairs(pairs: Sequence[VariantPair]) -> Iterator[list[str]]:
    """Yield a row per variant: its difference from the best one by every other figure."""
    texts = {(pair.number, pair.figure): str(pair) for pair in pairs}
    for pair in by_accuracy(pairs):
        cells = (texts.get((pair.number, figure), "-") for figure in other_figures(pairs))
        yield [str(pair.number), *cells]


def _caption(sweep: Sweep) -> str:
    count = sum("accuracy" in summary.figures for summary in sweep.summaries)
    return f"Accuracy, %; the {MAX_ROWS} best of {count}" if count > MAX_ROWS else "Accuracy, %"


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
    if note := search_note(sweep.trials, sweep.summaries):
        yield f"A search: {note}."
    if len(sweep.summaries) > 1:
        yield (
            "The best of several variants looks better than it is, because it was chosen on these "
            "images."
        )


def _summary_rows(sweep: Sweep, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    chosen = [(0, sweep.nested)] if sweep.nested else []
    for number, summary in [*numbered(sweep), *chosen]:
        variant, accuracy = summary.variant, summary.figures.get("accuracy")
        settings = variant.settings if variant else {}
        yield {
            "number": "" if variant is None else number,
            "label": variant.file.stem if variant else summary.label,
            "extra": variant is None,
            "settings": [brief(settings[k]) if k in settings else "" for k in sweep.trials.swept],
            "runs": runs_text(summary),
            "parameters": _parameters(sweep, variant),
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
            "Where all seeds gave the same accuracy, Student's interval would have no width; "
            "theirs is Wilson's over one seed's images. Look at whether they learned anything."
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
        "accuracy": format_value(accuracies[outcome.split]) if accuracies else _status(outcome),
        "val": format_value(accuracies["val"] if accuracies else outcome.val_accuracy, missing=""),
        "error": outcome.error,
    }


def _parameters(sweep: Sweep, variant: Variant | None) -> str:
    trial = next((t for t in sweep.trials.trials if t.variant == variant), None)
    return f"{trial.parameters[0]:,}" if trial else ""


def _status(outcome: Outcome) -> str:
    return f"dropped after epoch {outcome.epochs}" if outcome.epochs else outcome.status
