"""What a dataset gives: which images there are, what they show and which split they belong to."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import field, frozen

from tlkit.system.errors import DataError
from tlkit.system.text import printable

SPLITS = ("train", "val", "test")


def check_classes(instance: Any, attribute: Any, classes: tuple[str, ...]) -> None:
    """Validate class names: two or more, none empty, none alike but for case or Unicode form."""
    if len(classes) < 2:
        raise ValueError(f"at least two classes are needed, got {list(classes)}")
    folded = [unicodedata.normalize("NFC", name).casefold().strip() for name in classes]
    if "" in folded:
        raise ValueError(f"a class name must not be empty, got {list(classes)}")
    twice = [name for name, count in Counter(folded).items() if count > 1]
    if twice:
        raise ValueError(f"class names must differ by more than case, got {twice[0]!r} twice")


@frozen
class Example:
    """One image's name and what is known of it.

    Attributes:
        path: Its path relative to the data's root, with forward slashes.
        label: Its class.
        patient: Whose it is; empty if unknown.
        source: Which collection it comes from; empty if unknown.
        view: The projection, such as ``PA``; empty if unknown.
        sha256: What the file must hash to; empty if anything will do.
    """

    path: str
    label: str
    patient: str = ""
    source: str = ""
    view: str = ""
    sha256: str = ""


@frozen
class Skipped:
    """An image that is left out because it cannot be used.

    Attributes:
        split: Where it would have been.
        example: What it was said to be.
        reason: What is wrong with it.
    """

    split: str
    example: Example
    reason: str


@frozen(kw_only=True)
class Splits:
    """The images of a study, split, without their pixels.

    Attributes:
        classes: Class names in the order of the model's outputs.
        train: The images learnt from.
        val: The images watched while training.
        test: The images judged by in the end; may be empty.
        read: Gives the bytes of the image file at a path of an `Example`.
        root: The folder the paths are relative to, for messages; empty if there is none.
        stand_in: What takes the place of data that are not there; empty for real data.
        notes: What the user should know about the data.
        skipped: The images that were left out because they cannot be used.
        leakage: How many of what is in two splits and was accepted, such as `{"patient": 2}`.
    """

    classes: tuple[str, ...]
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    read: Callable[[str], bytes] = field(eq=False, repr=False)
    root: str = ""
    stand_in: str = ""
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    leakage: Mapping[str, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        try:
            check_classes(self, None, self.classes)
        except ValueError as error:
            raise DataError(str(error)) from None
        for name in ("train", "val", *(["test"] if self.test else [])):
            self._check_every_class(name)
        self._check_names()

    def items(self) -> tuple[tuple[str, tuple[Example, ...]], ...]:
        """Return the pairs of split name and examples, empty splits left out."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return tuple((name, examples) for name, examples in pairs if examples)

    def counts(self, split: str) -> dict[str, int]:
        """Return how many images of each class a split has, in the order of `classes`."""
        counted = Counter(example.label for example in dict(self.items()).get(split, ()))
        return {name: counted[name] for name in self.classes}

    def where(self, path: str) -> str:
        """Return an image's path for a message: as the user would type it, made printable."""
        return printable(f"{self.root}/{path}" if self.root else path)

    @property
    def patients(self) -> str:
        """Tell whether it is known whose the images are: `known`, `partly known` or `unknown`."""
        known = [bool(example.patient) for _, examples in self.items() for example in examples]
        return "known" if all(known) else "partly known" if any(known) else "unknown"

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the results should know about the images, as plain values."""
        return {
            "patients": self.patients,
            "skipped": dict(Counter(one.split for one in self.skipped)),
            "leakage_accepted": dict(self.leakage),
        }

    def labels(self, examples: Iterable[Example]) -> list[int]:
        """Return the class numbers of `examples`."""
        number = {name: index for index, name in enumerate(self.classes)}
        return [number[example.label] for example in examples]

    def _check_every_class(self, split: str) -> None:
        empty = [name for name, count in self.counts(split).items() if count == 0]
        if empty:
            gone = Counter(one.example.label for one in self.skipped if one.split == split)
            left_out = sum(gone[name] for name in empty)
            raise DataError(
                f"{split} split: every class needs at least one image, got none of "
                f"{', '.join(map(repr, empty))}"
                + (f" after {left_out} that cannot be used" if left_out else "")
            )
        unknown = {e.label for e in dict(self.items())[split]} - set(self.classes)
        if unknown:
            raise DataError(
                f"{split} split: label {min(unknown)!r} is none of the classes "
                f"{', '.join(map(repr, self.classes))}"
            )

    def _check_names(self) -> None:
        """Refuse a file that is there twice, and what cannot be written to a table of UTF-8."""
        first: dict[str, str] = {}
        for split, examples in self.items():
            for example in examples:
                if example.path in first:
                    known = first[example.path]
                    where = f"is twice in {split}" if known == split else f"got {known} and {split}"
                    raise DataError(f"image {example.path!r}: must be there once, {where}")
                first[example.path] = split
                _check_utf8(example)


def _check_utf8(example: Example) -> None:
    for text in (example.path, example.label, example.patient, example.source, example.view):
        try:
            text.encode()
        except UnicodeEncodeError:
            what = f"image {example.path!r}: must have a name in UTF-8; rename it"
            raise DataError(what) from None
