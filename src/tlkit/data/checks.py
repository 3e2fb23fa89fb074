"""The check of every image before training: is it usable, and does it appear elsewhere."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from attrs import evolve, frozen

from tlkit.data.decoding import ImageError
from tlkit.data.first_look import FirstLook, Look
from tlkit.data.images import Reader
from tlkit.data.leakage import Shared, refuse, shared_pictures
from tlkit.data.near import near_pairs
from tlkit.data.pictures import LOOKS_DARK, DecodedImageIndex, Picture
from tlkit.data.splits import Example, Skipped, Splits
from tlkit.system.errors import DataError
from tlkit.system.notebook import hint
from tlkit.system.text import first_lines, printable

NAMED = 3  # images that a note names
SMALL_PX = 32  # VGG-16 reduces a smaller picture to nothing
# Bits in which a near copy may differ to be noted: alike drawings of one digit differ in 5, a good
# half of the copies of X-rays in 4 or fewer. `tlkit data verify` takes `NEAR_BITS`.
SURE_BITS = 4
CHANGED = "has changed since the run started; restore the file, or start a new run"


@frozen
class Checked:
    """Images that have all been checked.

    Attributes:
        splits: The usable images; reading one returns the bytes that were checked, or fails.
        hashes: SHA-256 of each image file, by path.
        looks: The difference hash of each image, by path; see `tlkit.data.near`.
    """

    splits: Splits
    hashes: Mapping[str, str]
    looks: Mapping[str, str]


@frozen
class _Check:
    """The result for one image.

    Attributes:
        split: Its split.
        example: The image.
        sha256: The hash of its file; empty if the file cannot be read.
        picture: What it shows; None if it cannot be decoded.
        problem: Why it cannot be used; empty if it can.
    """

    split: str
    example: Example
    sha256: str
    picture: Picture | None
    problem: str

    @property
    def is_other_file(self) -> bool:
        """Return whether the file is a sound image, but not the one that the data state."""
        return bool(self.problem and self.picture)


def first_look(
    splits: Splits, index: DecodedImageIndex | None = None, reader: Reader | None = None
) -> FirstLook:
    """Begin to look at every image of the splits."""
    paths = [example.path for _, example in splits.rows()]
    return FirstLook(paths, splits.read, index, reader, splits.file_bytes())


def check_images(
    splits: Splits,
    looks: FirstLook | None = None,
    *,
    skip_bad: bool | None = None,
    allow_leakage: bool = False,
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> Checked:
    """Look at every image once, and compare all of them.

    Args:
        splits: The images.
        looks: A look at all of them, in order, that has begun; None: it begins here.
        skip_bad: Leave out images that cannot be decoded, instead of raising; None: raise, without
            naming `data.on_bad_image`, which the caller does not take.
        allow_leakage: Accept pictures that are in two splits.
        on_image: Called with the number of images done and of all images.
    """
    with looks or first_look(splits) as found:
        checks = _check_all(list(splits.rows()), found, on_image)
    _refuse_bad(splits, checks, skip_bad)
    splits = _without_bad(splits, checks)
    hashes = {check.example.path: check.sha256 for check in checks if check.picture}
    pictures = {check.example.path: check.picture for check in checks if check.picture}
    pixels = {path: picture.pixels for path, picture in pictures.items()}
    shared = shared_pictures(splits.rows(), pixels)
    leaks = [picture for picture in shared if len(picture.splits) > 1]
    if not allow_leakage:
        refuse(leaks, printable(splits.root))
    if leaks:
        splits = evolve(splits, leakage={**splits.leakage, "picture": len(leaks)})
    notes = (*splits.notes, *_copies(shared), *_near_copies(splits, pictures))
    notes = (*notes, *_odd(splits, pictures))
    read = partial(_unchanged, splits.read, hashes)
    bits = {path: picture.bits for path, picture in pictures.items()}
    return Checked(evolve(splits, notes=notes, read=read), hashes, bits)


def bad_images(
    examples: Sequence[Example],
    read: Callable[[str], bytes],
    index: DecodedImageIndex | None = None,
) -> dict[str, str]:
    """Return the images that cannot be decoded, by path, and why."""
    rows = [("", example) for example in examples]
    with FirstLook([example.path for example in examples], read, index) as looks:
        checks = _check_all(rows, looks)
    for check in checks:
        if check.is_other_file:
            raise DataError(f"{printable(check.example.path)}: {check.problem}")
    return {check.example.path: check.problem for check in checks if check.problem}


def skipped_note(problems: Mapping[str, str]) -> str:
    """Return how many images are skipped, with the first ones and their reasons."""
    named = [f"{path}: {reason}" for path, reason in itertools.islice(problems.items(), NAMED)]
    return f"{_counted(problems, 'image is', 'images are')} skipped, such as {', '.join(named)}"


def _check_all(
    rows: Sequence[tuple[str, Example]],
    looks: Iterable[tuple[str, Look]],
    on_image: Callable[[int, int], None] = lambda done, count: None,
) -> list[_Check]:
    """Check every image, given what a look at it has found."""
    checks: list[_Check] = []
    for (split, example), (_, look) in zip(rows, looks, strict=True):
        problem = look.problem or hash_problem(example, look.sha256)
        checks.append(_Check(split, example, look.sha256, look.picture, problem))
        on_image(len(checks), len(rows))
    return checks


def hash_problem(example: Example, sha256: str) -> str:
    """Return what is wrong if a file does not have the stated hash, or an empty string."""
    if example.sha256 in {"", sha256}:
        return ""
    return f"has SHA-256 {sha256}, expected {example.sha256}"


def _refuse_bad(splits: Splits, checks: Sequence[_Check], skip: bool | None) -> None:
    """Raise for images that cannot be used; other files than the stated ones are never skipped."""
    bad = [check for check in checks if check.is_other_file or (check.problem and not skip)]
    if not bad:
        return
    rows = [f"{splits.where(check.example.path)}: {printable(check.problem)}" for check in bad]
    way_out = "replace or remove them, then run again"
    if skip is not None and not any(check.is_other_file for check in bad):
        way_out += '; or leave them out with data.on_bad_image = "skip"'
    raise DataError("\n".join([*first_lines(rows, "images"), way_out]))


def _without_bad(splits: Splits, checks: Sequence[_Check]) -> Splits:
    """Return the splits without the images that cannot be used, which they record."""
    skipped = tuple(Skipped(c.split, c.example, c.problem) for c in checks if c.problem)
    if not skipped:
        return splits
    paths = {image.example.path for image in skipped}
    train, val, test = (
        tuple(example for example in examples if example.path not in paths)
        for examples in (splits.train, splits.val, splits.test)
    )
    note = skipped_note({splits.where(image.example.path): image.reason for image in skipped})
    notes = (*splits.notes, note)
    return evolve(splits, train=train, val=val, test=test, skipped=skipped, notes=notes)


def _copies(shared: Sequence[Shared[Example]]) -> list[str]:
    """Return notes on pictures that are in one split several times, or under two labels."""
    notes = []
    inside = [picture for picture in shared if len(picture.splits) == 1]
    if inside:
        copies = [place for picture in inside for place in picture.places[1:]]
        named = "; ".join(map(str, inside[:NAMED]))
        what = _counted(copies, "image is a copy of another", "images are copies of others")
        notes.append(f"{what} in the same split: {named}")
    torn = [picture for picture in shared if len(picture.labels) > 1]
    if torn:
        named = "; ".join(map(str, torn[:NAMED]))
        notes.append(f"{_counted(torn, 'picture has', 'pictures have')} two labels: {named}")
    return notes


def _near_copies(splits: Splits, pictures: Mapping[str, Picture]) -> list[str]:
    """Return notes on images of val and test that another split has in another form."""
    import numpy as np

    notes, before = [], list(splits.train)
    for split, examples in (("val", splits.val), ("test", splits.test)):
        bits, known = (
            [np.frombuffer(bytes.fromhex(pictures[e.path].bits), np.uint8) for e in some]
            for some in (examples, before)
        )
        pairs = [
            (examples[one].path, before[other].path)
            for one, other, _ in near_pairs(bits, SURE_BITS, known)
        ]
        pairs = [(a, b) for a, b in pairs if pictures[a].pixels != pictures[b].pixels]
        if pairs:
            one, other = (splits.where(path) for path in pairs[0])
            what = _counted(dict(pairs), "image is", "images are")
            more = f"; {hint('data verify', 'PATH')} finds all" if splits.root else ""
            notes.append(
                f"at least {what} in {split} and, as a near copy, in another split, such as "
                f"{one} and {other}{more}"
            )
        before.extend(examples)
    return notes


def _odd(splits: Splits, pictures: Mapping[str, Picture]) -> list[str]:
    """Return notes on usable images that hardly show anything."""
    small = [path for path, p in pictures.items() if min(p.width, p.height) < SMALL_PX]
    flat = [path for path, p in pictures.items() if p.flat]
    dark = [path for path, p in pictures.items() if p.dark]
    notes = []
    if small:
        what = f"{_counted(small, 'image has', 'images have')} a side below {SMALL_PX} pixels"
        notes.append(f"{what}, such as {splits.where(small[0])}")
    if flat:
        what = f"{_counted(flat, 'image has', 'images have')} only one color"
        notes.append(f"{what}, such as {splits.where(flat[0])}")
    if dark:
        what = f"{_counted(dark, 'image is', 'images are')} nearly black, {LOOKS_DARK}"
        notes.append(f"{what}, such as {splits.where(dark[0])}")
    return notes


def _counted(items: Collection[object], singular: str, plural: str) -> str:
    return f"{len(items)} {singular if len(items) == 1 else plural}"


def _unchanged(read: Callable[[str], bytes], hashes: Mapping[str, str], path: str) -> bytes:
    """Return the bytes of an image that has been checked."""
    content = read(path)
    if hashlib.sha256(content).hexdigest() != hashes[path]:
        raise ImageError(CHANGED)
    return content
