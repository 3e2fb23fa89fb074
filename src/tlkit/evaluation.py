"""`Evaluation`: predictions for labeled images, with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tlkit.data.splits import Example
from tlkit.metrics.scores import Scores
from tlkit.metrics.scoring import score_examples
from tlkit.runfolder.folder import METRICS, RunFolder
from tlkit.runfolder.tables import write_predictions
from tlkit.system.notebook import data_frame, face, html_table
from tlkit.system.renames import warn_renamed
from tlkit.system.seal import seal_tree

if TYPE_CHECKING:
    import pandas

Probabilities = npt.NDArray[np.float32]


@frozen(kw_only=True)
class Evaluation:
    """A classifier's predictions for labeled images, with their scores.

    Attributes:
        split: `train`, `val` or `test`, or `data` for images without splits.
        examples: The images.
        probabilities: `(images, classes)` float32.
        predicted: Predicted class numbers, `(images,)`.
        scores: Scores on all images.
        sources: Scores on the images of each source by name; empty with fewer than two sources.
        notes: What was left out or skipped, and what else is worth knowing.
        caveats: The reasons to distrust the scores, such as images that were trained on.
    """

    split: str
    examples: tuple[Example, ...] = field(repr=False)
    probabilities: Probabilities = field(repr=False, eq=False)
    predicted: npt.NDArray[np.int64] = field(repr=False, eq=False)
    scores: Scores
    sources: Mapping[str, Scores]
    notes: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        # `Classifier.evaluate` returned the scores alone until now.
        if name.startswith("_") or not hasattr(Scores, name):
            raise AttributeError(name)
        warn_renamed(f"evaluate(...).{name}", f"evaluate(...).scores.{name}")
        return getattr(self.scores, name)

    def __repr__(self) -> str:
        return f"Evaluation({self.split}, {self.scores!r}, {len(self.caveats)} caveats)"

    def _repr_html_(self) -> str:
        cautions = html_table(["before you believe this"], [[text] for text in self.caveats])
        blocks = [self.scores._repr_html_(), *([cautions] if self.caveats else [])]
        return face(f"Evaluation on {self.split}", *blocks)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per image as a pandas DataFrame: labels, prediction, probabilities.

        Raises:
            ResourceError: If pandas is not installed.
        """
        classes, rows = self.scores.classes, zip(self.predicted, self.probabilities, strict=True)
        return data_frame(
            {"path": example.path, "label": example.label, "predicted": classes[number]}
            | {f"p_{name}": share for name, share in zip(classes, shares.tolist(), strict=True)}
            for example, (number, shares) in zip(self.examples, rows, strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        return {
            "evaluated_on": self.split,
            "classes": list(self.scores.classes),
            self.split: self.scores.as_json(),
            "sources": {name: scores.as_json() for name, scores in self.sources.items()},
            "caveats": list(self.caveats),
        }

    def write(self, folder: RunFolder) -> None:
        """Write `predictions.csv` and `metrics.json`."""
        predictions = (self.examples, self.probabilities, self.predicted)
        write_predictions(folder, self.scores.classes, {self.split: predictions})
        folder.write_json(METRICS, self.as_json())
        seal_tree(folder.path)


def evaluation_of(
    split: str | None,
    examples: Sequence[Example],
    probabilities: Probabilities,
    predicted: npt.NDArray[np.int64],
    classes: Sequence[str],
    notes: Sequence[str],
) -> Evaluation:
    """Score predictions on all images and by source; the caveats are left to the caller."""

    def scores(chosen: npt.NDArray[np.intp]) -> Scores:
        some = [examples[number] for number in chosen]
        return score_examples(some, probabilities[chosen], classes, predicted[chosen])

    source = np.array([example.source for example in examples], dtype=object)
    names = sorted(set(source))
    return Evaluation(
        split=split or "data",
        examples=tuple(examples),
        probabilities=probabilities,
        predicted=predicted,
        scores=scores(np.arange(len(examples))),
        sources={name: scores(np.flatnonzero(source == name)) for name in names}
        if len(names) > 1
        else {},
        notes=tuple(notes),
    )
