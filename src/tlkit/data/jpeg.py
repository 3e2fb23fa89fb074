"""JPEG files, as far as their markers must be known before or beside Pillow."""

from __future__ import annotations

import re

from tlkit.system.limits import beyond, limit

PROGRESSIVE = 0xC2
START, END, SCAN, APPS, COMMENT = 0xD8, 0xD9, 0xDA, range(0xE0, 0xF0), 0xFE
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


class JpegError(ValueError):
    """A JPEG file is cut off or costs too much."""


class JpegMarkers:
    """The markers of the first picture in a JPEG file, read up to its end marker.

    Raises:
        JpegError: If it has too many scans or too much metadata.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.frame = self.scans = metadata = self.end = 0
        # By component, the bits of each of its 64 coefficients that are still to come.
        self.missing: dict[int, list[int]] = {}
        most_scans, most_metadata = limit("TLKIT_MAX_SCANS"), limit("TLKIT_MAX_METADATA_MB") << 20
        place = 2
        while match := _MARKER.search(content, place):
            code, place = match[1][0], match.end()
            if code in {START, END}:
                self.end = match.start() if code == END else 0
                return
            length = int.from_bytes(content[place : place + 2])
            body = content[place + 2 : place + length]
            place += length
            if code in _FRAMES:
                self.frame = code
                self.missing = {number: [16] * 64 for number in body[6::3]}
            elif code == SCAN:
                self._scan(body)
            elif code in APPS or code == COMMENT:
                metadata += length
            if self.scans > most_scans:
                raise JpegError(f"has {beyond('TLKIT_MAX_SCANS')} scans")
            if metadata > most_metadata:
                raise JpegError(f"has {beyond('TLKIT_MAX_METADATA_MB', ' MB')} of metadata")

    def _scan(self, body: bytes) -> None:
        self.scans += 1
        if not body or len(body) < 4 + 2 * body[0]:
            return
        first, last, bits = body[-3], body[-2], body[-1] & 15
        if self.frame != PROGRESSIVE:
            first, last, bits = 0, 63, 0
        for component in body[1 : 1 + 2 * body[0] : 2]:
            for place in range(first, min(last, 63) + 1):
                self.missing.setdefault(component, [16] * 64)[place] = bits

    @property
    def is_complete(self) -> bool:
        """Return whether its scans hold every bit of every coefficient."""
        return not any(bits for component in self.missing.values() for bits in component)

    @property
    def is_progressive(self) -> bool:
        """Return whether each scan refines the whole picture."""
        return self.frame == PROGRESSIVE
