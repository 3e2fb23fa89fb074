"""Splitting: no group in two splits, shares met, a manifest that verifies."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pictures import PATIENT, contents, manifest_rows, picture, png, two_classes, write

import tlkit
from tlkit.data.holdout import assign
from tlkit.inspect.split import split_data
from tlkit.inspect.verify import verify_manifest
from tlkit.parts.datasets import Manifest


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pictures of two classes in folders."""
    return two_classes(tmp_path_factory.mktemp("images"))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), min_size=60, max_size=120),
    st.integers(0, 5),
)
def test_no_group_is_in_two_splits_whatever_the_data(
    images: list[tuple[str, int]], seed: int
) -> None:
    labels, groups = [label for label, _ in images], [group for _, group in images]
    names = [str(number) for number in range(len(images))]
    separate = {label: len({g for lab, g in images if lab == label}) for label in labels}
    if min(separate.values()) < 3:
        with pytest.raises(tlkit.DataError, match="separate images"):
            assign(labels, groups, names, {"val": 0.2, "test": 0.2}, seed)
        return
    splits = assign(labels, groups, names, {"val": 0.2, "test": 0.2}, seed)
    homes = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        homes[group].add(split)
    assert all(len(home) == 1 for home in homes.values())
    assert set(splits) == {"train", "val", "test"}


@pytest.mark.parametrize(("val", "test"), [(0.15, 0.15), (0.2, 0.0), (0.1, 0.3), (0.05, 0.05)])
def test_single_images_are_split_in_the_shares_asked_for(val: float, test: float) -> None:
    labels = ["a"] * 400 + ["b"] * 100
    splits = assign(labels, range(500), list(map(str, range(500))), {"val": val, "test": test}, 0)
    for split, share in (("val", val), ("test", test)):
        for label, count in (("a", 400), ("b", 100)):
            found = sum(pair == (split, label) for pair in zip(splits, labels, strict=True))
            assert found == pytest.approx(share * count, abs=1)


def test_a_split_is_a_manifest_that_tlkit_reads_and_verifies(images: Path, tmp_path: Path) -> None:
    out = images / "manifest.csv"
    done = split_data(images, out, val=0.2, test=0.2, patient=PATIENT)
    try:
        splits = Manifest(path=out).load()
        assert {split: splits.counts(split) for split in done.counts} == done.counts
        assert verify_manifest(out).sound
        assert verify_manifest(out).notes == ()
        for row in manifest_rows(out):
            content = (images / row["path"]).read_bytes()
            assert row["sha256"] == hashlib.sha256(content).hexdigest()
    finally:
        out.unlink()


def test_a_seed_gives_its_split_and_another_gives_another(images: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        split_data(images, images / "m.csv", seed=seed)
        texts.append((images / "m.csv").read_text())
        (images / "m.csv").unlink()
    assert texts[0] == texts[1] != texts[2]


def test_formulas_are_marked_in_the_manifest_and_read_back(tmp_path: Path) -> None:
    names = [f"{label}/{n}.png" for label in ("=cmd", "b") for n in range(4)]
    write(tmp_path, {name: png(picture(n)) for n, name in enumerate(names)})
    out = tmp_path / "m.csv"
    split_data(tmp_path, out, val=0.25, test=0)
    assert out.read_text().count("'=cmd") == 8
    assert Manifest(path=out).load().classes == ("=cmd", "b")


def test_copies_stay_together(images: Path, tmp_path: Path) -> None:
    files = contents(images)
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
        ({"clear/x.png": b"text"}, r"1 cannot be used\nclear/x.png: is not an image"),
        ({"dense/x.png": png(picture(0))}, r"the same picture must have one label\n"),
        ({"rare/x.png": png(picture(900))}, r"class 'rare': 3 splits need .*, got 1$"),
    ],
)
def test_what_cannot_be_split_is_named_and_nothing_is_written(
    spoil: dict[str, bytes], message: str, images: Path, tmp_path: Path
) -> None:
    files = contents(images)
    write(tmp_path, files | spoil)
    with pytest.raises(tlkit.DataError, match=message):
        split_data(tmp_path, tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0, 0.2), (-0.1, 0.2), (0.2, -0.1)])
def test_shares_that_leave_nothing_are_refused(val: float, test: float, images: Path) -> None:
    with pytest.raises(tlkit.DataError, match="must be shares that leave some to train"):
        split_data(images, images / "m.csv", val=val, test=test)


def test_a_manifest_is_never_overwritten_and_is_above_its_images(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.csv").write_text("mine")
    with pytest.raises(tlkit.DataError, match="exists; choose another with --out, "):
        split_data(images, tmp_path / "m.csv")
    with pytest.raises(tlkit.DataError, match=r"must be in .* or above it"):
        split_data(images, tmp_path / "other.csv")
    with pytest.raises(tlkit.DataError, match="there is no such folder"):
        split_data(images, tmp_path / "none" / "other.csv")
