"""Writing of the PNG files: in parallel, in bounded memory, and only missing ones."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from building.matching import Image
from tlkit.system.files import write_bytes, write_text

JOURNAL = "images.csv"  # which PNG was made from which bytes, for a restart
COLUMNS = ("path", "made_from", "rules", "sha256")
EVERY = 1000  # images between two writes of the journal


@frozen
class Made:
    """A PNG file.

    Attributes:
        made_from: SHA-256 of the source file.
        rules: How it was made.
        sha256: SHA-256 of the PNG file.
    """

    made_from: str
    rules: str
    sha256: str


@frozen
class Outcome:
    """The result of writing.

    Attributes:
        hashes: SHA-256 of each PNG file, by path.
        broken: The problem of each image without a PNG file, by path.
        kept: The number of files that existed already.
    """

    hashes: Mapping[str, str]
    broken: Mapping[str, str]
    kept: int


def write_pictures(
    images: Sequence[Image],
    out: Path,
    max_side: int | None,
    workers: int,
    on_image: Callable[[int], None],
) -> Outcome:
    """Write each image's PNG file below `out`.

    Args:
        images: The images.
        out: The manifests' folder.
        max_side: Shrink larger images to this many pixels; None: keep their size.
        workers: Images decoded in parallel.
        on_image: Called with the number of finished images.
    """
    from tlkit.data.decoding import ImageError
    from tlkit.system.parallel import in_parallel  # slow to import: not for --help

    rules = f"1 max_side={max_side or 'none'}"
    for folder in {(out / image.path).parent for image in images}:
        folder.mkdir(parents=True, exist_ok=True)
    journal = read_journal(out / JOURNAL)
    hashes: dict[str, str] = {}
    broken: dict[str, str] = {}
    kept = 0

    def make(image: Image) -> tuple[Made | None, str]:
        try:
            return _make(image, out / image.path, journal.get(image.path), rules, max_side)
        except (OSError, ImageError) as error:
            return None, f"{image.file.name}: {error}"

    try:
        results = in_parallel(make, images, workers)
        for done, (image, (made, problem)) in enumerate(zip(images, results, strict=True), 1):
            if made is None:
                broken[image.path] = problem
                journal.pop(image.path, None)
            else:
                kept += journal.get(image.path) is made
                journal[image.path] = made
                hashes[image.path] = made.sha256
            if done % EVERY == 0:
                write_journal(out / JOURNAL, journal)
            on_image(done)
    finally:
        write_journal(out / JOURNAL, journal)
    return Outcome(hashes, broken, kept)


def _make(
    image: Image, target: Path, known: Made | None, rules: str, max_side: int | None
) -> tuple[Made, str]:
    from tlkit.data.decoding import decode

    content = image.file.read_bytes()
    made_from = hashlib.sha256(content).hexdigest()
    if known and (known.made_from, known.rules) == (made_from, rules) and _is(target, known.sha256):
        return known, ""
    picture = decode(content)
    if max_side:
        picture.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    picture.save(
        buffer, "PNG", compress_level=1
    )  # level 6 takes seven times as long and saves 15 %
    write_bytes(target, buffer.getvalue())
    return Made(made_from, rules, hashlib.sha256(buffer.getvalue()).hexdigest()), ""


def _is(path: Path, sha256: str) -> bool:
    """Tell whether a file exists with this content."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def read_journal(path: Path) -> dict[str, Made]:
    """Return the files made so far; empty if there is no journal, or one of another format."""
    if not path.is_file():
        return {}
    rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    if tuple(next(rows, [])) != COLUMNS:
        return {}
    return {row[0]: Made(*row[1:]) for row in rows if len(row) == len(COLUMNS)}


def write_journal(path: Path, journal: Mapping[str, Made]) -> None:
    """Write the files made so far, sorted by path."""
    rows = [(name, made.made_from, made.rules, made.sha256) for name, made in journal.items()]
    write_text(path, csv_text(COLUMNS, sorted(rows)))


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([columns, *rows])
    return buffer.getvalue()
