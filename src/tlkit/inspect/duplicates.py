"""Images that are there more than once: the same bytes, the same pixels, or nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tlkit.inspect.fingerprints import ImageFacts

NEAR_BITS = 12  # of 256; see `difference_hash`
CHUNK = 512  # rows compared with all others at once: 15,000 images take 60 MB


@frozen
class Pair:
    """Two images that are alike.

    Attributes:
        one: The place of one in the sequence that was searched.
        other: That of the other, which is later.
        kind: `bytes`, `pixels` or `near`.
        bits: In how many of 256 bits their difference hashes differ.
    """

    one: int
    other: int
    kind: str
    bits: int = 0


@frozen
class Duplicates:
    """The pairs of images that are alike, and the groups that they make.

    Attributes:
        pairs: Of the same bytes or pixels, each image with the first such; of near ones, all.
        groups: The places of images that hang together, each group of two or more, sorted.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[tuple[int, ...], ...]

    def count(self, kind: str) -> int:
        """Return how many pairs are of one kind."""
        return sum(pair.kind == kind for pair in self.pairs)


def find_duplicates(looks: Sequence[ImageFacts], near_bits: int = NEAR_BITS) -> Duplicates:
    """Find images that are alike.

    Args:
        looks: The images.
        near_bits: In how many of 256 bits the hashes of near-duplicates may differ.
    """
    pairs: list[Pair] = []
    same: dict[str, int] = {}
    files: dict[str, int] = {}
    for place, look in enumerate(looks):
        first = same.setdefault(look.pixels, place)
        if (file := files.setdefault(look.sha256, place)) != place:
            pairs.append(Pair(file, place, "bytes"))
        elif first != place:
            pairs.append(Pair(first, place, "pixels"))
    distinct = sorted(same.values())
    pairs += [
        Pair(distinct[one], distinct[other], "near", bits)
        for one, other, bits in _near([looks[place].bits for place in distinct], near_bits)
    ]
    pairs.sort(key=lambda pair: (pair.one, pair.other))
    return Duplicates(tuple(pairs), tuple(_groups((pair.one, pair.other) for pair in pairs)))


def _near(
    hashes: Sequence[npt.NDArray[np.uint8]], near_bits: int
) -> Iterator[tuple[int, int, int]]:
    if len(hashes) < 2:
        return
    words = np.stack(hashes).view(np.uint64)
    for start in range(0, len(words), CHUNK):
        differing = words[start : start + CHUNK, None] ^ words[None, start:]
        bits = np.bitwise_count(differing).sum(-1, dtype=np.uint16)
        for row, column in zip(*np.nonzero(bits <= near_bits), strict=True):
            if row < column:
                yield start + int(row), start + int(column), int(bits[row, column])


def _groups(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the places that hang together by pairs."""
    parent: dict[int, int] = {}

    def top(place: int) -> int:
        while parent.setdefault(place, place) != place:
            place = parent[place]
        return place

    for one, other in pairs:
        low, high = sorted((top(one), top(other)))
        parent[high] = low
    found: dict[int, list[int]] = defaultdict(list)
    for place in sorted(parent):
        found[top(place)].append(place)
    return [tuple(places) for places in found.values()]


def joined(looks: Sequence[ImageFacts], duplicates: Duplicates) -> list[int]:
    """Return a group number for each image: those of one patient or alike have the same."""
    owners: dict[str, int] = {}
    links = [(group[0], place) for group in duplicates.groups for place in group[1:]]
    for place, look in enumerate(looks):
        if look.image.patient:
            links.append((owners.setdefault(look.image.patient, place), place))
    numbers = list(range(len(looks)))
    for group in _groups(links):
        for place in group:
            numbers[place] = group[0]
    return numbers
