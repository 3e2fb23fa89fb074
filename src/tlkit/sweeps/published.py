"""Published results beside a sweep's own, from the experiments' `[[reference]]` tables."""

from __future__ import annotations

from attrs import frozen

from tlkit.sweeps.summary import Figure, VariantSummary
from tlkit.sweeps.sweep import Sweep

Row = tuple[str, Figure | None, tuple[float | None, ...]]  # what, ours, theirs by source


@frozen
class Published:
    """Our figures and published ones.

    Attributes:
        sources: Where they were published, each once.
        accuracy: A row a variant.
        per_class: A row a variant and figure of a class that somebody published.
    """

    sources: tuple[str, ...]
    accuracy: tuple[Row, ...]
    per_class: tuple[Row, ...]

    @property
    def of_classes(self) -> tuple[int, ...]:
        """Return the numbers of the sources, from 0, that tell anything of a class."""
        numbers = range(len(self.sources))
        return tuple(n for n in numbers if any(row[2][n] is not None for row in self.per_class))


def published_beside(done: Sweep) -> Published:
    """Return what the experiments of a sweep cite, beside what came of them."""
    from tlkit.metrics.published import figure_names, reference_figures

    cited: list[tuple[VariantSummary, dict[str, dict[str, float | None]]]] = []
    names: list[str] = []
    for summary in done.summaries:
        trial = next(t for t in done.trials.trials if t.variant == summary.variant)
        classes = trial.plan.classes
        found = {
            reference.source + ("" if reference.same_test else ", on other test images"):
                reference_figures(reference, classes)
            for reference in trial.experiment.reference
        }  # fmt: skip
        cited.append((summary, found))
        names += [name for name in figure_names(classes) if name not in names]
    sources = tuple(dict.fromkeys(source for _, found in cited for source in found))

    def rows(name: str) -> list[Row]:
        return [
            (
                summary.label,
                summary.figures.get(name),
                tuple(found.get(source, {}).get(name) for source in sources),
            )
            for summary, found in cited
        ]

    per_class = [
        (f"{label}, {name}", ours, theirs)
        for number in range(len(cited))
        for name in names
        if name != "accuracy"
        for label, ours, theirs in [rows(name)[number]]
        if any(value is not None for value in theirs)
    ]
    return Published(sources, tuple(rows("accuracy")), tuple(per_class))


def published_rows(published: Published) -> list[list[object]]:
    """Return a row a figure that somebody published: what, ours, its spread, theirs, where."""
    accuracy = [(f"{label}, accuracy", ours, theirs) for label, ours, theirs in published.accuracy]
    return [
        [label, ours.mean if ours else None, ours.sd if ours else None, value, source]
        for label, ours, theirs in (*accuracy, *published.per_class)
        for value, source in zip(theirs, published.sources, strict=True)
        if value is not None
    ]
