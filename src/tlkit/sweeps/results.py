"""The results of a sweep: its runs and variants, what choosing among them is worth, and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tlkit.metrics.intervals import format_interval, format_value
from tlkit.sweeps.choice import choice
from tlkit.sweeps.pairs import VariantPair, compare_variants
from tlkit.sweeps.summary import Figure, Outcome, VariantSummary, machine_numbers, summarize
from tlkit.sweeps.trials import Trials
from tlkit.system.notebook import data_frame, face, html_table

if TYPE_CHECKING:
    import pandas


@frozen(kw_only=True)
class Sweep:
    """A sweep that has gone through all its runs.

    Attributes:
        folder: Its folder.
        trials: The runs as planned.
        outcomes: The outcome of each run.
        summaries: The metrics of each variant over its seeds, with folds pooled.
        nested: The metrics when the variant is chosen on `val`, in each fold or by a search; None
            without either, with one variant, or without other images to judge it by.
        pairs: Each variant against the one that is best on `val`, on the same images.
    """

    folder: Path
    trials: Trials
    outcomes: tuple[Outcome, ...]
    summaries: tuple[VariantSummary, ...]
    nested: VariantSummary | None
    pairs: tuple[VariantPair, ...] = ()

    @classmethod
    def of(cls, folder: Path, trials: Trials, outcomes: Sequence[Outcome]) -> Sweep:
        """Return the sweep with these outcomes, summarized.

        Args:
            folder: The sweep's folder.
            trials: Its trials.
            outcomes: The outcome of each trial.
        """
        summaries = summarize(outcomes)
        return cls(
            folder=folder,
            trials=trials,
            outcomes=tuple(outcomes),
            summaries=tuple(summaries),
            nested=choice(outcomes, summaries, of_search=trials.search is not None),
            pairs=compare_variants(outcomes, summaries),
        )

    def __repr__(self) -> str:
        count, failed = len(self.outcomes), len(self.failed)
        best = max((s for s in self.summaries if s.figures), key=_mean_accuracy, default=None)
        result = f"; best mean accuracy {format_value(_mean_accuracy(best))}" if best else ""
        return (
            f"Sweep({len(self.summaries)} variants, {count} runs, {failed} failed{result}; "
            f"{str(self.folder)[-80:]!r})"
        )

    def _repr_html_(self) -> str:
        head = ["variant", "runs", "seeds", "accuracy", "sd", "95 % interval", "balanced accuracy"]
        rows = []
        for summary in self.all_summaries:
            accuracy = summary.figures.get("accuracy")
            balanced = summary.figures.get("balanced accuracy")
            rows.append(
                [
                    summary.label,
                    f"{summary.runs} of {summary.planned}",
                    len(summary.seeds),
                    format_value(accuracy.mean if accuracy else None, missing="-"),
                    format_value(accuracy.sd if accuracy else None, missing="-"),
                    format_interval(accuracy.interval if accuracy else None),
                    format_value(balanced.mean if balanced else None, missing="-"),
                ]
            )
        failed = [[outcome.trial.name, outcome.error] for outcome in self.failed]
        blocks = [html_table(head, rows)]
        blocks += [html_table(["failed", "error"], failed)] if failed else []
        return face(f"Sweep, {len(self.outcomes)} runs; {self.folder}", *blocks)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per variant and metric as a pandas DataFrame.

        Raises:
            ResourceError: If pandas is not installed.
        """
        return data_frame(
            {"variant": summary.label, "metric": name, "seeds": figure.count, "mean": figure.mean,
             "sd": figure.sd, "low": figure.low, "high": figure.high}
            for summary in self.all_summaries
            for name, figure in summary.figures.items()
        )  # fmt: skip

    @property
    def machines(self) -> dict[str, int]:
        """Return the number of each kind of machine, by what results depend on."""
        return machine_numbers(self.outcomes)

    @property
    def machine_note(self) -> str:
        """Return the note that runs were made on unlike machines; empty if they were not."""
        if len(self.machines) < 2:
            return ""
        return (
            f"The runs were made on {len(self.machines)} kinds of machine, which differ in "
            "processor, threads or versions, so the last bits of results may differ: column "
            "machine of sweep.csv."
        )

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Return the runs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def all_summaries(self) -> tuple[VariantSummary, ...]:
        """Return the variants' summaries, and that of the nested choice if there is one."""
        return (*self.summaries, *([self.nested] if self.nested else []))

    @property
    def stand_in(self) -> str:
        """Return the synthetic dataset that took the place of missing data; empty if none did."""
        return next((t.plan.stand_in for t in self.trials.trials if t.plan.stand_in), "")


def _mean_accuracy(summary: VariantSummary) -> float:
    return summary.figures["accuracy"].mean or 0.0


@frozen
class PublishedRow:
    """A variant's metric next to published values.

    Attributes:
        label: The variant, and the metric if it is not the accuracy.
        ours: Our metric; None if no seed is finished.
        theirs: The published value of each source; None where it gives none.
    """

    label: str
    ours: Figure | None
    theirs: tuple[float | None, ...]


@frozen
class Published:
    """A sweep's metrics next to published ones.

    Attributes:
        sources: Where they were published.
        accuracy: One row per variant.
        per_class: One row per variant and published precision or recall.
    """

    sources: tuple[str, ...]
    accuracy: tuple[PublishedRow, ...]
    per_class: tuple[PublishedRow, ...]

    @property
    def class_sources(self) -> tuple[int, ...]:
        """Return the indices of the sources that give any precision or recall."""
        indices = range(len(self.sources))
        return tuple(i for i in indices if any(row.theirs[i] is not None for row in self.per_class))


def published_results(sweep: Sweep) -> Published:
    """Return what the experiments' `[[reference]]` tables cite, next to our results."""
    from tlkit.metrics.published import cited_figures, figure_names

    cited: list[tuple[VariantSummary, dict[str, dict[str, float | None]]]] = []
    names: dict[str, None] = {}
    for summary in sweep.summaries:
        trial = next(t for t in sweep.trials.trials if t.variant == summary.variant)
        cited.append((summary, cited_figures(trial.experiment.reference, trial.plan.classes)))
        names |= dict.fromkeys(figure_names(trial.plan.classes))
    sources = tuple(dict.fromkeys(source for _, by_source in cited for source in by_source))

    def row(label: str, name: str, summary: VariantSummary, by_source: Any) -> PublishedRow:
        theirs = tuple(by_source.get(source, {}).get(name) for source in sources)
        return PublishedRow(label, summary.figures.get(name), theirs)

    per_class = [
        row(f"{summary.label}, {name}", name, summary, by_source)
        for summary, by_source in cited
        for name in names
        if name != "accuracy"
    ]
    return Published(
        sources=sources,
        accuracy=tuple(row(s.label, "accuracy", s, by_source) for s, by_source in cited),
        per_class=tuple(r for r in per_class if any(value is not None for value in r.theirs)),
    )
