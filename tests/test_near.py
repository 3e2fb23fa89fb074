"""Near copies: pairs by a count of bits, and what says nothing pairs with nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import picture

from tlkit.data import near
from tlkit.data.near import Bits, difference_hash, difference_hashes, near_pairs

codes = st.lists(st.binary(min_size=32, max_size=32), max_size=6)


def hashes(contents: list[bytes]) -> list[Bits]:
    return [np.frombuffer(content, np.uint8) for content in contents]


def differing(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def says_something(code: bytes) -> bool:
    return 8 <= int.from_bytes(code).bit_count() <= 248


@given(codes, codes, st.sampled_from([0, 1, 12, 31, 32, 100, 256]))
def test_pairs_are_those_that_a_count_of_bits_finds(
    some: list[bytes], others: list[bytes], most: int
) -> None:
    # With few bits, random codes are never near: some others are some, changed a little.
    others = [*others, *(bytes([code[0] ^ 3, *code[1:31], code[31] ^ 128]) for code in some)]
    across = [
        (i, j, differing(one, other))
        for i, one in enumerate(some)
        for j, other in enumerate(others)
        if differing(one, other) <= most and says_something(one) and says_something(other)
    ]
    assert [*near_pairs(hashes(some), most, hashes(others))] == across
    within = [
        (i, j, differing(one, some[j]))
        for i, one in enumerate(some)
        for j in range(i + 1, len(some))
        if differing(one, some[j]) <= most and says_something(one) and says_something(some[j])
    ]
    assert [*near_pairs(hashes(some), most)] == within


@given(st.data())
def test_hashes_of_many_pictures_are_those_of_each(data: Any) -> None:
    width = data.draw(st.integers(1, 70))
    shape = data.draw(st.integers(1, width)), width
    channels = data.draw(st.sampled_from([(), (3,)]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pixels = random.integers(0, 256, (3, *shape, *channels), dtype=np.uint8)
    pixels[1] = pixels[1] // 64 * 85  # often equal
    each = [difference_hash(Image.fromarray(one).convert("L")) for one in pixels]
    np.testing.assert_array_equal(difference_hashes(pixels), each)


def test_flat_pictures_are_not_near() -> None:
    flat = [difference_hash(Image.new("L", (20, 20), value)) for value in (0, 90)]
    assert not [*near_pairs(flat)]
    same = difference_hash(Image.fromarray(picture(1)))
    assert [*near_pairs([same, same])] == [(0, 1, 0)]


def test_few_of_many_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    equal = near._equal

    def counted(*keys: Any) -> Any:
        for row, column in equal(*keys):
            compared.append(len(row))
            yield row, column

    monkeypatch.setattr(near, "_equal", counted)
    bits = np.random.default_rng(1).integers(0, 256, (4000, 32), dtype=np.uint8)
    bits[2000:2100] = bits[:100] ^ np.packbits(np.arange(256) < 12)  # one bit in 12 of 13 groups
    assert [*near_pairs([*bits])] == [(place, 2000 + place, 12) for place in range(100)]
    assert sum(compared) < 20 * len(bits)  # of 16,000,000
