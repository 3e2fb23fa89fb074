"""What a picture shows; the index of them is written whole, shared, and ignored once damaged."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import encoded, random_pixels

from tlkit.data import pictures
from tlkit.data.decoding import RULES, decode
from tlkit.data.pictures import (
    DecodedImageIndex,
    Picture,
    picture_of,
    pictures_of,
    small_pixels,
)

shown = st.builds(
    Picture,
    pixels=st.text("0123456789abcdef", min_size=64, max_size=64),
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    flat=st.booleans(),
    brightest=st.integers(0, 255),
)


def picture(number: int) -> Picture:
    return Picture(f"{number:064x}", number + 1, 2, False)


@given(shown)
def test_a_picture_is_read_as_it_is_written(found: Picture) -> None:
    assert Picture.parse(str(found)) == found


def test_what_is_added_is_read_and_stays(tmp_path: Path) -> None:
    table = DecodedImageIndex(tmp_path / "a" / "b")
    assert table.read() == {}
    table.add({"f1": picture(1)})
    table.add({"f2": picture(2), "f1": picture(1)})
    assert table.read() == {"f1": picture(1), "f2": picture(2)}


def test_the_table_belongs_to_its_rules_and_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DecodedImageIndex(tmp_path).add({"f1": picture(1)})
    monkeypatch.setattr(pictures, "version", lambda package: f"another {package}")
    assert DecodedImageIndex(tmp_path).read() == {}
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "RULES", RULES + 1)
    assert DecodedImageIndex(tmp_path).read() == {}


@given(place=st.integers(0), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_table_is_an_empty_one(
    place: int, byte: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = DecodedImageIndex(tmp_path_factory.mktemp("damaged"))
    table.add({"f1": picture(1), "f2": picture(2)})
    whole = table.path.read_bytes()
    place %= len(whole)
    broken = whole[:place] if cut else whole[:place] + bytes([byte]) + whole[place + 1 :]
    table.path.write_bytes(broken)
    assert table.read() == ({} if broken != whole else {"f1": picture(1), "f2": picture(2)})
    table.add({"f3": picture(3)})
    assert "f3" in table.read()


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    table = DecodedImageIndex(tmp_path / "file" / "below")
    table.add({"f1": picture(1)})
    assert table.read() == {}


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_INDEXED", 3)
    table = DecodedImageIndex(tmp_path)
    for number in range(5):
        table.add({f"f{number}": picture(number)})
    assert list(table.read()) == ["f2", "f3", "f4"]


def _add(folder: Path, process: int) -> None:
    for number in range(20):
        DecodedImageIndex(folder).add({f"f{process}-{number}": picture(number)})


def test_two_processes_at_once_leave_a_whole_table(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = DecodedImageIndex(tmp_path).read()
    assert {"f0-19", "f1-19"} & found.keys()  # the last to write has at least its own
    assert all(known == picture(int(file.partition("-")[2])) for file, known in found.items())
    assert [path.name for path in tmp_path.iterdir()] == [DecodedImageIndex(tmp_path).path.name]


def test_what_a_picture_shows_does_not_depend_on_how_it_is_stored() -> None:
    grey = random_pixels(channels=1)
    three = np.repeat(grey[..., None], 3, axis=2)
    files = [encoded(grey), encoded(grey, "TIFF"), encoded(three, "BMP"), encoded(three)]
    assert len({picture_of(decode(content)) for content in files}) == 1
    others = [grey.T, grey[:, :-1], 255 - grey, np.dstack([grey, grey, 255 - grey])]
    found = {picture_of(decode(encoded(pixels))).pixels for pixels in (grey, *others)}
    assert len(found) == 5


def test_a_picture_knows_its_size_and_whether_it_has_one_color() -> None:
    found = picture_of(decode(encoded(random_pixels(4, 7))))
    assert (found.width, found.height, found.flat) == (7, 4, False)
    for colour in (9, (1, 2, 3)):
        image = Image.new("L" if colour == 9 else "RGB", (5, 5), colour)
        assert picture_of(image).flat
        image.putpixel((4, 4), 0)
        assert not picture_of(image).flat


def test_small_pictures_that_are_looked_at_together_show_what_each_does() -> None:
    gray = random_pixels(9, 12, channels=1)
    shown = [
        gray,
        np.dstack([gray] * 3),
        random_pixels(9, 12),
        random_pixels(64, 64),
        random_pixels(3, 8) // 128 * 255,
    ]
    shown += [
        np.full((9, 12), 7, np.uint8),
        np.full((9, 12, 3), 255, np.uint8),
        random_pixels(1, 1),
    ]
    images = [Image.fromarray(pixels) for pixels in shown]
    small = [pixels for image in images if (pixels := small_pixels(image)) is not None]
    assert len(small) == len(images)
    assert pictures_of(small) == [picture_of(image) for image in images]
    assert small_pixels(Image.new("L", (65, 2))) is small_pixels(Image.new("L", (2, 3))) is None
