"""The first look at every image of a run: one read gives its hash, what it shows and its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

from attrs import evolve, frozen

from tlkit.data.decoding import LESS, ImageError, decoded
from tlkit.data.file_work import over_files
from tlkit.data.images import Pixels, Reader
from tlkit.data.pictures import DecodedImageIndex, Picture, picture_of, pictures_of, small_pixels
from tlkit.system.errors import named_shortage
from tlkit.system.text import printable


@frozen
class Look:
    """What a look at one image's file has found.

    Attributes:
        sha256: The hash of the file; empty if it cannot be read.
        picture: What it shows; None if it cannot be decoded.
        problem: Why it cannot be used; empty if it can.
        kept: Whether its pixels are in the store.
    """

    sha256: str = ""
    picture: Picture | None = None
    problem: str = ""
    kept: bool = False

    def pack(self) -> list[str | bool]:
        """Return plain values."""
        return [self.sha256, str(self.picture or ""), self.problem, self.kept]

    @classmethod
    def unpack(cls, path: str, plain: Sequence[Any]) -> Look:
        """Return the look of which these are the values."""
        sha256, picture, problem, kept = plain
        return cls(sha256, Picture.parse(picture) if picture else None, problem, kept)


class FirstLook:
    """A look at every image, in order.

    It begins at once where `over_files` forks processes, so that TensorFlow can start meanwhile.

    Args:
        paths: The images.
        read: Returns the bytes at a path.
        index: The files that are known to be sound; new ones are added.
        reader: Keeps the pixels of images that are decoded here.
        file_bytes: The mean size of the files; None: it is not known.
    """

    def __init__(
        self,
        paths: Sequence[str],
        read: Callable[[str], bytes],
        index: DecodedImageIndex | None = None,
        reader: Reader | None = None,
        file_bytes: float | None = None,
    ) -> None:
        self.index, self.store = index, reader and reader.store
        self.known = index.read() if index else {}
        self._paths, self._found = paths, dict[str, Picture]()
        self._end = ExitStack()
        work = partial(_look_at_some, read, self.known, reader)
        looks = over_files(work, paths, read, Look.pack, Look.unpack, file_bytes)
        self._looks = self._end.enter_context(looks)

    def __iter__(self) -> Iterator[tuple[str, Look]]:
        """Yield each path and what was found."""
        for path, look in zip(self._paths, self._looks, strict=True):
            if look.kept and self.store:
                self.store.add(path)
            if look.picture:
                self._found[look.sha256] = look.picture
            yield path, look

    def __enter__(self) -> FirstLook:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the processes; remember the sound files, even of a look that did not come far."""
        self._end.close()
        if self.index and self._found.keys() - self.known.keys():
            self.index.add(self._found)


def _look_at_some(
    read: Callable[[str], bytes],
    known: Mapping[str, Picture],
    reader: Reader | None,
    paths: Sequence[str],
) -> list[Look]:
    """Look at some images, of which small ones are compared together."""
    looks: list[Look] = []
    small: dict[int, Pixels] = {}
    for path in paths:
        try:
            with named_shortage(printable(path), LESS):
                content = read(path)
                sha256 = hashlib.sha256(content).hexdigest()
                picture = known.get(sha256)
                if picture is None:
                    with decoded(content) as image:
                        pixels = small_pixels(image)
                        if pixels is None:
                            picture = picture_of(image)
                        else:
                            small[len(looks)] = pixels
                        if reader:
                            reader.keep(path, image, pixels)
        except OSError as error:
            looks.append(Look(problem=f"cannot be read: {error.strerror or error}"))
        except ImageError as error:
            looks.append(Look(problem=str(error)))
        else:
            kept = bool(reader and reader.store and path in reader.store)
            looks.append(Look(sha256, picture, kept=kept))
    for place, picture in zip(small, pictures_of([*small.values()]), strict=True):
        looks[place] = evolve(looks[place], picture=picture)
    return looks
