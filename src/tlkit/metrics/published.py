"""Published results beside ours: their intervals, and whether ours differs beyond chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import evolve, frozen
from scipy.stats import fisher_exact

from tlkit.config.experiment import PublishedResult
from tlkit.metrics.intervals import wilson
from tlkit.metrics.scores import Scores
from tlkit.metrics.scoring import score_confusion

LEVEL = 0.05  # of the tests
Verdict = Literal["beyond chance", "within chance", ""]


@frozen
class Share:
    """A share with the number of images it is of.

    Attributes:
        value: From 0 to 1; None if it is not defined or not given.
        n: Of how many images; None if that is not known.
    """

    value: float | None
    n: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return Wilson's 95 % interval, if it can be told."""
        return wilson(self.value, self.n) if self.value is not None and self.n else None

    @property
    def hits(self) -> int | None:
        """Return the number of hits, if it can be told."""
        return None if self.value is None or not self.n else round(self.value * self.n)


@frozen
class ReferenceRow:
    """One figure of ours beside a published one.

    Attributes:
        name: For example `cat recall`.
        ours: Ours.
        theirs: The published one.
        p: Fisher's exact test of both as shares of different images; None if it cannot be made.
            On the same images it is cautious: what was right on which image is not published.
        impossible: Whether no number of hits among so many images rounds to the published share.
    """

    name: str
    ours: Share
    theirs: Share
    p: float | None
    impossible: bool

    @property
    def verdict(self) -> Verdict:
        """Return whether the figures differ beyond chance, at 5 %; empty if that is not known."""
        if self.p is None:
            return ""
        return "beyond chance" if self.p < LEVEL else "within chance"


def reference_figures(
    reference: PublishedResult, classes: Sequence[str]
) -> dict[str, float | None]:
    """Return a published result's figures under the names of `figures`; None where not given."""
    found: dict[str, float | None] = {}
    if reference.confusion is not None:
        found = figures(score_confusion(reference.confusion, classes))
    if reference.accuracy is not None:
        found["accuracy"] = reference.accuracy
    for kind, values in (("precision", reference.precision), ("recall", reference.recall)):
        found |= {f"{name} {kind}": value for name, value in values.items()}
    return {name: found.get(name) for name in figure_names(classes)}


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
    """Return the names of the figures that are set beside published ones."""
    kinds = ("precision", "recall")
    return ("accuracy", *(f"{name} {kind}" for name in classes for kind in kinds))


def figures(scores: Scores) -> dict[str, float | None]:
    """Return the figures that are set beside published ones, by name."""
    found: dict[str, float | None] = {"accuracy": scores.accuracy}
    for name, one in scores.per_class.items():
        found[f"{name} precision"], found[f"{name} recall"] = one.precision, one.recall
    return found


def beside(scores: Scores, reference: PublishedResult) -> tuple[ReferenceRow, ...]:
    """Return our figures beside a published result's, those that it gives.

    Args:
        scores: Ours.
        reference: The published result; without a matrix its shares are of as many images as ours
            if it was obtained on the same test images.
    """
    theirs = reference_figures(reference, scores.classes)
    known = sizes(scores)
    if reference.confusion is not None:
        of = sizes(score_confusion(reference.confusion, scores.classes))
    else:  # how often a class was called is not known
        of = {name: None if name.endswith("precision") else n for name, n in known.items()}
        of = of if reference.same_test else dict.fromkeys(of)
    return tuple(
        _beside(name, Share(figures(scores)[name], known[name]), Share(theirs[name], of[name]))
        for name in figure_names(scores.classes)
        if theirs[name] is not None
    )


def _beside(name: str, ours: Share, theirs: Share) -> ReferenceRow:
    impossible = theirs.value is not None and bool(theirs.n) and not rounds_to(theirs)
    found = ReferenceRow(name, ours, theirs, None, impossible)
    if ours.hits is None or theirs.hits is None or not ours.n or not theirs.n:
        return found
    table = [[share.hits, share.n - share.hits] for share in (ours, theirs)]  # type: ignore[operator]  # neither is None
    return evolve(found, p=float(fisher_exact(table).pvalue))


def sizes(scores: Scores) -> dict[str, int | None]:
    """Return of how many images each of `figures` is a share, under the same names."""
    found: dict[str, int | None] = {"accuracy": scores.images}
    for k, (name, one) in enumerate(scores.per_class.items()):
        found[f"{name} precision"] = sum(row[k] for row in scores.confusion)
        found[f"{name} recall"] = one.support
    return found


def rounds_to(share: Share) -> bool:
    """Tell whether some number of hits among `n` images rounds to a share as it is written.

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
    """Return which of a published result's figures cannot be, a sentence each."""
    return [
        f"{row.name} {100 * row.theirs.value:.4g} % is no share of {row.theirs.n} images: the "
        "published figure is misprinted or was obtained on others"
        for row in beside(scores, reference)
        if row.impossible and row.theirs.value is not None
    ]
