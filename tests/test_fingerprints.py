"""Duplicates: the same bytes, the same pixels, near duplicates, and groups of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from tests.pictures import facts_of, noise, picture, png, two_classes
from tests.processes import output_of

from tlkit.data.sources import read_labeled
from tlkit.inspect.fingerprints import ImageFacts, all_image_facts, find_duplicates, group_numbers


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures of two classes in folders."""
    return two_classes(tmp_path_factory.mktemp("images"))


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((128, 128)),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_changed_copy_is_nearly_the_same(name: str) -> None:
    one = Image.fromarray(picture(5, 256))
    looks = [facts_of(png(one)), facts_of(png(VARIANTS[name](one)), 1)]
    assert [pair.kind for pair in find_duplicates(looks).pairs] == ["near"]


def test_other_pictures_are_not(images: Path) -> None:
    looks, problems = all_image_facts(read_labeled(images))
    assert problems == []
    assert find_duplicates(looks).pairs == ()


def test_the_same_bytes_the_same_pixels_and_near_ones_are_told_apart() -> None:
    grey = Image.fromarray(picture(1))
    contents = [
        png(grey),
        png(grey),
        png(grey.convert("RGB")),
        png(ImageEnhance.Contrast(grey).enhance(0.9)),
        png(picture(2)),
    ]
    found = find_duplicates([facts_of(content, n) for n, content in enumerate(contents)])
    assert [(p.one, p.other, p.kind) for p in found.pairs] == [
        (0, 1, "bytes"), (0, 2, "pixels"), (0, 3, "near"),
    ]  # fmt: skip
    assert found.groups == ((0, 1, 2, 3),)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=12), st.integers(0, 256))
def test_near_pairs_are_those_that_a_count_of_bits_finds(codes: list[bytes], near: int) -> None:
    base = facts_of(png(picture(1)))
    looks = [
        ImageFacts(
            image=base.image, width=1, height=1, format="", mode="", bytes=1,
            sha256=str(number), pixels=str(number),
            bits=np.frombuffer(code, np.uint8), thumb=base.thumb,
        )
        for number, code in enumerate(codes)
    ]  # fmt: skip
    expected = [
        (one, other)
        for one in range(len(codes))
        for other in range(one + 1, len(codes))
        if (int.from_bytes(codes[one]) ^ int.from_bytes(codes[other])).bit_count() <= near
    ]
    assert [(pair.one, pair.other) for pair in find_duplicates(looks, near).pairs] == expected


def test_one_patient_and_images_alike_are_one_group_however_long_the_chain() -> None:
    grey = Image.fromarray(picture(1))
    looks = [
        facts_of(png(picture(9)), 0, patient="p"),
        facts_of(png(grey), 1, patient="p"),
        facts_of(png(grey.convert("RGB")), 2, patient="q"),
        facts_of(png(picture(3)), 3, patient="q"),
        facts_of(png(picture(4)), 4),
        facts_of(png(picture(5)), 5),
    ]
    assert group_numbers(looks, find_duplicates(looks)) == [0, 0, 0, 0, 4, 5]


FACTS = """
import attrs, os, sys
from pathlib import Path
from tlkit.data.sources import read_labeled
from tlkit.inspect.fingerprints import all_image_facts
from tlkit.system.keras import own_process

processes, fork = [], os.fork
os.fork = lambda: processes.append(fork()) or processes[-1]
os.sched_getaffinity = lambda _: range(2)
labeled = read_labeled(Path(sys.argv[1]))

def facts():
    images, problems = all_image_facts(labeled, lambda done, count: heard.append(done))
    assert all(one.image is any_one for one, any_one in zip(images, labeled.images))
    return [[str(value) for value in attrs.astuple(one, recurse=False)] for one in images], problems

heard = []
threads = facts()
own_process()
assert facts() == threads
print(len(processes), heard == [*range(1, 522)] * 2, *threads[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_processes_find_what_threads_find(tmp_path: Path) -> None:
    for number in range(521):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number:03}.png").write_bytes(png(noise(number, 8, 9)))
    (tmp_path / "b" / "999.png").write_bytes(b"text")
    (tmp_path / "b" / "519.png").unlink()
    found = output_of(FACTS, "", tmp_path)
    assert found.startswith("2 True ")
    assert "999.png: is not an image" in found
