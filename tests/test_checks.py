"""The check of every image: what is refused, skipped, noted and indexed."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from PIL import Image
from tests.pictures import picture

import tlkit
from tlkit.data import decoding
from tlkit.data.checks import Checked, check_images, first_look
from tlkit.data.images import Reader
from tlkit.data.pictures import DecodedImageIndex
from tlkit.parts.datasets import Folder

pytestmark = pytest.mark.usefixtures("slim_vgg")


def png(seed: int, side: int = 40, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def splits_of(train: dict[str, bytes], val: dict[str, bytes] | None = None) -> tlkit.Splits:
    """Put files into splits, classes by turns; two sound ones to validate on if none is given."""
    val = val or {f"val{number}.png": png(100 + number) for number in range(2)}
    everything = train | val

    def examples(files: dict[str, bytes]) -> tuple[tlkit.Example, ...]:
        return tuple(tlkit.Example(path, ("one", "two")[n % 2]) for n, path in enumerate(files))

    return tlkit.Splits(
        classes=("one", "two"),
        train=examples(train),
        val=examples(val),
        read=everything.__getitem__,
    )


def look(splits: tlkit.Splits, index: DecodedImageIndex | None = None, **settings: Any) -> Checked:
    return check_images(splits, first_look(splits, index), **settings)


def test_every_image_is_looked_at_and_hashed() -> None:
    splits = splits_of({"a.png": png(1), "b.png": png(2)})
    heard: list[tuple[int, int]] = []
    found = check_images(splits, on_image=lambda done, count: heard.append((done, count)))
    assert found.hashes == {
        path: hashlib.sha256(splits.read(path)).hexdigest()
        for path in ("a.png", "b.png", "val0.png", "val1.png")
    }
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.splits == splits
    facts = {"patients": "unknown", "skipped": {}, "leakage_accepted": {}, "held_out": {}}
    assert found.splits.facts() == facts


@pytest.mark.parametrize("listed", [str.lower, str.upper])
def test_an_image_that_is_not_the_one_listed_is_named(listed: Callable[[str], str]) -> None:
    splits = splits_of({"a.png": png(1), "b.png": png(2)})
    found = hashlib.sha256(splits.read("a.png")).hexdigest()
    first, second = splits.train
    look(evolve(splits, train=(evolve(first, sha256=listed(found)), second)))
    another = evolve(splits, train=(evolve(first, sha256="0" * 64), second))
    message = rf"^a\.png: has SHA-256 {found}, expected 0{{64}}\nreplace or remove them, then run a"
    for skip_bad in (False, True):  # the image is sound, but somebody has replaced it
        with pytest.raises(tlkit.DataError, match=message):
            look(another, skip_bad=skip_bad)


@pytest.mark.parametrize(("broken", "more"), [(1, ""), (10, ""), (13, "\n… and 3 more images")])
def test_ten_broken_images_are_named_and_the_rest_counted(broken: int, more: str) -> None:
    files = {f"{number:02d}.png": b"text" for number in range(broken)}
    with pytest.raises(tlkit.DataError, match=r"^00\.png: is not an image") as caught:
        look(splits_of(files | {"sound.png": png(1)}), skip_bad=False)
    lines = [
        f"{number:02d}.png: is not an image; AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP and DICOM "
        "are read"
        for number in range(min(broken, 10))
    ]
    way_out = "replace or remove them, then run again; or leave them out with data.on_bad_image"
    assert str(caught.value) == "\n".join(lines) + more + f'\n{way_out} = "skip"'


def test_skipping_is_advised_only_where_a_key_can_say_so() -> None:
    with pytest.raises(tlkit.DataError, match=r"are read\nreplace or remove them, then run again$"):
        look(splits_of({"a.png": b"text", "b.png": png(1)}))


BAD = {"a.png": png(1), "b.png": png(2), "c.png": b"text", "d.png": png(4)[:300]}


class TestSkip:
    def test_what_cannot_be_decoded_is_left_out_told_and_recorded(self) -> None:
        found = look(splits_of(BAD), skip_bad=True).splits
        assert [example.path for example in found.train] == ["a.png", "b.png"]
        assert found.counts("train") == {"one": 1, "two": 1}
        reasons = [(s.split, s.example.path, s.example.label) for s in found.skipped]
        assert reasons == [("train", "c.png", "one"), ("train", "d.png", "two")]
        assert found.facts()["skipped"] == {"train": 2}
        assert found.notes[0].startswith("2 images are skipped, such as c.png: is not an image; ")

    def test_a_class_that_is_left_empty_is_an_error(self) -> None:
        files = {"a.png": png(1), "b.png": b"text"}
        message = r"^train split: every class needs .* none of 'two' after 1 that cannot be used$"
        with pytest.raises(tlkit.DataError, match=message):
            look(splits_of(files), skip_bad=True)

    def test_a_file_that_has_gone_is_skipped_too(self) -> None:
        splits = splits_of(BAD | {"gone.png": b""})

        def read(path: str) -> bytes:
            if path == "gone.png":
                raise FileNotFoundError(2, "No such file or directory")
            return splits.read(path)

        found = look(evolve(splits, read=read), skip_bad=True).splits
        assert found.skipped[-1].reason == "cannot be read: No such file or directory"

    def test_the_run_has_the_counts_and_weights_of_what_is_left(self, tmp_path: Path) -> None:
        for split, count in (("train", 3), ("val", 1)):
            for number, label in enumerate("ab"):
                for image in range(count):
                    path = tmp_path / "data" / split / label / f"{image}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(png(10 * number + image + (split == "val") * 100))
        bad = [tmp_path / "data" / "train" / "b" / f"{n}.png" for n in (1, 2)]
        for path in bad:
            path.write_bytes(b"=cmd()")
        experiment = tlkit.Experiment(
            data=Folder(path=tmp_path / "data", on_bad_image="skip"),
            backbone=tlkit.registries.backbones.get("vgg16")(weights="none", image_size=32),
            head=tlkit.registries.heads.get("pooled")(),
            class_weights=tlkit.registries.class_weights.get("balanced")(),
            fit=tlkit.Fit(epochs=1, xla=False),
        )
        done = tlkit.run(experiment, tmp_path / "run")
        assert done.plan.counts["train"] == {"a": 3, "b": 1}
        assert done.plan.class_weights == {"a": 4 / 6, "b": 2.0}
        assert done.plan.as_json()["data"]["skipped"] == {"train": 2}
        rows = (tmp_path / "run" / "skipped.csv").read_text().splitlines()
        reason = '"is not an image; AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP and DICOM are read"'
        assert rows == ["path,split,label,reason"] + [
            f"train/b/{n}.png,train,b,{reason}" for n in (1, 2)
        ]
        manifest = (tmp_path / "run" / "manifest.csv").read_text()
        assert "train/b/0.png" in manifest
        assert "train/b/1.png" not in manifest


class TestLeakage:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
    def test_a_picture_in_two_splits_is_an_error_with_both_rows(self, kind: str) -> None:
        splits = splits_of(
            {"a.png": png(1), "b.png": png(2)}, {"v.png": png(3), "w.png": png(2, kind=kind)}
        )
        message = (
            r"^the same picture in train and val: b\.png \(train\), w\.png \(val\)\n"
            r"each must be in one split only: .* data\.allow_leakage = true$"
        )
        with pytest.raises(tlkit.DataError, match=message):
            look(splits)

    def test_two_labels_are_told_with_it(self) -> None:
        splits = splits_of({"a.png": png(1), "b.png": png(2)}, {"v.png": png(2), "w.png": png(3)})
        message = r"^the same picture with two labels in train and val: b\.png \(train, two\), v\.p"
        with pytest.raises(tlkit.DataError, match=message):
            look(splits)

    def test_ten_are_shown_and_the_rest_counted(self) -> None:
        train = {f"{n:02d}.png": png(n) for n in range(13)}
        val = {f"v{n:02d}.png": png(n) for n in range(13)}
        with pytest.raises(tlkit.DataError, match=r"00\.png") as caught:
            look(splits_of(train, val))
        lines = str(caught.value).splitlines()
        assert len(lines) == 12
        assert lines[10] == "… and 3 more"

    def test_what_is_accepted_is_counted_and_planned(self) -> None:
        splits = splits_of({"a.png": png(1), "b.png": png(2)}, {"v.png": png(1), "w.png": png(2)})
        found = look(splits, allow_leakage=True).splits
        assert found.leakage == {"picture": 2}
        assert found.facts()["leakage_accepted"] == {"picture": 2}

    def test_copies_inside_a_split_are_a_note_with_their_count(self) -> None:
        seeds = zip("abcde", [1, 2, 1, 3, 1], strict=True)
        files = {f"{name}.png": png(seed) for name, seed in seeds}
        (note,) = look(splits_of(files)).splits.notes
        same = "the same picture in train: a.png (train), c.png (train), e.png (train)"
        assert note == f"2 images are copies of others in the same split: {same}"

    def test_a_picture_with_two_labels_is_a_note_of_its_own(self) -> None:
        copies, torn = look(splits_of({"a.png": png(1), "b.png": png(1)})).splits.notes
        assert copies.startswith("1 image is a copy of another in the same split")
        both = "the same picture with two labels in train: a.png (train, one), b.png (train, two)"
        assert torn == f"1 picture has two labels: {both}"


def test_images_that_hardly_show_anything_are_told() -> None:
    flat = io.BytesIO()
    Image.new("L", (50, 50), 7).save(flat, "PNG")
    small, one_color = look(
        splits_of({"tiny.png": png(1, side=31), "flat.png": flat.getvalue()})
    ).splits.notes
    assert small == "1 image has a side below 32 pixels, such as tiny.png"
    assert one_color == "1 image has only one color, such as flat.png"


def test_an_image_that_changes_afterwards_is_refused_when_it_is_read() -> None:
    files = {"a.png": png(1), "b.png": png(2)}
    splits = splits_of(files)
    changing = {**files, "val0.png": png(100), "val1.png": png(101)}
    found = look(evolve(splits, read=changing.__getitem__)).splits
    reader = Reader(found.read, 8)
    reader("a.png")
    changing["a.png"] = png(9)
    with pytest.raises(tlkit.DataError, match=r"^a\.png: has changed since the run started; "):
        reader("a.png")


class TestIndex:
    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """What was decoded."""
        done: list[bytes] = []

        @contextlib.contextmanager
        def listening(content: bytes) -> Iterator[Image.Image]:
            done.append(content)
            with decoding.decoded(content) as image:
                yield image

        monkeypatch.setattr("tlkit.data.first_look.decoded", listening)
        return done

    def test_what_was_sound_is_decoded_once_and_found_the_same(
        self, tmp_path: Path, decoded: list[bytes]
    ) -> None:
        splits = splits_of({"a.png": png(1), "b.png": png(2, side=8), "c.png": png(1)})
        first = look(splits, DecodedImageIndex(tmp_path / "new"))
        assert len(decoded) == 5
        again = look(splits, DecodedImageIndex(tmp_path / "new"))
        assert len(decoded) == 5
        assert (again.hashes, again.splits.notes) == (first.hashes, first.splits.notes)
        look(splits_of({"a.png": png(1), "b.png": png(5)}), DecodedImageIndex(tmp_path / "new"))
        assert decoded[5:] == [png(5)]

    def test_what_was_broken_is_looked_at_again(self, tmp_path: Path, decoded: list[bytes]) -> None:
        splits = splits_of({"a.png": png(1), "b.png": b"text"})
        for _ in range(2):
            with pytest.raises(tlkit.DataError, match=r"^b\.png: is not an image"):
                look(splits, DecodedImageIndex(tmp_path))
        assert decoded.count(b"text") == 2
        assert len(decoded) == 5

    def test_leakage_is_found_among_what_is_remembered(self, tmp_path: Path) -> None:
        for _ in range(2):
            splits = splits_of({"a.png": png(1), "b.png": png(2)}, {"v": png(1), "w": png(3)})
            with pytest.raises(tlkit.DataError, match="the same picture in train and val"):
                look(splits, DecodedImageIndex(tmp_path))


def test_a_near_copy_in_another_split_is_a_note_that_says_where_to_look() -> None:
    image = Image.fromarray(picture(1, 96))
    buffer = io.BytesIO()
    image.resize((64, 64)).save(buffer, "JPEG", quality=80)
    whole = io.BytesIO()
    image.save(whole, "PNG")
    splits = splits_of({"a.png": png(1), "b.png": whole.getvalue()},
                       {"v.png": png(3), "w.jpg": buffer.getvalue()})  # fmt: skip
    (note,) = look(splits).splits.notes
    seen = "at least 1 image is in val and, as a near copy, in another split, such as "
    assert note == f"{seen}w.jpg and b.png"  # no path that a command could look at
    (note,) = look(evolve(splits, root="photos")).splits.notes
    assert note == f"{seen}photos/w.jpg and photos/b.png; tlkit data verify PATH finds all"


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize(("limit", "threads"), [(10**9, 1), (0, 8)])
def test_a_run_decodes_small_files_by_one_thread(
    limit: int,
    threads: int,
    decoding_threads: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tlkit.data.file_work.SMALL_FILE_BYTES", limit)
    for number in range(8):
        folder = tmp_path / ("train" if number < 4 else "val") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    tlkit.run(
        {
            "data": {"name": "folder", "path": str(tmp_path)},
            "backbone": {"name": "vgg16", "weights": "none", "image_size": 32},
            "head": {"name": "linear"},
            "fit": {"epochs": 1},
        },
        out=tmp_path / "run",
    )
    assert decoding_threads == [threads] * 3  # the check, and the features of two splits
