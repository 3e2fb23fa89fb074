"""Leakage: one patient or one picture in two splits, and copies of a picture inside one."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from attrs import frozen

from tlkit.data.splits import Example, Splits
from tlkit.system.errors import DataError
from tlkit.system.text import printable

SHOWN = 10  # how many a message lists
WAY_OUT = "each must be in one split only: move or remove the others, or accept it with "
WAY_OUT += "data.allow_leakage = true"


@frozen
class Shared:
    """Images that show the same.

    Attributes:
        what: What they share: `patient` or `picture`.
        places: Each image with its split.
    """

    what: str
    places: tuple[tuple[str, Example], ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that they are in."""
        return tuple(dict.fromkeys(split for split, _ in self.places))

    @property
    def labels(self) -> frozenset[str]:
        """Return the classes that they are said to show."""
        return frozenset(example.label for _, example in self.places)

    def __str__(self) -> str:
        """Return what is shared and every row, in one line."""
        two = self.what == "picture" and len(self.labels) > 1
        rows = [
            f"{example.path} ({split}{', ' + example.label if two else ''})"
            for split, example in self.places[:SHOWN]
        ]
        more = f" and {len(self.places) - SHOWN} more" if len(self.places) > SHOWN else ""
        head = "the same picture"
        if self.what == "patient":
            names = dict.fromkeys(repr(example.patient) for _, example in self.places)
            head = f"patient {' = '.join(names)}"
        labels = " with two labels" if two else ""
        return printable(f"{head}{labels} in {' and '.join(self.splits)}: {', '.join(rows)}{more}")


def shared_patients(splits: Splits) -> list[Shared]:
    """Return the patients who are in several splits, in the order of their first images."""
    return [
        found
        for found in _shared(splits, "patient", lambda example: same_patient(example.patient))
        if len(found.splits) > 1
    ]


def shared_pictures(splits: Splits, pictures: Mapping[str, str]) -> list[Shared]:
    """Return the pictures that are there more than once, in the order of their first images.

    Args:
        splits: The images.
        pictures: A hash of what each shows, by its path.
    """
    return list(_shared(splits, "picture", lambda example: pictures[example.path]))


def _shared(splits: Splits, what: str, key: Callable[[Example], str]) -> Iterator[Shared]:
    groups: defaultdict[str, list[tuple[str, Example]]] = defaultdict(list)
    for split, examples in splits.items():
        for example in examples:
            groups[key(example)].append((split, example))
    groups.pop("", None)
    return (Shared(what, tuple(places)) for places in groups.values() if len(places) > 1)


def same_patient(name: str) -> str:
    """Return what two spellings of one patient's id have in common.

    Case, Unicode form, space around it and zeros before its first number make no difference: tables
    from two sources write one patient's id in two ways, and an error is better than leakage.

    >>> same_patient(" P007"), same_patient("p7"), same_patient("p70")
    ('p7', 'p7', 'p70')
    """
    folded = unicodedata.normalize("NFC", name).casefold().strip()
    return re.sub(r"^(\D*)0+(?=\d)", r"\1", folded)


def refuse(leaks: Sequence[Shared], source: str = "") -> None:
    """Raise if there are any.

    Raises:
        DataError: With the first ten, and how many there are.
    """
    if leaks:
        head = f"{source}: " if source else ""
        more = [f"… and {len(leaks) - SHOWN} more"] if len(leaks) > SHOWN else []
        rows = [f"{head}{leak}" for leak in leaks[:SHOWN]]
        raise DataError("\n".join([*rows, *more, WAY_OUT]))
