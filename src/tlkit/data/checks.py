"""Looking at every image once before anything starts: can it be used, is it there twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from attrs import evolve, frozen

from tlkit.data.image_index import DecodedImageIndex, Picture
from tlkit.data.images import ImageError, decode, in_parallel, picture_of
from tlkit.data.leakage import Shared, refuse, shared_pictures
from tlkit.data.splits import Example, Skipped, Splits
from tlkit.parts.kinds import Dataset
from tlkit.system.errors import DataError
from tlkit.system.text import printable

SHOWN = 10  # how many bad images a message lists
NAMED = 3  # how many a note names
SMALL_PX = 32  # of a smaller picture VGG-16 leaves not one pixel
CHANGED = "has changed since the run began; put the file back, or begin a new run"


@frozen
class Checked:
    """Images that were all looked at.

    Attributes:
        splits: Those that can be used; what is read of them is what was looked at, to the bit.
        hashes: SHA-256 of each image file by path.
    """

    splits: Splits
    hashes: Mapping[str, str]


@frozen
class _Look:
    """What was found about one image: either `problem` says why it cannot be used, or nothing does.

    Attributes:
        split: Where it is.
        example: What it is said to be.
        sha256: The hash of its file; empty if that cannot be read.
        picture: What it shows; None if it cannot be decoded.
        problem: Why it cannot be used.
    """

    split: str
    example: Example
    sha256: str = ""
    picture: Picture | None = None
    problem: str = ""

    @property
    def another(self) -> bool:
        """Tell whether the file is sound, but not the one that the data say."""
        return bool(self.problem and self.picture)


def check_images(
    splits: Splits,
    dataset: Dataset,
    on_image: Callable[[int, int], None],
    image_index: DecodedImageIndex | None = None,
) -> Checked:
    """Decode every image once, unless its bytes are image_index, and compare all of them.

    Args:
        splits: The images.
        dataset: Says what happens to bad images and to leakage.
        on_image: Told how many of how many are done.
        image_index: Which files are known to be sound; unset: none, and none is image_index.

    Raises:
        DataError: With the images that cannot be used, unless they are skipped; that are not those
            the data say; or that are in two splits, unless that is allowed.
    """
    looks = _look_at_all(splits, on_image, image_index)
    _refuse_bad(splits, looks, skip=dataset.on_bad_image == "skip")
    splits = _without_bad(splits, looks)
    hashes = {look.example.path: look.sha256 for look in looks if look.picture}
    pictures = {look.example.path: look.picture for look in looks if look.picture}
    shared = shared_pictures(splits, {path: found.pixels for path, found in pictures.items()})
    leaks = [one for one in shared if len(one.splits) > 1]
    if not dataset.allow_leakage:
        refuse(leaks, printable(splits.root))
    if leaks:
        splits = evolve(splits, leakage={**splits.leakage, "picture": len(leaks)})
    notes = (*splits.notes, *_copies(shared), *_odd(splits, pictures))
    return Checked(
        evolve(splits, notes=notes, read=partial(_unchanged, splits.read, hashes)), hashes
    )


def _look_at_all(
    splits: Splits, on_image: Callable[[int, int], None], image_index: DecodedImageIndex | None
) -> list[_Look]:
    """Look at every image, and remember what was sound even if that is broken off."""
    known = image_index.read() if image_index else {}
    places = [(split, example) for split, examples in splits.items() for example in examples]
    looks: list[_Look] = []
    try:
        for look in in_parallel(partial(_look, splits, known), places, os.cpu_count() or 1):
            looks.append(look)
            on_image(len(looks), len(places))
    finally:
        new = {look.sha256: look.picture for look in looks if look.picture}
        if image_index and new.keys() - known.keys():
            image_index.add(new)
    return looks


def _look(splits: Splits, known: Mapping[str, Picture], place: tuple[str, Example]) -> _Look:
    split, example = place
    try:
        content = splits.read(example.path)
        found = hashlib.sha256(content).hexdigest()
        picture = known.get(found) or picture_of(decode(content))
    except OSError as error:
        return _Look(split, example, problem=f"cannot be read: {error.strerror or error}")
    except ImageError as error:
        return _Look(split, example, problem=str(error))
    wrong = f"has SHA-256 {found}, expected {example.sha256}"
    same = example.sha256.lower() in {"", found}
    return _Look(split, example, found, picture, "" if same else wrong)


def _refuse_bad(splits: Splits, looks: Sequence[_Look], skip: bool) -> None:
    """Raise for images that cannot be used; for those that are others than the data say always."""
    bad = [look for look in looks if look.another or (look.problem and not skip)]
    if not bad:
        return
    rows = [f"{splits.where(one.example.path)}: {printable(one.problem)}" for one in bad[:SHOWN]]
    if len(bad) > SHOWN:
        rows.append(f"… and {len(bad) - SHOWN} more images")
    way_out = "replace or remove them, then run again"
    if not any(look.another for look in bad):
        way_out += '; or leave them out with data.on_bad_image = "skip"'
    raise DataError("\n".join([*rows, way_out]))


def _without_bad(splits: Splits, looks: Sequence[_Look]) -> Splits:
    """Return the splits without the images that cannot be used, which they record."""
    skipped = tuple(Skipped(one.split, one.example, one.problem) for one in looks if one.problem)
    if not skipped:
        return splits
    gone = {one.example.path for one in skipped}
    train, val, test = (
        tuple(example for example in examples if example.path not in gone)
        for examples in (splits.train, splits.val, splits.test)
    )
    named = ", ".join(f"{splits.where(one.example.path)}: {one.reason}" for one in skipped[:NAMED])
    note = f"{_counted(skipped, 'image is', 'images are')} skipped, such as {named}"
    notes = (*splits.notes, note)
    return evolve(splits, train=train, val=val, test=test, skipped=skipped, notes=notes)


def _copies(shared: Sequence[Shared]) -> list[str]:
    """Return notes on pictures that are in one split several times, or under two labels."""
    notes = []
    inside = [one for one in shared if len(one.splits) == 1]
    if inside:
        copies = [place for one in inside for place in one.places[1:]]
        named = "; ".join(map(str, inside[:NAMED]))
        what = _counted(copies, "image is a copy of another", "images are copies of others")
        notes.append(f"{what} in the same split: {named}")
    torn = [one for one in shared if len(one.labels) > 1]
    if torn:
        named = "; ".join(map(str, torn[:NAMED]))
        notes.append(f"{_counted(torn, 'picture has', 'pictures have')} two labels: {named}")
    return notes


def _odd(splits: Splits, pictures: Mapping[str, Picture]) -> list[str]:
    """Return notes on images that can be used and hardly show anything."""
    small = [p for p, found in pictures.items() if min(found.width, found.height) < SMALL_PX]
    flat = [path for path, found in pictures.items() if found.flat]
    notes = []
    if small:
        what = f"{_counted(small, 'image has', 'images have')} a side below {SMALL_PX} pixels"
        notes.append(f"{what}, such as {splits.where(small[0])}")
    if flat:
        what = f"{_counted(flat, 'image has', 'images have')} only one colour"
        notes.append(f"{what}, such as {splits.where(flat[0])}")
    return notes


def _counted(found: Sequence[object], one: str, more: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else more}"


def _unchanged(read: Callable[[str], bytes], hashes: Mapping[str, str], path: str) -> bytes:
    """Return the bytes of an image that was looked at.

    Raises:
        ImageError: If they are others now.
    """
    content = read(path)
    if hashlib.sha256(content).hexdigest() != hashes[path]:
        raise ImageError(CHANGED)
    return content
