"""A classifier's answers on labelled images, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tlkit.errors import DataError
from tlkit.parts.datasets import SUFFIXES, folders
from tlkit.parts.image_root import ImageRoot
from tlkit.parts.manifest import read_manifest
from tlkit.parts.splits import Example

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tlkit.results.folder import RunFolder
    from tlkit.results.metrics import Scores


@frozen(kw_only=True)
class Evaluation:
    """A classifier's answers on labelled images, and how good they are.

    Attributes:
        split: What these images are called: `train`, `val` or `test`, or `data`.
        examples: The images.
        probabilities: `(images, classes)` float32.
        predicted: Their class numbers, `(images,)`.
        scores: How good the answers are.
        sources: How good they are on the images of each source, by its name; empty unless there
            are several.
    """

    split: str
    examples: tuple[Example, ...] = field(repr=False)
    probabilities: npt.NDArray[np.float32] = field(repr=False, eq=False)
    predicted: npt.NDArray[np.int64] = field(repr=False, eq=False)
    scores: Scores
    sources: Mapping[str, Scores]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        return {
            "evaluated_on": self.split,
            "classes": list(self.scores.classes),
            self.split: self.scores.as_json(),
            "sources": {name: scores.as_json() for name, scores in self.sources.items()},
        }

    def write(self, folder: RunFolder) -> None:
        """Write `predictions.csv` and `metrics.json`."""
        answers = (self.examples, self.probabilities, self.predicted)
        folder.write_predictions(self.scores.classes, {self.split: answers})
        folder.write_json("metrics.json", self.as_json())


def evaluation(
    split: str,
    examples: Sequence[Example],
    probabilities: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.int64],
    classes: Sequence[str],
) -> Evaluation:
    """Score answers, all together and by source.

    Args:
        split: What the images are.
        examples: The images.
        probabilities: `(images, classes)`.
        predicted: Their class numbers.
        classes: Class names in the order of the columns.
    """
    import numpy as np

    from tlkit.results.metrics import score

    labels = np.array([classes.index(example.label) for example in examples])
    patients = [example.patient for example in examples]

    def scored(chosen: npt.NDArray[np.intp]) -> Scores:
        whose = [patients[number] for number in chosen]
        return score(labels[chosen], probabilities[chosen], classes, whose, predicted[chosen])

    source = np.array([example.source for example in examples], dtype=object)
    names = sorted(set(source))
    return Evaluation(
        split=split,
        examples=tuple(examples),
        probabilities=probabilities,
        predicted=predicted,
        scores=scored(np.arange(len(examples))),
        sources={name: scored(np.flatnonzero(source == name)) for name in names}
        if len(names) > 1
        else {},
    )


def labelled(
    data: Path, classes: Sequence[str], split: str | None = None
) -> tuple[list[Example], Callable[[str], bytes]]:
    """Return labelled images and what reads them; see `Classifier.evaluation`."""
    if data.is_file():
        top, links = data.parent, False
        rows = read_manifest(data, classes)
        chosen = split or ("test" if rows["test"] else "val")
        examples = rows.get(chosen, [])
    else:
        top, links = data, True
        if split is not None or not any((data / name).is_dir() for name in classes):
            top = data / (split or ("test" if (data / "test").is_dir() else "val"))
        others = [name for name in folders(top) if name not in classes] if top.is_dir() else []
        if others:
            raise DataError(
                f"{top}: has folders of other classes than the run's: {', '.join(others)}; "
                f"the run knows {', '.join(classes)}"
            )
        examples = [
            Example(path.relative_to(top).as_posix(), label)
            for label in classes
            for path in sorted((top / label).rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]
    if not examples:
        raise DataError(f"{top}: has no images of the classes {', '.join(classes)}")
    return examples, ImageRoot(top, links).read
