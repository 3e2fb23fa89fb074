"""The images of a study, without their pixels: labels, patients and splits."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from attrs import field, frozen

from tlkit.data.root import mean_file_bytes
from tlkit.system.errors import DataError
from tlkit.system.text import printable

SPLITS = ("train", "val", "test")
# Characters that leave no trace, besides those of the category Cf: joiners, fillers, variants.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5").union(map(chr, range(0xFE00, 0xFE10)))
# Cyrillic and Greek letters, lower case, that look like Latin ones in either case.
LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u0442\u0432\u043d\u043a\u043c"
    "\u03b1\u03b5\u03bf\u03c1\u03c5\u03c7\u03b9\u03bd\u03ba\u03bc\u03c4\u03b2\u03b7\u03b6",
    "aeopcyxijshdtbhkmaeopyxinkmtbhz",
)


def seen_alike(name: str) -> str:
    """Return the form that names share which look alike but for case and surrounding space.

    >>> seen_alike("\uff30\u200b7 ") == seen_alike("p7")
    True
    """
    compatible = unicodedata.normalize("NFKC", name)
    visible = (
        c for c in compatible if unicodedata.category(c) not in {"Cf", "Cc"} and c not in INVISIBLE
    )
    return unicodedata.normalize("NFKC", "".join(visible).casefold()).strip()


def alike_notes(classes: Sequence[str]) -> list[str]:
    """Return notes on classes that look alike, such as by a Cyrillic letter in one of them."""
    shapes: dict[str, list[str]] = {}
    for name in classes:
        shapes.setdefault(seen_alike(name).translate(LOOKALIKES), []).append(name)
    return [
        f"the classes {' and '.join(map(ascii, names))} look alike; are they one?"
        for names in shapes.values()
        if len(names) > 1
    ]


def check_classes(instance: Any, attribute: Any, classes: tuple[str, ...]) -> None:
    """Validate class names: at least two, none empty, no two equal but for case or Unicode form."""
    if len(classes) < 2:
        raise ValueError(f"at least two classes are needed, got {list(classes)}")
    folded = [unicodedata.normalize("NFC", name).casefold().strip() for name in classes]
    if "" in folded:
        raise ValueError(f"a class name must not be empty, got {list(classes)}")
    repeated = [name for name, count in Counter(folded).items() if count > 1]
    if repeated:
        raise ValueError(f"class names must differ by more than case, got {repeated[0]!r} twice")


def spellings(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    r"""Return one spelling for names that differ in their Unicode form only.

    >>> len(set(spellings(["caf\u00e9", "cafe\u0301", "tea"]).values()))
    2
    """
    first: dict[str, str] = {}
    for name in known:
        first.setdefault(unicodedata.normalize("NFC", name), name)
    return {name: first.setdefault(unicodedata.normalize("NFC", name), name) for name in names}


def is_missing(label: object) -> bool:
    """Tell whether a label is none: None, or NaN, NaT or NA as NumPy and pandas have them.

    >>> is_missing(float("nan")), is_missing(None), is_missing("nan"), is_missing(0)
    (True, True, False, False)
    """
    if isinstance(label, Real):
        return bool(label != label)
    return label is None or type(label).__name__ in {"NAType", "NaTType"}


def refuse_missing(labels: Iterable[object], what: str) -> None:
    """Raise if any label is missing; nothing is trained or scored without one."""
    places = [place for place, label in enumerate(labels) if is_missing(label)]
    if places:
        raise ValueError(
            f"{what}: {len(places)} missing (None, NaN or NA), the first at position {places[0]}; "
            "label or leave out these images"
        )


def _lower_case(text: str) -> str:
    return text.lower()


@frozen
class Example:
    """One image and what is known of it.

    Attributes:
        path: Its path relative to the data's root, with forward slashes.
        label: Its class.
        patient: The patient, or whatever else several images may be of; empty if unknown.
        source: The collection it comes from; empty if unknown.
        view: The projection, such as ``PA``; empty if unknown.
        sha256: The hash the file must have; empty if any file will do.
    """

    path: str
    label: str
    patient: str = ""
    source: str = ""
    view: str = ""
    sha256: str = field(default="", converter=_lower_case)


@frozen
class Skipped:
    """An image that was left out because it cannot be used.

    Attributes:
        split: The split it would have been in.
        example: The image.
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
        train: The images to train on.
        val: The images to validate on during training.
        test: The images for the final score; may be empty.
        read: Returns the bytes of the image file at the path of an `Example`.
        root: The folder that paths are relative to, for messages; empty if there is none.
        stand_in: The name of the dataset that replaces missing data; empty for real data.
        notes: What the user should know about the data.
        skipped: The images that were left out because they cannot be used.
        leakage: The numbers of patients and pictures in two splits, where that was accepted, such
            as `{"patient": 2}`.
        held_out: The share of images that tlkit held out for a split that the data did not have,
            such as `{"val": 0.15}`.
        image_weights: The weight of single training images in the loss, by path; others have 1.
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
    held_out: Mapping[str, float] = field(factory=dict)
    image_weights: Mapping[str, float] = field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            check_classes(self, None, self.classes)
        except ValueError as error:
            raise DataError(str(error)) from None
        for name in ("train", "val", *(["test"] if self.test else [])):
            self._check_every_class(name)
        self._check_names()

    def items(self) -> tuple[tuple[str, tuple[Example, ...]], ...]:
        """Return pairs of split name and examples, without empty splits."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return tuple((name, examples) for name, examples in pairs if examples)

    def rows(self) -> Iterator[tuple[str, Example]]:
        """Yield every image with the name of its split."""
        return ((split, example) for split, examples in self.items() for example in examples)

    def counts(self, split: str) -> dict[str, int]:
        """Return the number of images per class in a split, in the order of `classes`."""
        counted = Counter(example.label for example in dict(self.items()).get(split, ()))
        return {name: counted[name] for name in self.classes}

    def file_bytes(self) -> float | None:
        """Return the mean size of a few of the files; None if it is not known."""
        paths = [example.path for _, example in self.rows()]
        return mean_file_bytes(paths, self.root) if self.root else None

    def where(self, path: str) -> str:
        """Return an image's path for a message: as the user would type it, made printable."""
        return printable(f"{self.root}/{path}" if self.root else path)

    @property
    def patients(self) -> str:
        """Return whether the images' patients are `known`, `partly known` or `unknown`."""
        known = [bool(example.patient) for _, example in self.rows()]
        return "known" if all(known) else "partly known" if any(known) else "unknown"

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the results should know about the images, as plain values."""
        return {
            "patients": self.patients,
            "skipped": dict(Counter(image.split for image in self.skipped)),
            "leakage_accepted": dict(self.leakage),
            "held_out": dict(self.held_out),
        }

    def labels(self, examples: Iterable[Example]) -> list[int]:
        """Return the class numbers of `examples`."""
        number = {name: index for index, name in enumerate(self.classes)}
        return [number[example.label] for example in examples]

    def _check_every_class(self, split: str) -> None:
        empty = [name for name, count in self.counts(split).items() if count == 0]
        if empty:
            skipped = Counter(image.example.label for image in self.skipped if image.split == split)
            unusable = sum(skipped[name] for name in empty)
            raise DataError(
                f"{split} split: every class needs at least one image, got none of "
                f"{', '.join(map(repr, empty))}"
                + (f" after {unusable} that cannot be used" if unusable else "")
            )
        unknown = {e.label for e in dict(self.items())[split]} - set(self.classes)
        if unknown:
            raise DataError(
                f"{split} split: label {min(unknown)!r} is none of the classes "
                f"{', '.join(map(repr, self.classes))}"
            )

    def _check_names(self) -> None:
        """Refuse a path that appears twice, and text that cannot be written as UTF-8."""
        first: dict[str, str] = {}
        for split, example in self.rows():
            if example.path in first:
                known = first[example.path]
                where = f"twice in {split}" if known == split else f"in {known} and {split}"
                raise DataError(
                    f"image {example.path!r}: appears {where}; each image must appear once"
                )
            first[example.path] = split
            _check_utf8(example)


def _check_utf8(example: Example) -> None:
    for text in (example.path, example.label, example.patient, example.source, example.view):
        try:
            text.encode()
        except UnicodeEncodeError:
            what = f"image {example.path!r}: must have a name in UTF-8; rename it"
            raise DataError(what) from None
