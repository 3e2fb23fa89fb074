"""Splits that tlkit draws: a share of each class is held out, groups of images stay together.

An image's place depends on its content, the seed and the shares, not on its name or the machine.
So nearly all images keep their split when others are added.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from tlkit.data.folds import contents_of, groups_of
from tlkit.data.splits import Example
from tlkit.system.errors import DataError
from tlkit.system.text import first_lines

SHARE = 0.15  # held out for each split that the data lack
MOST_COPIES = 20  # images, or 5 % of all: more are never near copies of each other


def hold_out(
    examples: Sequence[Example],
    read: Callable[[str], bytes],
    shares: Mapping[str, float],
    seed: int,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> tuple[list[str], tuple[str, ...]]:
    """Return a split per image, and what the user should know about them.

    Images of one patient, copies and near copies are in one split. An image that cannot be decoded
    gets a split too; the check before training reports it.
    """
    contents = contents_of(examples, read, on_image, unreadable=True)
    groups, doubtful = separate_groups(examples, contents)
    names = [str(own[0]) for own in contents]
    splits = assign([example.label for example in examples], groups, names, shares, seed)
    held = " and ".join(f"{100 * share:.3g} % of each class as {k}" for k, share in shares.items())
    together = "images of one patient and near copies are in one split"
    notes = [f"held out by tlkit: {held} (seed {seed}); {together}"]
    if doubtful:
        notes.append(
            f"{doubtful} images look nearly the same, too many to be copies; they may be in "
            "different splits"
        )
    return splits, tuple(notes)


def separate_groups(
    examples: Sequence[Example], contents: Sequence[Sequence[Hashable]]
) -> tuple[list[int], int]:
    """Return a group number per image, and how many images look too much alike to be grouped.

    Small pictures, such as digits on black, have nearly the same hash without being copies. Linked
    in chains, they would tie a whole class together.
    """
    groups = groups_of(examples, contents)
    most = max(MOST_COPIES, len(examples) // 20)
    large = {group for group, count in Counter(groups).items() if count > most}
    firm = [
        [key for key in own if group not in large or not _is_near(key)]
        for group, own in zip(groups, contents, strict=True)
    ]
    doubtful = sum(len(mine) < len(own) for mine, own in zip(firm, contents, strict=True))
    return groups_of(examples, firm), doubtful


def _is_near(key: Hashable) -> bool:
    return isinstance(key, tuple) and key[0] == "near"


def assign(
    labels: Sequence[str],
    groups: Sequence[int],
    names: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
) -> list[str]:
    """Return a split per image: each group in one split, each class about evenly in all of them."""
    wanted = {split: share for split, share in shares.items() if share}
    members: defaultdict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        members[group].append(number)
    counts = {group: Counter(labels[n] for n in own) for group, own in members.items()}
    separate = Counter(label for own in counts.values() for label in own)
    least = min(sorted(separate), key=lambda label: separate[label])
    if separate[least] <= len(wanted):
        raise DataError(
            f"class {least!r}: {len(wanted) + 1} splits need as many separate images (of "
            f"different patients, not duplicates), got {separate[least]}"
        )

    def draw(group: int) -> str:
        name = min(names[n] for n in members[group])
        return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()

    order = sorted(members, key=draw)
    homes = _fill(order, counts, wanted)
    _repair(order, counts, homes, ["train", *wanted])
    return [homes[group] for group in groups]


def _fill(
    order: Sequence[int], counts: Mapping[int, Counter[str]], shares: Mapping[str, float]
) -> dict[int, str]:
    """Return each group's split: the first whose counts come closer to its share with it."""
    total: Counter[str] = Counter()
    for own in counts.values():
        total += own
    lacking = {
        split: {label: share * n for label, n in total.items()} for split, share in shares.items()
    }
    homes = {}
    for group in order:
        homes[group] = "train"
        for split, left in lacking.items():
            gain = sum(
                (abs(left[label]) - abs(left[label] - n)) / total[label]
                for label, n in counts[group].items()
            )
            if gain > 1e-9:
                homes[group] = split
                for label, n in counts[group].items():
                    left[label] -= n
                break
    return homes


def _repair(
    order: Sequence[int],
    counts: Mapping[int, Counter[str]],
    homes: dict[int, str],
    splits: Sequence[str],
) -> None:
    """Move the smallest possible group to each split that lacks a class."""
    having = Counter((homes[group], label) for group in order for label in counts[group])
    for split in splits:
        for label in sorted({label for own in counts.values() for label in own}):
            if having[split, label]:
                continue
            spare = [
                group
                for group in order
                if label in counts[group]
                and all(having[homes[group], k] > 1 for k in counts[group])
            ]
            if spare:
                group = min(spare, key=lambda group: counts[group].total())
                for own in counts[group]:
                    having[homes[group], own] -= 1
                    having[split, own] += 1
                homes[group] = split


def check_every_class(labels: Sequence[str], splits: Sequence[str]) -> None:
    """Check that every class is in every split."""
    there = set(zip(splits, labels, strict=True))
    lacking = [
        f"{split}: has no image of {label!r}, whose images are in too few groups of one patient or "
        "of duplicates; try another seed or share"
        for split in sorted(set(splits))
        for label in sorted(set(labels))
        if (split, label) not in there
    ]
    if lacking:
        raise DataError("\n".join(first_lines(lacking)))
