"""What a sweep shows, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tlkit.console import share, stand_in_banner, table
from tlkit.escapes import typed
from tlkit.sweeps.outcomes import Outcome
from tlkit.sweeps.published import Published, published_beside
from tlkit.sweeps.summary import Figure, VariantSummary, values_of
from tlkit.sweeps.sweep import Sweep


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
    again = f"\nnext: tlkit sweep --resume {typed(done.folder)}" if done.failed else ""
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
