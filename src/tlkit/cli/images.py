"""What the commands share that take a finished run and images."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

import tlkit
from tlkit.errors import DataError
from tlkit.escapes import printable
from tlkit.named_images import STDIN, Rejected, image_files

A = TypeVar("A")

Images = Annotated[
    list[str],
    typer.Argument(
        help="Image files; folders, with all images below; quoted patterns such as "
        "'new/**/*.png'; CSV files with a column path; - for a path a line on standard input.",
        metavar="IMAGES...",
    ),
]


def loaded(run: Path, plugins: Sequence[Path] | None) -> tlkit.Classifier:
    """Load a finished run, and say so if it has not learnt from real images."""
    classifier = tlkit.load(run, plugins=plugins or [])
    if classifier.stand_in:
        typer.echo(f"note: trained on drawn {classifier.stand_in}s, not real images", err=True)
    return classifier


def named(images: Sequence[str]) -> Iterable[str | Rejected]:
    """Return the images that the arguments name; a list unless they come from standard input."""
    found = image_files(images, sys.stdin)
    return found if STDIN in images else list(found)


def with_bar(items: Iterable[A], total: int | None) -> Iterator[A]:
    """Return the same items, with a bar on standard error, if that is a terminal, as they come."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        items, "images", total, console=console, transient=True, disable=not console.is_terminal
    )


def noting(items: Iterable[A | Rejected], rejected: list[Rejected]) -> Iterator[A | Rejected]:
    """Return the same items, and note those that were rejected."""
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
        yield item


def report(rejected: Sequence[Rejected]) -> None:
    """Name what was rejected, all of it.

    Raises:
        DataError: If anything was.
    """
    if rejected:
        raise DataError("\n".join(map(printable, rejected)))


def must_be_new(path: Path | None, option: str) -> None:
    """Refuse to write over what exists.

    Raises:
        BadParameter: If it does.
    """
    if path is not None and path.exists():
        raise typer.BadParameter(f"{path} exists; nothing is overwritten", param_hint=option)
