"""Looking at data: what is alike, what betrays the label, splits that leak nothing, manifests."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from tests.small import study_parts
from typer.testing import CliRunner

import tlkit
from tlkit.cli.app import app
from tlkit.data.sources import Listed, collect
from tlkit.inspect import shortcuts
from tlkit.inspect.duplicates import NEAR_BITS, find_duplicates, joined
from tlkit.inspect.fingerprints import ImageFacts, all_image_facts, image_facts
from tlkit.inspect.inspect import Inspection, inspect_data
from tlkit.inspect.shortcuts import find_shortcuts
from tlkit.inspect.split import assign, split_data
from tlkit.inspect.verify import verify_manifest
from tlkit.parts.datasets import Manifest

Pixels = npt.NDArray[np.uint8]
draw_chest = study_parts().draw_chest
XRAYS = Path(__file__).parent.parent.parent / "shared" / "data" / "cxr"


def chest(number: int, finding: int = 0) -> Pixels:
    drawn: Pixels = draw_chest(finding, (0, number), 64)
    return drawn


def png(pixels: Pixels | Image.Image) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def looked(content: bytes, number: int = 0, **known: str) -> ImageFacts:
    path = f"{number}.png"
    return image_facts(Listed(**{"path": path, "label": "a", "where": path} | known), content)


def write(top: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four chests of two classes, in folders, two a patient by their names."""
    files = {
        f"{label}/p{label}{n // 2:02d}_{n}.png": png(chest(100 * finding + n, finding))
        for finding, label in enumerate(("clear", "dense"))
        for n in range(12)
    }
    return write(tmp_path_factory.mktemp("chests"), files)


def contents(top: Path) -> dict[str, bytes]:
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*.png")}


PATIENT = "^(p[a-z0-9]+)_"


def test_folders_with_and_without_splits_and_rows_are_found(chests: Path, tmp_path: Path) -> None:
    plain = collect(chests)
    assert plain.classes == ("clear", "dense")
    assert len(plain.images) == 24
    assert {image.split for image in plain.images} == {""}
    split = collect(write(tmp_path / "split", {"train/a/1.png": b"", "val/b/2.jpg": b""}))
    assert [(i.split, i.label) for i in split.images] == [("train", "a"), ("val", "b")]
    write(tmp_path / "rows", {"1.png": b"", "x.csv": b"path,label,patient\n1.png,a,p\n"})
    rows = collect(tmp_path / "rows" / "x.csv")
    assert [(i.path, i.label, i.patient, i.split) for i in rows.images] == [("1.png", "a", "p", "")]


def test_the_patient_can_be_in_the_file_name(chests: Path) -> None:
    assert {image.patient for image in collect(chests, PATIENT).images} == {
        f"p{label}{number:02d}" for label in ("clear", "dense") for number in range(6)
    }
    assert {image.patient for image in collect(chests, "^(x)").images} == {""}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is no regular expression"), ("abc", "must have one group"), ("(a)(b)", "one group")],
)
def test_a_wrong_pattern_is_refused(pattern: str, message: str, chests: Path) -> None:
    with pytest.raises(tlkit.DataError, match=message):
        collect(chests, pattern)


@pytest.mark.parametrize("name", ["absent", "empty", "absent.csv"])
def test_nothing_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(tlkit.DataError, match=r"there is no such|has no images"):
        collect(tmp_path / name)


def test_a_folder_beside_the_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train/a/1.png": b"", "extra/a/2.png": b""})
    with pytest.raises(tlkit.DataError, match=r"extra: is no split, but train beside it is one"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gone.png,a,train", "path: there is no file 'gone.png'"),
        ("../1.png,a,train", "path: must stay below the file's folder, got '../1.png'"),
        ("/1.png,a,train", "path: must stay below the file's folder, got '/1.png'"),
        ("1.png,,train", "label: is empty for '1.png'"),
        ("1.png,a,tset", "split: must be one of train, val, test, got 'tset'"),
        (",a,train", "path: is empty or not a path"),
        ("1.png,a", "must have as many values as there are columns"),
        ("1.png,a,train,more", "must have as many values as there are columns"),
        ("2.png,a,train", "path: '2.png' stands in row 2 already"),
    ],
)
def test_a_wrong_row_is_named_and_the_others_are_read(
    row: str, message: str, tmp_path: Path
) -> None:
    table = f"path,label,split\n2.png,a,train\n{row}\n"
    write(tmp_path, {"1.png": b"", "2.png": b"", "x.csv": table.encode()})
    found = collect(tmp_path / "x.csv")
    assert found.problems == (f"row 3: {message}",)
    assert len(found.images) == 1


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((128, 128)),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_changed_copy_is_nearly_the_same(name: str) -> None:
    one = Image.fromarray(draw_chest(0, (0, 5), 256))
    looks = [looked(png(one)), looked(png(VARIANTS[name](one)), 1)]
    assert [pair.kind for pair in find_duplicates(looks).pairs] == ["near"]


def test_other_chests_are_not(chests: Path) -> None:
    looks, problems = all_image_facts(collect(chests))
    assert problems == []
    assert find_duplicates(looks).pairs == ()


def test_the_same_bytes_the_same_pixels_and_near_ones_are_told_apart() -> None:
    grey = Image.fromarray(chest(1))
    contents = [
        png(grey),
        png(grey),
        png(grey.convert("RGB")),
        png(ImageEnhance.Contrast(grey).enhance(0.9)),
        png(chest(2)),
    ]
    found = find_duplicates([looked(content, n) for n, content in enumerate(contents)])
    assert [(p.one, p.other, p.kind) for p in found.pairs] == [
        (0, 1, "bytes"), (0, 2, "pixels"), (0, 3, "near"),
    ]  # fmt: skip
    assert found.groups == ((0, 1, 2, 3),)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=12), st.integers(0, 256))
def test_near_pairs_are_those_that_a_count_of_bits_finds(codes: list[bytes], near: int) -> None:
    base = looked(png(chest(1)))
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
    grey = Image.fromarray(chest(1))
    looks = [
        looked(png(chest(9)), 0, patient="p"),
        looked(png(grey), 1, patient="p"),
        looked(png(grey.convert("RGB")), 2, patient="q"),
        looked(png(chest(3)), 3, patient="q"),
        looked(png(chest(4)), 4),
        looked(png(chest(5)), 5),
    ]
    assert joined(looks, find_duplicates(looks)) == [0, 0, 0, 0, 4, 5]


# Shortcuts: images of noise, in which nothing but what is planted can tell the label.


def noise(number: int, height: int = 32, width: int = 32) -> Pixels:
    random = np.random.default_rng(number)
    return random.integers(60, 200, (height, width), dtype=np.uint8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trees and samples; what is planted is found with them too."""
    monkeypatch.setattr(shortcuts, "TREES", 50)
    monkeypatch.setattr(shortcuts, "RESAMPLES", 50)


def planted(what: str, number: int, label: str) -> ImageFacts:
    second = label == "b"
    pixels = noise(number)
    known = {"label": label, "source": f"clinic {number % 2}"}
    if what == "source":
        known["source"] = f"clinic {label}"
    elif what == "size":
        pixels = noise(number, 32 + 8 * second)
    elif what == "border":
        pixels[:3] = 250 if second else 5
    elif what == "centre":
        pixels[12:20, 12:20] = 250 if second else 5
    if what == "file":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG" if second else "BMP")
        return looked(buffer.getvalue(), number, **known)
    return looked(png(pixels), number, **known)


def measured(what: str, count: int = 80) -> dict[str, Any]:
    looks = [planted(what, number, "ab"[number // (count // 2)]) for number in range(count)]
    return {one.what: one for one in find_shortcuts(looks, range(count))}


CONTROLS = ("picture, centre 60% black", "whole picture")


@pytest.mark.parametrize("what", ["source", "size", "file", "border"])
def test_what_is_planted_betrays_the_label_and_nothing_else_does(what: str) -> None:
    found = measured(what)
    assert found[what].verdict == "strong"
    assert found[what].auc > 0.95
    # A size changes the length of the file and the noise of means; JPEG changes the noise.
    related = {"size": {"file", "border"}, "file": {"border"}, "border": {"file"}}.get(what, set())
    for other in {"source", "size", "file", "border"} - {what} - related:
        assert found[other].verdict in {"none", "not measured: the same for all images"}


def test_what_is_in_the_centre_is_no_shortcut() -> None:
    found = measured("centre")
    assert found["border"].verdict == "none"
    assert found["whole picture"].auc > 0.95
    black = found["picture, centre 60% black"]
    assert black.low < 0.5 < black.high


def test_nothing_planted_is_nothing_found() -> None:
    for one in measured("nothing").values():
        assert one.auc is None or (one.low < 0.6 and one.verdict == "none")


def test_images_of_one_patient_are_not_learnt_from_and_judged_by() -> None:
    """The same border in all images of a patient, and patients of both kinds in each class."""
    looks: list[ImageFacts] = []
    groups: list[int] = []
    for patient in range(20):
        for copy in range(4):
            pixels = noise(1000 * patient + copy)
            inside = pixels[3:-3, 3:-3].copy()
            pixels[:] = np.random.default_rng(patient).integers(0, 256)
            pixels[3:-3, 3:-3] = inside
            looks.append(looked(png(pixels), len(looks), label="ab"[patient % 2]))
            groups.append(patient)
    apart = {one.what: one.auc or 0 for one in find_shortcuts(looks, groups)}
    together = {one.what: one.auc or 0 for one in find_shortcuts(looks, range(len(looks)))}
    assert together["border"] > 0.9
    assert apart["border"] < 0.75


def test_of_very_many_images_a_part_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST", 60)
    drawn = shortcuts.evenly(["a"] * 1000 + ["b"] * 10, 0)
    assert [sum(low <= n < high for n in drawn) for low, high in ((0, 1000), (1000, 1010))] == [
        30, 10,
    ]  # fmt: skip
    assert measured("border")["border"].verdict == "strong"


def test_too_few_images_are_not_measured() -> None:
    looks = [planted("border", number, "ab"[number // 4]) for number in range(8)]
    for one in find_shortcuts(looks, range(8)):
        assert one.auc is None
        assert one.verdict.startswith("not measured: ")


def test_a_source_that_is_known_of_no_image_is_not_called_the_same() -> None:
    looks = [looked(png(noise(number)), number, label="ab"[number % 2]) for number in range(4)]
    found = {one.what: one.verdict for one in find_shortcuts(looks, range(4))}
    assert found["source"] == "not measured: is not known"
    assert found["file"] != found["source"]


@pytest.mark.skipif(not XRAYS.is_dir(), reason=f"{XRAYS} is not there")
@pytest.mark.slow
def test_the_public_xray_set_is_found_out() -> None:
    found = inspect_data(XRAYS)
    verdicts = {one.what: one.verdict for one in found.shortcuts}
    assert verdicts["border"] == "strong"
    assert found.duplicates.pairs == ()
    # The names hold ChestX-ray8's patient numbers, and 68 patients are in both folders.
    assert len(verify_manifest(XRAYS, patient=r"^(\d{8})_").leaks) == 68


# Splits.


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), min_size=60, max_size=120),
    st.integers(0, 5),
)
def test_no_group_is_in_two_splits_whatever_the_data(
    images: list[tuple[str, int]], seed: int
) -> None:
    labels, groups = [label for label, _ in images], [group for _, group in images]
    separate = {label: len({g for lab, g in images if lab == label}) for label in labels}
    if min(separate.values()) < 3:
        with pytest.raises(tlkit.DataError, match="separate images"):
            assign(labels, groups, {"val": 0.2, "test": 0.2}, seed)
        return
    splits = assign(labels, groups, {"val": 0.2, "test": 0.2}, seed)
    homes = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        homes[group].add(split)
    assert all(len(home) == 1 for home in homes.values())
    assert set(splits) == {"train", "val", "test"}


@pytest.mark.parametrize(("val", "test"), [(0.15, 0.15), (0.2, 0.0), (0.1, 0.3), (0.05, 0.05)])
def test_single_images_are_split_in_the_shares_asked_for(val: float, test: float) -> None:
    labels = ["a"] * 400 + ["b"] * 100
    splits = assign(labels, range(500), {"val": val, "test": test}, 0)
    for split, share in (("val", val), ("test", test)):
        for label, count in (("a", 400), ("b", 100)):
            found = sum(pair == (split, label) for pair in zip(splits, labels, strict=True))
            assert found == pytest.approx(share * count, abs=1)


def manifest_rows(path: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))]


def test_a_split_is_a_manifest_that_tlkit_reads_and_verifies(chests: Path, tmp_path: Path) -> None:
    out = chests / "manifest.csv"
    done = split_data(chests, out, val=0.2, test=0.2, patient=PATIENT)
    try:
        splits = Manifest(path=out).load()
        assert {split: splits.counts(split) for split in done.counts} == done.counts
        assert verify_manifest(out).sound
        assert verify_manifest(out).notes == ()
        for row in manifest_rows(out):
            content = (chests / row["path"]).read_bytes()
            assert row["sha256"] == hashlib.sha256(content).hexdigest()
    finally:
        out.unlink()


def test_a_seed_gives_its_split_and_another_gives_another(chests: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        split_data(chests, chests / "m.csv", seed=seed)
        texts.append((chests / "m.csv").read_text())
        (chests / "m.csv").unlink()
    assert texts[0] == texts[1] != texts[2]


def test_copies_stay_together(chests: Path, tmp_path: Path) -> None:
    files = contents(chests)
    name, content = next(iter(files.items()))
    copies = {f"{Path(name).parent}/copy{n}.png": content for n in range(3)}
    write(tmp_path, files | copies)
    for seed in range(5):
        out = tmp_path / f"{seed}.csv"
        split_data(tmp_path, out, val=0.2, test=0.2, seed=seed)
        where = {row["split"] for row in manifest_rows(out) if row["path"] in {name, *copies}}
        assert len(where) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"clear/x.png": b"text"}, r"1 cannot be used\nclear/x.png: is no image"),
        ({"dense/x.png": png(chest(0))}, r"the same picture must have one label\n"),
        ({"rare/x.png": png(chest(900))}, r"class 'rare': 3 splits need .*, got 1$"),
    ],
)
def test_what_cannot_be_split_is_named_and_nothing_is_written(
    spoil: dict[str, bytes], message: str, chests: Path, tmp_path: Path
) -> None:
    files = contents(chests)
    write(tmp_path, files | spoil)
    with pytest.raises(tlkit.DataError, match=message):
        split_data(tmp_path, tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0, 0.2), (-0.1, 0.2), (0.2, -0.1)])
def test_shares_that_leave_nothing_are_refused(val: float, test: float, chests: Path) -> None:
    with pytest.raises(tlkit.DataError, match="must be shares that leave some to train"):
        split_data(chests, chests / "m.csv", val=val, test=test)


def test_a_manifest_is_never_overwritten_and_lies_above_its_images(
    chests: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.csv").write_text("mine")
    with pytest.raises(tlkit.DataError, match="exists; nothing is overwritten"):
        split_data(chests, tmp_path / "m.csv")
    with pytest.raises(tlkit.DataError, match=r"must lie in .* or above it"):
        split_data(chests, tmp_path / "other.csv")
    with pytest.raises(tlkit.DataError, match="there is no such folder"):
        split_data(chests, tmp_path / "none" / "other.csv")


# Verification.


@pytest.fixture
def manifest(chests: Path, tmp_path: Path) -> Path:
    files = contents(chests)
    write(tmp_path, files)
    split_data(tmp_path, tmp_path / "m.csv", val=0.2, test=0.2, patient=PATIENT)
    return tmp_path / "m.csv"


def change(manifest: Path, number: int, **values: str) -> dict[str, str]:
    rows = manifest_rows(manifest)
    rows[number] |= values
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    manifest.write_text(buffer.getvalue())
    return rows[number]


def one_of(manifest: Path, split: str) -> int:
    return next(n for n, row in enumerate(manifest_rows(manifest)) if row["split"] == split)


def test_a_true_manifest_is_sound(manifest: Path) -> None:
    found = verify_manifest(manifest)
    assert found.sound
    assert (found.rows, found.notes) == (24, ())


@pytest.mark.parametrize("content", [None, b"", b"text", png(chest(7777))], ids=str)
def test_a_file_that_is_not_what_the_row_says_is_named(
    content: bytes | None, manifest: Path
) -> None:
    path = manifest_rows(manifest)[3]["path"]
    if content is None:
        (manifest.parent / path).unlink()
    else:
        (manifest.parent / path).write_bytes(content)
    (problem,) = verify_manifest(manifest).problems
    assert problem.startswith("row 5: ")
    assert path in problem


def test_a_row_without_a_split_is_named(manifest: Path) -> None:
    change(manifest, 2, split="")
    (problem, *_) = verify_manifest(manifest).problems
    assert problem.startswith("row 4: ")
    assert problem.endswith("is in no split")


def test_a_patient_in_two_splits_is_named(manifest: Path) -> None:
    row = change(manifest, one_of(manifest, "val"), split="test")
    (leak,) = verify_manifest(manifest).leaks
    assert leak.startswith(f"patient {row['patient']} is in test (row ")
    assert "val (row " in leak


@pytest.mark.parametrize(
    ("copied", "told"),
    [
        (lambda image: image, "the same picture"),
        (lambda image: image.resize((60, 60)), "nearly the same ("),
        (lambda image: image.convert("RGB"), "the same picture"),
    ],
)
def test_a_copy_in_another_split_is_named(copied: Any, told: str, manifest: Path) -> None:
    train, test = one_of(manifest, "train"), one_of(manifest, "test")
    rows = manifest_rows(manifest)
    source, target = (manifest.parent / rows[n]["path"] for n in (train, test))
    Image.open(source).load()
    copied(Image.open(source)).save(target, compress_level=9)
    change(manifest, test, sha256="", label=rows[train]["label"])
    (leak,) = verify_manifest(manifest).leaks
    assert leak.startswith(told)
    assert rows[train]["path"] in leak
    assert rows[test]["path"] in leak


def test_one_picture_with_two_labels_is_named(manifest: Path) -> None:
    rows = manifest_rows(manifest)
    train = [n for n, row in enumerate(rows) if row["split"] == "train"]
    one = next(n for n in train if rows[n]["label"] == "clear")
    other = next(n for n in train if rows[n]["label"] == "dense")
    content = (manifest.parent / rows[one]["path"]).read_bytes()
    (manifest.parent / rows[other]["path"]).write_bytes(content)
    change(manifest, other, sha256="")
    (conflict,) = verify_manifest(manifest).conflicts
    assert "is clear" in conflict
    assert "is dense" in conflict


# The command line.


def ran(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_inspect_prints_what_it_found(chests: Path) -> None:
    done = ran("inspect", chests, "--patient", PATIENT)
    assert done.exit_code == 0, done.output
    for told in ("no split", "clear", "64×64", "24 PNG L", "12 known", "border", "whole picture"):
        assert told in done.stdout


def test_inspect_in_json_is_the_same_for_a_program(chests: Path) -> None:
    found = json.loads(ran("inspect", chests, "--json").stdout)
    assert found["counts"] == {"": {"clear": 12, "dense": 12}}
    assert {one["what"] for one in found["shortcuts"]} >= {"source", "size", "file", "border"}


def test_inspect_names_what_cannot_be_read_after_the_rest(chests: Path, tmp_path: Path) -> None:
    files = contents(chests)
    write(tmp_path, files | {"clear/bad\x1b.png": b"text"})
    done = ran("inspect", tmp_path)
    assert "24 PNG L" in done.stdout
    assert isinstance(done.exception, tlkit.DataError)
    assert str(done.exception) == (
        "1 cannot be read\n  clear/bad\\x1b.png: is no image; "
        "BMP, JPEG, PNG, TIFF, WEBP and DICOM are read"
    )


def test_split_prints_the_counts_beside_the_target(chests: Path, tmp_path: Path) -> None:
    files = contents(chests)
    write(tmp_path, files)
    done = ran("split", tmp_path, "--out", tmp_path / "m.csv", "--val", "0.25", "--test", "0.25")
    assert done.exit_code == 0, done.output
    assert "3 of 3.0" in done.stdout
    assert "24 images have no patient" in done.stderr
    assert f"next: tlkit data verify {tmp_path / 'm.csv'}" in done.stdout


def test_verify_ends_with_the_rows_that_are_wrong(manifest: Path) -> None:
    done = ran("verify", manifest)
    assert done.exit_code == 0
    assert "24 rows are as they should be" in done.stdout
    change(manifest, 1, sha256="0" * 64)
    done = ran("verify", manifest)
    assert isinstance(done.exception, tlkit.DataError)
    assert done.exception.exit_code == 4
    assert "1 rows are wrong\n  row 3: " in str(done.exception)
    assert not json.loads(ran("verify", manifest, "--json").stdout)["sound"]


def test_the_command_and_the_functions_agree_on_what_is_near() -> None:
    from tlkit.cli.data import DEFAULT_NEAR_BITS

    assert DEFAULT_NEAR_BITS == NEAR_BITS


def test_an_inspection_of_nothing_readable_is_still_one(tmp_path: Path) -> None:
    found = inspect_data(write(tmp_path, {"a/1.png": b"", "b/2.png": b"x"}))
    assert isinstance(found, Inspection)
    assert (found.images, len(found.problems), found.shortcuts) == (0, 2, ())
