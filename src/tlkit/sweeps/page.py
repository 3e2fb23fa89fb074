"""`sweep.html`: a sweep on one page that needs nothing else and asks no server for anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tlkit.reports.console import share, stand_in_banner, table
from tlkit.sweeps.charts import curve_svg, dots_svg
from tlkit.sweeps.folder import RUNS
from tlkit.sweeps.published import Published, published_beside
from tlkit.sweeps.summary import Figure, Outcome, VariantSummary, values_of
from tlkit.sweeps.sweep import Sweep
from tlkit.sweeps.trials import brief
from tlkit.system.text import printable, shell_quoted

TEMPLATES = Path(__file__).parent.parent / "reports" / "templates"


def sweep_text(done: Sweep) -> str:
    """Return the summary, published results beside it, what failed, and where it all is."""
    stand_in = next((t.plan.stand_in for t in done.trials.trials if t.plan.stand_in), "")
    blocks = [stand_in_banner(stand_in)] if stand_in else []
    blocks.append(summary_text(done.summaries, done.nested))
    published = published_beside(done)
    if published.sources:
        blocks.append(published_text(published))
    if done.failed:
        rows = [f"{o.trial.name}  {o.trial.label}: {o.error}" for o in done.failed]
        blocks.append("\n".join([f"failed: {len(done.failed)} of {len(done.outcomes)}", *rows]))
    again = f"\nnext: tlkit sweep --resume {shell_quoted(done.folder)}" if done.failed else ""
    blocks.append(f"sweep folder: {done.folder}{again}")
    return "\n\n".join(blocks)


def outcome_text(outcome: Outcome) -> str:
    """Return what came of one run, in one line."""
    if outcome.status != "done":
        first = outcome.error.splitlines()[0] if outcome.error else ""
        return f"{outcome.trial.label}: {outcome.status}: {first}"
    accuracy = values_of(outcome.confusion, outcome.classes)["accuracy"]
    return f"{outcome.trial.label}: {outcome.split} accuracy {share(accuracy)}"


def summary_text(summaries: Sequence[VariantSummary], nested: VariantSummary | None) -> str:
    """Return a row a variant: accuracy over its seeds, and the balanced one."""
    head = ["variant", "runs", "accuracy", "sd", "95 % interval", "balanced"]
    rows = [_row(f"{number}  {s.label}", s) for number, s in enumerate(summaries, start=1)]
    if nested is not None:
        rows.append(_row(f"   {nested.label}", nested))
    methods = dict.fromkeys(s.interval for s in summaries if s.interval)
    splits = dict.fromkeys(s.split for s in summaries if s.split)
    notes = [f"on {', '.join(splits) or 'nothing'}; intervals: {', '.join(methods) or 'none'}"]
    folds = max((s.folds for s in summaries), default=0)
    if folds:
        notes.append(f"each seed's {folds} folds are pooled: every image is tested once")
    return "\n".join([table(head, rows), *notes])


def _row(label: str, summary: VariantSummary) -> list[str]:
    runs = f"{summary.runs}" if summary.runs == summary.planned else (
        f"{summary.runs} of {summary.planned}")  # fmt: skip
    accuracy = summary.figures.get("accuracy")
    if accuracy is None:
        return [label, runs, "-", "-", "-", "-"]
    return [
        label,
        runs,
        share(accuracy.mean),
        share(accuracy.sd, "-"),
        ends(accuracy),
        share(summary.figures["balanced accuracy"].mean),
    ]


def ends(figure: Figure) -> str:
    """Return an interval: `70.1 to 75.0 %`."""
    if figure.low is None or figure.high is None:
        return "-"
    return f"{100 * figure.low:.1f} to {100 * figure.high:.1f} %"


def spread(figure: Figure | None) -> str:
    """Return a mean with its standard deviation: `72.5 ± 1.3 %`."""
    if figure is None or figure.mean is None:
        return "undefined" if figure is not None else "-"
    return share(figure.mean) if figure.sd is None else (
        f"{100 * figure.mean:.1f} ± {100 * figure.sd:.1f} %")  # fmt: skip


def published_text(published: Published) -> str:
    """Return our accuracy, precision and recall beside the published, a variant a block."""
    numbers = [f"[{number}]" for number in range(1, len(published.sources) + 1)]
    rows = [
        [label, spread(ours), *(share(value, "-") for value in theirs)]
        for label, ours, theirs in published.accuracy
    ]
    blocks = [table(["accuracy", "ours", *numbers], rows)]
    shown = published.of_classes
    rows = [
        [label, spread(ours), *(share(theirs[n], "-") for n in shown)]
        for label, ours, theirs in published.per_class
    ]
    if rows:
        head = ["precision and recall", "ours", *(numbers[n] for n in shown)]
        blocks.append(table(head, rows))
    sources = [
        f"{number} {source}" for number, source in zip(numbers, published.sources, strict=True)
    ]
    return "\n\n".join(blocks) + "\n" + "\n".join(sources)


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
    source = (TEMPLATES / "sweep.html").read_text(encoding="utf-8")
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
