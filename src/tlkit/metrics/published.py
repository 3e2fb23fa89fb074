"""Published results next to ours: their intervals, and whether the difference is chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import evolve, frozen

from tlkit.config.experiment import PublishedResult
from tlkit.metrics.intervals import wilson
from tlkit.metrics.scores import Scores
from tlkit.metrics.scoring import score_confusion

LEVEL = 0.05  # of the tests
Verdict = Literal["beyond chance", "within chance", ""]


@frozen
class Share:
    """A share of a number of images.

    Attributes:
        value: From 0 to 1; None if undefined or not given.
        n: Number of images; None if unknown.
    """

    value: float | None
    n: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval; None if unknown."""
        return wilson(self.value, self.n) if self.value is not None and self.n else None

    @property
    def hits(self) -> int | None:
        """The number of hits; None if unknown."""
        return None if self.value is None or not self.n else round(self.value * self.n)


@frozen
class ReferenceRow:
    """One of our figures next to a published one.

    Attributes:
        name: For example `cat recall`.
        ours: Our figure.
        theirs: The published figure.
        p: Fisher's exact test, taking the images as different ones; None if not possible. On the
            same images it is conservative, since the published predictions are not known.
        impossible: Whether no number of hits among that many images rounds to the published share.
    """

    name: str
    ours: Share
    theirs: Share
    p: float | None
    impossible: bool

    @property
    def verdict(self) -> Verdict:
        """Whether the figures differ beyond chance, at 5 %; empty if unknown."""
        if self.p is None:
            return ""
        return "beyond chance" if self.p < LEVEL else "within chance"


def reference_figures(
    reference: PublishedResult, classes: Sequence[str]
) -> dict[str, float | None]:
    """Return a published result's figures under the names of `figures`; None where not given."""
    given: dict[str, float | None] = {}
    if reference.confusion is not None:
        given = figures(score_confusion(reference.confusion, classes))
    if reference.accuracy is not None:
        given["accuracy"] = reference.accuracy
    for kind, values in (("precision", reference.precision), ("recall", reference.recall)):
        given |= {f"{name} {kind}": value for name, value in values.items()}
    return {name: given.get(name) for name in figure_names(classes)}


def cited_figures(
    references: Iterable[PublishedResult], classes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Return the figures of published results by source."""
    return {
        reference.source + ("" if reference.same_test else ", on other test images"):
            reference_figures(reference, classes)
        for reference in references
    }  # fmt: skip


def figure_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the figures that are compared with published ones."""
    kinds = ("precision", "recall")
    return ("accuracy", *(f"{name} {kind}" for name in classes for kind in kinds))


def figures(scores: Scores) -> dict[str, float | None]:
    """Return the figures that are compared with published ones, by name."""
    values: dict[str, float | None] = {"accuracy": scores.accuracy}
    for name, own in scores.per_class.items():
        values[f"{name} precision"], values[f"{name} recall"] = own.precision, own.recall
    return values


def reference_rows(scores: Scores, reference: PublishedResult) -> tuple[ReferenceRow, ...]:
    """Return our figures next to those that a published result gives."""
    theirs = reference_figures(reference, scores.classes)
    known = sizes(scores)
    if reference.confusion is not None:
        of = sizes(score_confusion(reference.confusion, scores.classes))
    else:  # how often a class was predicted is unknown
        of = {name: None if name.endswith("precision") else n for name, n in known.items()}
        of = of if reference.same_test else dict.fromkeys(of)
    return tuple(
        _row(name, Share(figures(scores)[name], known[name]), Share(theirs[name], of[name]))
        for name in figure_names(scores.classes)
        if theirs[name] is not None
    )


def _row(name: str, ours: Share, theirs: Share) -> ReferenceRow:
    impossible = theirs.value is not None and bool(theirs.n) and not rounds_to(theirs)
    row = ReferenceRow(name, ours, theirs, None, impossible)
    if ours.hits is None or theirs.hits is None or not ours.n or not theirs.n:
        return row
    from scipy.stats import fisher_exact  # slow to import

    table = [[share.hits, share.n - share.hits] for share in (ours, theirs)]  # type: ignore[operator]  # neither is None
    return evolve(row, p=float(fisher_exact(table).pvalue))


def sizes(scores: Scores) -> dict[str, int | None]:
    """Return the number of images that each of `figures` is a share of, by name."""
    images: dict[str, int | None] = {"accuracy": scores.images}
    for k, (name, own) in enumerate(scores.per_class.items()):
        images[f"{name} precision"] = sum(row[k] for row in scores.confusion)
        images[f"{name} recall"] = own.support
    return images


def rounds_to(share: Share) -> bool:
    """Return whether some number of hits among `n` images rounds to a share as printed.

    >>> rounds_to(Share(0.835, 231)), rounds_to(Share(0.869, 231))
    (True, False)
    """
    assert share.value is not None
    assert share.n
    digits = len(repr(share.value).partition(".")[2])
    near = int(share.value * share.n)
    half = 0.5 * 10.0**-digits + 1e-9
    return any(abs(hits / share.n - share.value) <= half for hits in (near, near + 1))


def remarks(scores: Scores, reference: PublishedResult) -> list[str]:
    """Return a sentence for each of a published result's figures that is impossible."""
    return [
        f"{row.name} {100 * row.theirs.value:.4g} % is not a share of {row.theirs.n} images: the "
        "published figure is a misprint or was obtained on other images"
        for row in reference_rows(scores, reference)
        if row.impossible and row.theirs.value is not None
    ]
