"""Duplicate images: the same bytes, the same pixels, or nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from attrs import frozen

from tlkit.data.leakage import linked, same_patient
from tlkit.data.near import NEAR_BITS as NEAR_BITS
from tlkit.data.near import near_pairs
from tlkit.inspect.fingerprints import ImageFacts


@frozen
class Pair:
    """Two duplicate images.

    Attributes:
        one: The index of the first image.
        other: The index of the second image, which is greater.
        kind: `bytes`, `pixels` or `near`.
        bits: The number of bits, of 256, in which their difference hashes differ.
    """

    one: int
    other: int
    kind: str
    bits: int = 0


@frozen
class Duplicates:
    """Pairs of duplicate images, and the groups that they form.

    Attributes:
        pairs: For equal bytes or pixels, each image with the first of its kind; for near
            duplicates, all pairs.
        groups: The indices of images that are linked by pairs, each group of two or more, sorted.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[tuple[int, ...], ...]

    def count(self, kind: str) -> int:
        """Return the number of pairs of one kind."""
        return sum(pair.kind == kind for pair in self.pairs)


def find_duplicates(images: Sequence[ImageFacts], near_bits: int = NEAR_BITS) -> Duplicates:
    """Find duplicate images."""
    pairs: list[Pair] = []
    first_pixels: dict[str, int] = {}
    first_bytes: dict[str, int] = {}
    for index, image in enumerate(images):
        same_picture = first_pixels.setdefault(image.pixels, index)
        same_file = first_bytes.setdefault(image.sha256, index)
        if same_file != index:
            pairs.append(Pair(same_file, index, "bytes"))
        elif same_picture != index:
            pairs.append(Pair(same_picture, index, "pixels"))
    distinct = sorted(first_pixels.values())
    pairs += [
        Pair(distinct[one], distinct[other], "near", bits)
        for one, other, bits in near_pairs([images[index].bits for index in distinct], near_bits)
    ]
    pairs.sort(key=lambda pair: (pair.one, pair.other))
    return Duplicates(tuple(pairs), _groups(pairs, len(images)))


def _pairs_of(pairs: Sequence[Pair], count: int) -> list[list[str]]:
    """Return the pairs that each image is in, as keys for `linked`."""
    keys: list[list[str]] = [[] for _ in range(count)]
    for number, pair in enumerate(pairs):
        keys[pair.one].append(f"pair {number}")
        keys[pair.other].append(f"pair {number}")
    return keys


def _groups(pairs: Sequence[Pair], count: int) -> tuple[tuple[int, ...], ...]:
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(linked(_pairs_of(pairs, count))):
        members[group].append(index)
    return tuple(tuple(group) for group in members.values() if len(group) > 1)


def group_numbers(images: Sequence[ImageFacts], duplicates: Duplicates) -> list[int]:
    """Return a group number per image: one patient is one group, and so are duplicates."""
    keys = _pairs_of(duplicates.pairs, len(images))
    for own, facts in zip(keys, images, strict=True):
        if patient := same_patient(facts.image.patient):
            own.append(f"patient {patient}")
    return linked(keys)
