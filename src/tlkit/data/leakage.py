"""What must not be in two splits: one patient, one picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from attrs import frozen

from tlkit.data.splits import Example, seen_alike
from tlkit.system.errors import DataError
from tlkit.system.text import first_lines, printable

SHOWN = 10  # images that a message lists
WAY_OUT = "each must be in one split only: move or remove the others, or accept it with "
WAY_OUT += "data.allow_leakage = true"
E = TypeVar("E", bound=Example)


def same_patient(name: str) -> str:
    """Return the form that all spellings of one patient's id share; empty if it is unknown.

    Case, Unicode form, full width, space, invisible characters and zeros before a number make no
    difference: two tables often write one patient's id in two ways, and an error is better than
    leakage. This is the only place that decides when two images are of one patient.

    >>> same_patient(" P007"), same_patient("p\u00a07\u200b"), same_patient("p70")
    ('p7', 'p7', 'p70')
    """
    folded = re.sub(r"\s", "", seen_alike(name))
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", re.sub(r"^(\D*)0+(?=\d)", r"\1", folded))


def linked(keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """Return a group number per item: items that share a key are in one group, chains included.

    Args:
        keys: The keys of each item; empty strings are none.

    >>> linked([["p"], ["p", "x"], ["x"], [], [""]])
    [0, 0, 0, 3, 4]
    """
    parent: list[int] = []

    def first_of(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    holder: dict[Hashable, int] = {}
    for item, own in enumerate(keys):
        parent.append(item)
        for key in own:
            if key != "":
                low, high = sorted((first_of(holder.setdefault(key, item)), first_of(item)))
                parent[high] = low
    return [first_of(item) for item in range(len(parent))]


@frozen
class Shared(Generic[E]):
    """Images of the same patient or picture.

    Attributes:
        what: What they share: `patient` or `picture`.
        places: Each image with its split.
    """

    what: str
    places: tuple[tuple[str, E], ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that the images are in."""
        return tuple(dict.fromkeys(split for split, _ in self.places))

    @property
    def labels(self) -> frozenset[str]:
        """Return the images' labels."""
        return frozenset(example.label for _, example in self.places)

    @property
    def name(self) -> str:
        """Return what they share for a message: a patient in all spellings, or the picture."""
        if self.what != "patient":
            return "the same picture"
        return f"patient {' = '.join(dict.fromkeys(repr(e.patient) for _, e in self.places))}"

    def __str__(self) -> str:
        """Return what is shared and the images, in one line."""
        torn = self.what == "picture" and len(self.labels) > 1
        images = [
            f"{example.path} ({split}{', ' + example.label if torn else ''})"
            for split, example in self.places[:SHOWN]
        ]
        more = f" and {len(self.places) - SHOWN} more" if len(self.places) > SHOWN else ""
        labels = " with two labels" if torn else ""
        where = f"{' and '.join(self.splits)}: {', '.join(images)}{more}"
        return printable(f"{self.name}{labels} in {where}")


def shared_patients(rows: Iterable[tuple[str, E]]) -> list[Shared[E]]:
    """Return the patients in several splits, in the order of their first images."""
    shared = _shared(rows, "patient", lambda example: same_patient(example.patient))
    return [patient for patient in shared if len(patient.splits) > 1]


def shared_pictures(rows: Iterable[tuple[str, E]], pictures: Mapping[str, str]) -> list[Shared[E]]:
    """Return the pictures that appear more than once, in the order of their first images."""
    return _shared(rows, "picture", lambda example: pictures[example.path])


def _shared(rows: Iterable[tuple[str, E]], what: str, key: Callable[[E], str]) -> list[Shared[E]]:
    groups: defaultdict[str, list[tuple[str, E]]] = defaultdict(list)
    for split, example in rows:
        groups[key(example)].append((split, example))
    groups.pop("", None)
    return [Shared(what, tuple(places)) for places in groups.values() if len(places) > 1]


def refuse(leaks: Sequence[Shared[E]], source: str = "") -> None:
    """Raise if there are any leaks."""
    if leaks:
        head = f"{source}: " if source else ""
        raise DataError("\n".join([*first_lines([f"{head}{leak}" for leak in leaks]), WAY_OUT]))
