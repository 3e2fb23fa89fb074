"""`sweep.html`: a sweep on one page that needs nothing else and asks no server for anything."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any
from urllib.parse import quote

from tlkit.console import share
from tlkit.escapes import printable
from tlkit.sweeps.curve import curve_svg
from tlkit.sweeps.dots import dots_svg
from tlkit.sweeps.folder import RUNS
from tlkit.sweeps.outcomes import Outcome
from tlkit.sweeps.published import published_beside
from tlkit.sweeps.summary import VariantSummary, values_of
from tlkit.sweeps.sweep import Sweep
from tlkit.sweeps.text import ends, spread
from tlkit.sweeps.trials import brief


def sweep_page(done: Sweep) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["spread"] = spread
    environment.filters["percent"] = lambda value: share(value, "–")
    source = resources.files("tlkit.sweeps").joinpath("page.html").read_text(encoding="utf-8")
    trials = done.trials.trials
    summaries = [*done.summaries, *([done.nested] if done.nested else [])]
    figures = list(dict.fromkeys(n for s in summaries for n in s.figures if n != "accuracy"))
    return environment.from_string(source).render(
        name=done.trials.file.stem,
        count=len(trials),
        lead=_lead(done),
        stand_in=next((t.plan.stand_in for t in trials if t.plan.stand_in), ""),
        failed=len(done.failed),
        picture=picture(done),
        swept=done.trials.swept,
        figures=figures,
        summary=list(_summary_rows(done, figures)),
        notes=[*done.trials.notes, *_notes(summaries)],
        published=published_beside(done),
        folds=any(trial.fold is not None for trial in trials),
        runs=[_run_row(done, outcome) for outcome in done.outcomes],
    )


def picture(done: Sweep) -> str:
    """Return the sweep's picture as SVG: a curve over one number, or else a row a variant."""
    return curve_svg(done.summaries, done.trials.swept) or dots_svg(done.summaries)


def _lead(done: Sweep) -> str:
    trials = done.trials.trials
    seeds = sorted({trial.seed for trial in trials})
    folds = {trial.fold for trial in trials if trial.fold is not None}
    variants = len(done.trials.variants)
    said = [f"{len(trials)} runs of {variants} variant{'s' * (variants > 1)}"]
    said.append(f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}")
    if folds:
        said.append(f"{len(folds)} folds")
    return ", ".join(said)


def _summary_rows(done: Sweep, figures: list[str]) -> Iterator[dict[str, Any]]:
    summaries = [*done.summaries, *([done.nested] if done.nested else [])]
    for number, summary in enumerate(summaries, start=1):
        variant, accuracy = summary.variant, summary.figures.get("accuracy")
        settings = variant.settings if variant else {}
        yield {
            "number": "" if variant is None else number,
            "label": variant.file.stem if variant else summary.label,
            "extra": variant is None,
            "settings": [brief(settings[k]) if k in settings else "" for k in done.trials.swept],
            "runs": summary.runs
            if summary.runs == summary.planned
            else f"{summary.runs} of {summary.planned}",
            "accuracy": spread(accuracy),
            "figures": [spread(summary.figures.get(name)) for name in figures],
            "ends": ends(accuracy) if accuracy else "-",
        }


def _notes(summaries: list[VariantSummary]) -> Iterator[str]:
    splits = dict.fromkeys(s.split for s in summaries if s.split)
    if splits:
        yield f"Figures are on {', '.join(splits)}: mean ± standard deviation over the seeds."
    if any(s.folds for s in summaries):
        yield "Folds are pooled: one figure a seed, every image tested once. A dot is a fold."
    if any(len(s.seeds) > 1 for s in summaries):
        yield (
            "Student's interval over seeds is of the mean: how far it would move with other seeds "
            "on the same images, not with other images."
        )
    if any(len(s.seeds) == 1 for s in summaries):
        yield (
            "Wilson's interval is over the images: how far the share would move with other images "
            "of the same kind."
        )
    if sum(s.variant is not None for s in summaries) > 1:
        yield "The best of several variants looks better than it is: it was chosen by these images."


def _run_row(done: Sweep, outcome: Outcome) -> dict[str, Any]:
    trial = outcome.trial
    shown = {split: values_of(c, outcome.classes) for split, c in outcome.confusions.items()}
    link = f"{RUNS}/{trial.name}/report.html"
    return {
        "name": trial.name,
        "link": quote(link) if (done.folder / link).is_file() else "",
        "variant": trial.variant.label,
        "fold": trial.fold,
        "seed": trial.seed,
        "accuracy": share(shown[outcome.split]["accuracy"]) if shown else outcome.status,
        "val": share(shown["val"]["accuracy"]) if shown else "",
        "error": outcome.error,
    }
