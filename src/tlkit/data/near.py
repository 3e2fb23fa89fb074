"""Near copies: pictures of another size, format, compression or contrast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

HASH_SIDE = 16  # 256 bits; with 64, 1 of 1,000 pairs of different images differs in 4 or fewer
NEAR_BITS = 12  # of 256; see `difference_hash`
LEAST_BITS = 8  # a hash with fewer ones, or fewer zeros, says nothing: the picture is nearly flat
LEAST_GROUPS, MOST_GROUPS = 4, 32  # of bits: from 64 to 8 in each
ROWS, PAIRS = 1 << 14, 1 << 20  # unpacked and compared at a time, for memory

Bits = npt.NDArray[np.uint8]


def difference_hash(gray: Image.Image) -> Bits:
    """Return whether brightness increases to the right, in 16 rows of 16 places, `(32,)` uint8.

    Size, compression and contrast hardly change the hash. Of 398,278 pairs of different X-rays,
    none differed in fewer than 17 of the 256 bits; half the size, JPEG at quality 40 or noise of
    standard deviation 5 change 9 or fewer in 95 of 100.
    """
    small = np.asarray(gray.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1])


def difference_hashes(pixels: npt.NDArray[np.uint8]) -> Bits:
    """Return the difference hashes of small pictures of one size, `(count, 32)`.

    They are those of `difference_hash`, to the bit, and quicker than one by one. `pixels` are
    `(count, height, width)`, perhaps with three channels, and not taller than wide: of other
    pictures, Pillow shrinks the height first, which rounds otherwise.
    """
    if pixels.ndim == 4:  # to gray and with the rounding of Pillow
        red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
        pixels = ((red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16).astype(np.uint8)
    wide = _boxed(pixels, HASH_SIDE + 1)
    small = _boxed(wide.transpose(0, 2, 1), HASH_SIDE).transpose(0, 2, 1)
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(pixels), -1)
    return np.packbits(bits, axis=1)


def _boxed(pixels: npt.NDArray[np.uint8], to: int) -> npt.NDArray[np.uint8]:
    """Return pixels whose last axis is resized as Pillow's box filter does."""
    if pixels.shape[-1] == to:  # which Pillow leaves as it is
        return pixels
    sums = np.full((*pixels.shape[:-1], to), 1 << 21, np.uint32)
    for places, shares in _box(pixels.shape[-1], to):
        sums += pixels[..., places] * shares
    return (sums >> 22).astype(np.uint8)


@cache
def _box(size: int, to: int) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.uint32]]]:
    """Return which of `size` pixels count for each of `to`, one after the other, and how much.

    Pillow rounds the shares to 22 bits.
    """
    scale = size / to
    support, center = 0.5 * max(scale, 1.0), (np.arange(to) + 0.5) * scale
    least = np.maximum((center - support + 0.5).astype(int), 0)
    most = np.minimum((center + support + 0.5).astype(int), size)
    places = least[:, None] + np.arange((most - least).max())
    away = (places - center[:, None] + 0.5) * (1 / max(scale, 1.0))
    inside = (away > -0.5) & (away <= 0.5) & (places < most[:, None])
    shares = np.floor(0.5 + inside / np.maximum(inside.sum(1, keepdims=True), 1) * (1 << 22))
    columns = zip(np.minimum(places, size - 1).T, shares.astype(np.uint32).T, strict=True)
    return [(place, share) for place, share in columns if share.any()]


def near_pairs(
    hashes: Sequence[Bits] | Bits,
    near_bits: int = NEAR_BITS,
    others: Sequence[Bits] | Bits | None = None,
) -> Iterator[tuple[int, int, int]]:
    """Yield the pairs whose hashes differ in few bits, with the number of these, in order.

    Hashes that differ in k bits agree in at least one of any k + 1 groups of bits. Only those that
    agree in one are compared, so the time hardly grows faster than the number of images.
    """
    if not len(hashes) or (others is not None and not len(others)):
        return
    words = _words(hashes)
    against = words if others is None else _words(others)
    numbers, numbers_against = (np.flatnonzero(_informative(each)) for each in (words, against))
    count = max(near_bits + 1, LEAST_GROUPS)
    groups = [slice(place, None, count) for place in range(count)]
    if count > MOST_GROUPS:
        groups = [slice(0)]  # so few bits that all pairs may as well be compared
    near = np.empty((0, 3), np.int64)
    for group in groups:
        keys, keys_against = (
            _keys(each[kept], group)
            for each, kept in ((words, numbers), (against, numbers_against))
        )
        found = [near]
        for row, column in _equal(keys, keys_against):
            one, other = numbers[row], numbers_against[column]
            if others is None:
                one, other = one[one < other], other[one < other]
            bits = np.bitwise_count(words[one] ^ against[other]).sum(-1, dtype=np.int64)
            found.append(np.stack([one, other, bits], 1)[bits <= near_bits])
        near = np.unique(np.concatenate(found), axis=0)
    for start in range(0, len(near), ROWS):  # as lists, all would take ten times the memory
        yield from map(tuple, near[start : start + ROWS].tolist())


def _words(hashes: Sequence[Bits] | Bits) -> npt.NDArray[np.uint64]:
    return (hashes if isinstance(hashes, np.ndarray) else np.stack(hashes)).view(np.uint64)


def _keys(words: npt.NDArray[np.uint64], bits: slice) -> npt.NDArray[np.uint64]:
    """Return some bits of each hash, at most 64, as a number."""
    keys = np.zeros((len(words), 8), np.uint8)
    for start in range(0, len(words), ROWS):
        rows = slice(start, start + ROWS)
        packed = np.packbits(np.unpackbits(words[rows].view(np.uint8), axis=1)[:, bits], axis=1)
        keys[rows, : packed.shape[1]] = packed
    return keys.view(np.uint64)[:, 0]


def _equal(
    keys: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Yield the places of equal keys, some pairs at a time."""
    order = np.argsort(others, kind="stable")
    first, last = (np.searchsorted(others[order], keys, side) for side in ("left", "right"))
    counts = last - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(keys):
        done = ends[start] - counts[start]
        end = max(start + 1, int(np.searchsorted(ends, done + PAIRS, "right")))
        rows = np.repeat(np.arange(start, end), counts[start:end])
        within = np.arange(len(rows)) - (ends - counts - done)[rows]
        yield rows, order[first[rows] + within]
        start = end


def _informative(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    ones = np.bitwise_count(words).sum(-1, dtype=np.uint16)
    told: npt.NDArray[np.bool_] = (ones >= LEAST_BITS) & (ones <= 256 - LEAST_BITS)
    return told
