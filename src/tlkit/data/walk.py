"""Image files below a folder, and what was left out there and why.

Every command goes by these rules: a file is an image by its suffix, in lower or upper case, or, if
it has none, by its first bytes. Hidden files and folders, and the thumbnails that some systems put
next to images, are left out; so are links to folders, pipes and broken links.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen

from tlkit.data import dicom

SUFFIXES = dicom.SUFFIXES | {
    *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
JUNK = frozenset({"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN"})  # of NAS systems, zip, Windows
MOST_HIDDEN = 1_000  # entries of a hidden folder that are looked at

NO_IMAGE = "not an image file"
NO_FILE = "no regular file, such as a broken link"
HIDDEN = "hidden"
LINK = "a link to a folder, which is not followed"
NO_CLASS = "not in the folder of a class"
NO_SPLIT = "a folder next to the splits"


@frozen
class LeftOut:
    """A file or folder that was left out.

    Attributes:
        path: The file or folder.
        reason: Why.
    """

    path: str
    reason: str


def left_out_notes(left_out: Iterable[LeftOut]) -> tuple[str, ...]:
    """Return the number of files and folders left out for each reason, with one of them.

    >>> left_out_notes([LeftOut("a/x.txt", NO_IMAGE), LeftOut("a/b.txt", NO_IMAGE)])
    ('2 left out: not an image file, such as a/b.txt',)
    """
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for item in left_out:
        paths[item.reason].append(item.path)
    return tuple(
        f"{len(own)} left out: {reason}, such as {min(own)}" for reason, own in paths.items()
    )


def folders(top: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    return tuple(sorted(e.name for e in top.iterdir() if not is_hidden(e.name) and e.is_dir()))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or is a system's own."""
    return name.startswith(".") or name in JUNK


def is_image_file(path: Path | str) -> bool:
    """Return whether a file is an image by its suffix, or without one by its first bytes."""
    if not os.path.isfile(path):  # noqa: PTH113  # a Path takes as long as the rest
        return False
    suffix = os.path.splitext(path)[1]  # noqa: PTH122  # a Path takes as long as the rest
    return suffix.lower() in SUFFIXES or _begins_as_image(Path(path))


def holds_images(folder: Path) -> bool:
    """Return whether there are image files in a folder itself."""
    return any(not is_hidden(path.name) and is_image_file(path) for path in folder.iterdir())


def _begins_as_image(path: Path) -> bool:
    if path.suffix.strip(".").strip("0123456789"):  # a number is part of a name: 1.2.840.10008
        return False
    from tlkit.data.decoding import HEAD_BYTES, image_format  # heavy, and seldom needed

    try:
        with path.open("rb") as file:
            return bool(image_format(file.read(HEAD_BYTES)))
    except OSError:
        return True  # whoever reads it will say why it cannot be read


def image_files_below(top: Path, left_out: list[LeftOut]) -> list[str]:
    """Return the paths of the image files below a folder, sorted, and note what else is there.

    They are strings: a `Path` each would take as long as all the rest.
    """
    images: list[str] = []
    for folder, inner, names in os.walk(top):
        left_out += _hidden_images(Path(folder), [*inner, *names])
        inner[:] = [name for name in inner if not is_hidden(name)]
        for name in inner:
            if (path := Path(folder, name)).is_symlink():
                left_out.append(LeftOut(str(path), LINK))
        for name in names:
            if is_hidden(name):
                continue
            file = os.path.join(folder, name)  # noqa: PTH118  # a Path takes as long as the rest
            if is_image_file(file):
                images.append(file)
            else:
                left_out.append(LeftOut(file, NO_IMAGE if Path(file).is_file() else NO_FILE))
    # Folder by folder, as paths are sorted.
    return sorted(images, key=lambda path: path.split(os.sep))  # noqa: PTH206  # a Path takes as long as the rest


def images_beside(top: Path) -> Iterator[LeftOut]:
    """Yield the image files that are in a folder itself, where only folders of classes belong."""
    for path in top.iterdir():
        if not is_hidden(path.name) and is_image_file(path):
            yield LeftOut(str(path), NO_CLASS)
    yield from _hidden_images(top, [path.name for path in top.iterdir()])


def _hidden_images(folder: Path, names: Iterable[str]) -> Iterator[LeftOut]:
    """Yield hidden images, and hidden folders with images in them."""
    for path in (folder / name for name in names if is_hidden(name)):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield LeftOut(str(path), HIDDEN)
        elif path.is_dir() and not path.is_symlink():
            inside = itertools.islice(path.rglob("*"), MOST_HIDDEN)
            if any(item.suffix.lower() in SUFFIXES for item in inside):
                yield LeftOut(str(path), HIDDEN)
