"""How a sweep reports its progress and its result: a callback, and text for a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tlkit.metrics.intervals import format_interval, format_value
from tlkit.reports.console import stand_in_banner, table
from tlkit.sweeps.choice import search_note
from tlkit.sweeps.pairs import PAIR_HEAD, by_accuracy, others_note, pairs_note
from tlkit.sweeps.results import Published, PublishedRow, Sweep, published_results
from tlkit.sweeps.summary import LOSSES, Figure, Outcome, VariantSummary, values_of
from tlkit.sweeps.trials import Trials
from tlkit.system.notebook import command, either
from tlkit.system.renames import renamed_methods
from tlkit.system.stdio import quiet
from tlkit.system.text import printable, shell_quoted
from tlkit.train.cost import duration_text

MOST_PAIRS = 12  # in a terminal


@renamed_methods(planned="on_plan", run_done="on_run_end")
class SweepCallback:
    """Callback base class for sweeps; every method does nothing."""

    def on_plan(self, trials: Trials, folder: Path) -> None:
        """Handle the checked plan, before the first run."""

    def on_run_end(self, number: int, count: int, outcome: Outcome, seconds: float) -> None:
        """Handle the end of a run.

        Args:
            number: The run's number in the sweep, from 1.
            count: The number of runs in the sweep.
            outcome: The run's outcome.
            seconds: How long it took; 0 if it was finished before.
        """


def _say(line: str) -> None:
    if not quiet():
        print(printable(line), file=sys.stderr)


class Lines(SweepCallback):
    """Prints a line per run on standard error.

    Attributes:
        next: The command that continues the sweep; empty before the first run.
    """

    def __init__(self) -> None:
        self.next = ""
        self._began, self._made = 0.0, 0

    def on_plan(self, trials: Trials, folder: Path) -> None:
        """Print the number of runs and what the user should know."""
        self.next = resume_command(folder, trials)
        self._began, self._made = time.perf_counter(), 0
        for note in trials.notes:
            _say(f"note: {note}")
        count, variants = len(trials.trials), len(trials.variants)
        what = f"{count} runs of {variants} variant{'s' * (variants > 1)}"
        _say(f"{what}, all planned; results in {folder}")

    def on_run_end(self, number: int, count: int, outcome: Outcome, seconds: float) -> None:
        """Print the run's outcome, and how long the others will take if it is a minute or more."""
        took = f"{seconds:.0f} s" if seconds else "kept"
        if seconds:
            self._made += 1
            per_run = (time.perf_counter() - self._began) / self._made
            if (left := per_run * (count - number)) >= 60:
                took += f"; about {duration_text(left)} left"
        line = f"[{number:{len(str(count))}d}/{count}] {outcome_text(outcome)}  ({took})"
        _say(line)


def sweep_text(sweep: Sweep) -> str:
    """Return the summary, published results, failed runs, and the sweep's folder."""
    blocks = [stand_in_banner(sweep.stand_in)] if sweep.stand_in else []
    blocks.append(summary_text(sweep))
    if sweep.pairs:
        blocks.append(_pairs_text(sweep))
    published = published_results(sweep)
    if published.sources:
        blocks.append(_published_text(published))
    if sweep.machine_note:
        blocks.append(f"note: {sweep.machine_note}")
    if sweep.failed:
        rows = [f"{o.trial.name}  {o.trial.label}: {o.error}" for o in sweep.failed]
        blocks.append("\n".join([f"failed: {len(sweep.failed)} of {len(sweep.outcomes)}", *rows]))
    left = sum(outcome.status == "waiting" for outcome in sweep.outcomes)
    if left:
        blocks.append(f"{left} of {len(sweep.outcomes)} runs are not made yet")
    again = sweep.failed or left or sweep.trials.waiting_draws
    next_line = f"\nnext: {resume_command(sweep.folder, sweep.trials)}" if again else ""
    blocks.append(f"sweep folder: {sweep.folder}{next_line}")
    return "\n\n".join(blocks)


def resume_command(folder: Path, trials: Trials) -> str:
    """Return the command that continues a sweep, with the plugin files that it needs."""
    modules = dict.fromkeys(m for t in trials.trials for m in t.experiment.plugins.modules)
    options = "".join(either(f" --plugin {shell_quoted(m)}", "") for m in modules)
    plugins = f", plugins={[str(module) for module in modules]!r}" if modules else ""
    call = f"tlkit.resume_sweep({str(folder)!r}{plugins})"
    return either(command("sweep --resume", folder) + options, call)


def outcome_text(outcome: Outcome) -> str:
    """Return a run's outcome in one line."""
    if outcome.status == "dropped":
        val = format_value(outcome.val_accuracy)
        return f"{outcome.trial.label}: dropped after epoch {outcome.epochs}, {val} on val"
    if outcome.status != "done":
        first = outcome.error.splitlines()[0] if outcome.error else ""
        return f"{outcome.trial.label}: {outcome.status}: {first}"
    accuracy = values_of(outcome.confusion, outcome.classes)["accuracy"]
    return f"{outcome.trial.label}: {outcome.split} accuracy {format_value(accuracy)}"


def summary_text(sweep: Sweep) -> str:
    """Return a row per variant: the accuracy over its seeds, and the balanced accuracy."""
    head = ["variant", "runs", "accuracy", "sd", "95 % interval", "balanced"]
    rows = [_row(f"{number}  {s.label}", s) for number, s in numbered(sweep)]
    if sweep.nested is not None:
        rows.append(_row(f"   {sweep.nested.label}", sweep.nested))
    methods = dict.fromkeys(s.interval for s in sweep.summaries if s.interval)
    splits = dict.fromkeys(s.split for s in sweep.summaries if s.split)
    notes = [f"on {', '.join(splits) or 'nothing'}; intervals: {', '.join(methods) or 'none'}"]
    if note := search_note(sweep.trials, sweep.summaries):
        notes.insert(0, note)
    folds = max((s.folds for s in sweep.summaries), default=0)
    if folds:
        notes.append(f"the {folds} folds of each seed are pooled: every image is tested once")
    return "\n".join([table(head, rows), *notes])


def numbered(sweep: Sweep) -> list[tuple[int, VariantSummary]]:
    """Return the variants with their numbers; of a search, those with a result or a failure."""
    pairs = enumerate(sweep.summaries, start=1)
    return [(n, s) for n, s in pairs if not sweep.trials.search or s.figures or s.failed]


def _pairs_text(sweep: Sweep) -> str:
    pairs = by_accuracy(sweep.pairs)
    rows = [pair.cells(str(pair.number)) for pair in pairs[:MOST_PAIRS]]
    more = f" The {len(rows)} nearest; all are in pairs.csv."
    note = pairs_note(sweep.pairs, sweep.summaries) + more * (len(rows) < len(pairs))
    return "\n".join([table(PAIR_HEAD, rows), note, f"{others_note(sweep.pairs)}: pairs.csv"])


def _row(label: str, summary: VariantSummary) -> list[str]:
    accuracy = summary.figures.get("accuracy")
    if accuracy is None:
        return [label, runs_text(summary), "-", "-", "-", "-"]
    return [
        label,
        runs_text(summary),
        format_value(accuracy.mean),
        format_value(accuracy.sd, missing="-"),
        format_interval(accuracy.interval) or "-",
        format_value(summary.figures["balanced accuracy"].mean),
    ]


def runs_text(summary: VariantSummary) -> str:
    """Return the number of finished runs: `3`, or `2 of 3`."""
    if summary.runs == summary.planned:
        return str(summary.runs)
    return f"{summary.runs} of {summary.planned}"


def figure_text(figure: Figure | None) -> str:
    """Return a mean with its standard deviation: `72.5 ± 1.3 %`, and how many seeds if not all."""
    if figure is None:
        return "-"
    if figure.mean is None:
        return format_value(figure.mean)
    counted = ""
    if figure.count < len(figure.values):
        counted = f" ({figure.count} seed{'s' * (figure.count != 1)})"
    if figure.name in LOSSES.values():
        spread = "" if figure.sd is None else f" ± {figure.sd:.3f}"
        return f"{figure.mean:.3f}{spread}{counted}"
    if figure.sd is None:
        return f"{format_value(figure.mean)}{counted}"
    return f"{100 * figure.mean:.1f} ± {100 * figure.sd:.1f} %{counted}"


def _published_text(published: Published) -> str:
    marks = [f"[{number}]" for number in range(1, len(published.sources) + 1)]
    blocks = [table(["accuracy", "ours", *marks], published_cells(published.accuracy))]
    if published.per_class:
        indices = published.class_sources
        head = ["precision and recall", "ours", *(marks[index] for index in indices)]
        blocks.append(table(head, published_cells(published.per_class, indices)))
    sources = [" ".join(pair) for pair in zip(marks, published.sources, strict=True)]
    return "\n\n".join(blocks) + "\n" + "\n".join(sources)


def published_cells(
    rows: Sequence[PublishedRow], sources: Sequence[int] | None = None
) -> list[list[str]]:
    """Return rows of published results as text."""
    return [
        [
            row.label,
            figure_text(row.ours),
            *(
                format_value(value, missing="-")
                for index, value in enumerate(row.theirs)
                if sources is None or index in sources
            ),
        ]
        for row in rows
    ]
