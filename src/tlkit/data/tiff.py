"""The tables of a TIFF file, rewritten where Pillow does not open what they state."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from tlkit.system.limits import beyond, limit

SUBFILE, BITS, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 254, 258, 262, 277, 339
# The kinds of numbers: their bytes; for those of BigTIFF alone, also the shorter kind's number.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
SHORTER = {16: (4, "Q", "I"), 17: (9, "q", "i"), 18: (13, "Q", "I")}


class TiffError(ValueError):
    """A TIFF file costs too much."""


def readable_tiff(content: bytes) -> bytes:
    """Return a TIFF as one that Pillow opens: of deep gray, black is zero and 32 bits are signed.

    Pillow knows few of these combinations. What the original states is used later, by `decode`.
    """
    try:
        if content.startswith(b"MM\0+"):
            content = _classic(content)
        tags = TiffTags(content)
    except struct.error:  # cut off; Pillow will say so
        return content
    if tags.get(BITS, 1) not in {12, 16, 32} or tags.get(SAMPLES, 1) != 1:
        return content
    changed = {}
    if tags.get(PHOTOMETRIC, 1) == 0:
        changed[PHOTOMETRIC] = 1
    if tags.get(BITS, 1) == 32 and tags.get(SAMPLE_FORMAT, 1) == 1:
        changed[SAMPLE_FORMAT] = 2
    return tags.rewritten(changed) if changed else content


def _classic(content: bytes) -> bytes:
    """Return a big-endian BigTIFF, of which Pillow opens none, with the tables of a classic TIFF.

    Pixels stay where they are. The tables, and what does not fit into them, follow at the end.
    """
    out, link = bytearray(b"MM\0*\0\0\0\0" + content[8:]), 4
    (place,) = struct.unpack_from(">Q", content, 8)
    seen = set[int]()
    while place and place not in seen:
        seen.add(place)
        _check_count(len(seen))
        tags = TiffTags(content, place)
        struct.pack_into(">I", out, link, len(out))
        table, values = struct.pack(">H", len(tags.entries)), b""
        end = len(out) + len(table) + 12 * len(tags.entries) + 4
        for tag, (kind, count, value) in sorted(tags.entries.items()):
            size = count * SIZES.get(kind, 1)
            (start,) = struct.unpack(">Q", value)
            data = value[:size] if size <= 8 else content[start : start + size]
            if kind in SHORTER:
                kind, long, short = SHORTER[kind]
                numbers = struct.unpack(f">{count}{long}", data)
                data = struct.pack(f">{count}{short}", *numbers)
            elif size > 8:
                data = struct.pack(">I", start)
            if len(data) > 4:
                values, data = values + data, struct.pack(">I", end + len(values))
            if len(values) > len(content):
                raise struct.error("tables that are longer than the file")
            table += struct.pack(">HHI", tag, kind, count) + data.ljust(4, b"\0")
        link = len(out) + len(table)
        out += table + bytes(4) + values
        place = tags.next_page
    return bytes(out)


def full_pages(content: bytes) -> int:
    """Return the number of a TIFF's pages that are not reduced copies of another.

    Pillow's own count takes time by the square of the pages.
    """
    page = TiffTags(content)
    full, seen = 1, {0, page.place}
    while page.next_page not in seen:
        seen.add(page.next_page)
        _check_count(len(seen) - 1)
        page = TiffTags(content, page.next_page)
        full += not page.is_reduced
    return full


def _check_count(pages: int) -> None:
    if pages > limit("TLKIT_MAX_PAGES"):
        raise TiffError(f"has {beyond('TLKIT_MAX_PAGES')} pages")


class TiffTags:
    """The tags of one page of a TIFF, of which those with one short number can be changed."""

    def __init__(self, content: bytes, place: int = 0) -> None:
        self.content = content
        self.order = "<" if content[:2] == b"II" else ">"
        self.big = content[2:4] in {b"+\0", b"\0+"}
        self.forms = ("Q", "Q", "HHQ8s") if self.big else ("I", "H", "HHI4s")
        self.entries: dict[int, tuple[int, int, bytes]] = {}
        if not place:  # the first page
            (place,) = self._numbers(self.forms[0], 8 if self.big else 4)
        self.place = place
        (count,) = self._numbers(self.forms[1], place)
        place += self._size(self.forms[1])
        for _ in range(min(count, 65536)):
            tag, *entry = self._numbers(self.forms[2], place)
            self.entries[tag] = tuple(entry)
            place += self._size(self.forms[2])
        (self.next_page,) = self._numbers(self.forms[0], place)

    def _size(self, form: str) -> int:
        return struct.calcsize(self.order + form)

    def _numbers(self, form: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + form, self.content, place)

    def get(self, tag: int, default: int) -> int:
        """Return the value of a tag that has one short number."""
        kind, count, value = self.entries.get(tag, (0, 0, b""))
        return struct.unpack(f"{self.order}H", value[:2])[0] if (kind, count) == (3, 1) else default

    @property
    def is_reduced(self) -> bool:
        """Return whether the page is a reduced copy of another."""
        _, _, value = self.entries.get(SUBFILE, (0, 0, b"\0\0\0\0"))
        return bool(value[0 if self.order == "<" else 3] & 1)

    def rewritten(self, changed: Mapping[int, int]) -> bytes:
        """Return the file with other values, as a copy of the tags at its end."""
        width = 8 if self.big else 4
        for tag, value in changed.items():
            number = struct.pack(f"{self.order}H", value).ljust(width, b"\0")
            self.entries[tag] = (3, 1, number)
        place, count, entry = (self.order + form for form in self.forms)
        table = [struct.pack(entry, tag, *rest) for tag, rest in sorted(self.entries.items())]
        start = struct.pack(place, len(self.content))
        head = self.content[: 8 if self.big else 4]
        tail = self.content[len(head) + len(start) :]
        end = struct.pack(place, self.next_page)
        return b"".join([head, start, tail, struct.pack(count, len(table)), *table, end])
