"""Images that tlkit holds out: stratified, groups together, the same everywhere."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from tests.pictures import picture, png, write

import tlkit
from tlkit.data.holdout import assign, check_every_class, hold_out
from tlkit.data.splits import Example
from tlkit.parts.datasets import Folder, Manifest, load_splits

SHARES = {"val": 0.2, "test": 0.2}


def folder(top: Path, each: int = 10) -> Path:
    """Write a folder per class, without splits."""
    files = {
        f"{label}/{n}.png": png(picture(100 * number + n))
        for number, label in enumerate("ab")
        for n in range(each)
    }
    return write(top, files)


def homes(splits: tlkit.Splits) -> dict[str, str]:
    return {example.path: split for split, example in splits.rows()}


@given(st.lists(st.integers(1, 6), min_size=5, max_size=60), st.integers(0, 99))
def test_shares_are_met_to_within_a_group(sizes: list[int], seed: int) -> None:
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    names = [str(number) for number in range(len(groups))]
    splits = Counter(assign(["a"] * len(groups), groups, names, SHARES, seed))
    for split, share in SHARES.items():
        assert abs(splits[split] - share * len(groups)) <= max(sizes)


def test_most_images_keep_their_split_when_others_are_added() -> None:
    names = [f"image {number}" for number in range(400)]

    def drawn(count: int) -> list[str]:
        return assign(["a"] * count, range(count), names[:count], SHARES, 0)

    before, after = drawn(200), drawn(220)
    assert sum(old != new for old, new in zip(before, after[:200], strict=True)) < 20


def test_a_class_that_a_split_lacks_is_named() -> None:
    with pytest.raises(tlkit.DataError, match=r"^val: has no image of 'b', whose images are"):
        check_every_class(["a", "b", "a"], ["train", "train", "val"])


def test_names_and_order_do_not_matter_but_content_and_seed_do(tmp_path: Path) -> None:
    one = load_splits(Folder(path=folder(tmp_path / "one")))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    moved = tmp_path / "other" / "a" / "0.png"
    moved.rename(moved.with_name("renamed.png"))
    other = homes(load_splits(Folder(path=tmp_path / "other")))
    other["a/0.png"] = other.pop("a/renamed.png")
    assert other == homes(one)
    reseeded = load_splits(Folder(path=tmp_path / "one", split_seed=1))
    assert homes(reseeded) != homes(one)
    assert one.held_out == {"val": 0.15, "test": 0.15}
    assert one.counts("val") == one.counts("test") == {"a": 1, "b": 1}
    assert "held out by tlkit: 15 % of each class as val and 15 % of" in one.notes[0]


def test_patients_copies_and_near_copies_stay_together() -> None:
    grey = Image.fromarray(picture(1))
    files = {f"{n}.png": png(picture(n)) for n in range(2, 30)}
    alike = {
        "copy.png": png(grey),
        "original.png": png(grey),
        "faint.png": png(ImageEnhance.Contrast(grey).enhance(0.9)),
    }
    examples = [Example(name, "a") for name in [*files, *alike]]
    examples += [Example(f"{n}.dcm", "a", patient=f"P0{7 if n % 2 else ''}7") for n in range(4)]
    content = files | alike | {f"{n}.dcm": b"no image %d" % n for n in range(4)}
    for seed in range(6):
        splits, _ = hold_out(examples, content.__getitem__, SHARES, seed)
        placed = dict(zip((example.path for example in examples), splits, strict=True))
        assert len({placed[name] for name in alike}) == 1
        assert placed["0.dcm"] == placed["2.dcm"]
        assert placed["1.dcm"] == placed["3.dcm"]


def test_pictures_too_alike_to_tell_apart_are_split_all_the_same() -> None:
    """They differ in few bits of the hash: in chains they would be one group."""
    images = {}
    for n in range(60):
        image = Image.fromarray(picture(1, 68))
        image.putpixel((n % 10 * 5, n // 10 * 5), 255)
        images[f"{n}.png"] = png(image)
    examples = [Example(name, "ab"[n % 2]) for n, name in enumerate(images)]
    splits, notes = hold_out(examples, images.__getitem__, SHARES, 0)
    assert Counter(splits) == {"train": 36, "val": 12, "test": 12}
    assert "too many to be copies" in notes[1]


def test_an_image_is_decoded_once_for_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    data = Folder(path=folder(tmp_path / "images"))
    seen: list[tuple[int, int]] = []
    first = load_splits(data, lambda done, count: seen.append((done, count)))
    assert seen[-1] == (20, 20)
    monkeypatch.setattr(
        "tlkit.data.decoding._opened", lambda *_, **__: pytest.fail("decoded again")
    )
    assert homes(load_splits(data)) == homes(first)


class TestKeys:
    def test_shares_are_as_asked_for(self, tmp_path: Path) -> None:
        data = Folder(path=folder(tmp_path), val=0.3, test=0.0)
        splits = load_splits(data)
        assert (splits.counts("val"), splits.test) == ({"a": 3, "b": 3}, ())
        assert splits.held_out == {"val": 0.3}

    def test_a_split_that_is_there_is_kept_and_the_others_come_from_train(
        self, tmp_path: Path
    ) -> None:
        folder(tmp_path / "train")
        splits = load_splits(Folder(path=tmp_path))
        assert splits.held_out == {"val": 0.15}
        assert {example.path.partition("/")[0] for _, example in splits.rows()} == {"train"}
        write(tmp_path, {f"valid/{label}/1.png": png(picture(900 + n))
                         for n, label in enumerate("ab")})  # fmt: skip
        splits = load_splits(Folder(path=tmp_path, test=0.2))
        assert [example.path for example in splits.val] == ["valid/a/1.png", "valid/b/1.png"]
        assert (splits.held_out, splits.counts("test")) == ({"test": 0.2}, {"a": 2, "b": 2})
        message = r"^data\.val: the data have a split val of their own; remove the key"
        with pytest.raises(tlkit.ConfigError, match=message):
            load_splits(Folder(path=tmp_path, val=0.2))

    def test_a_class_may_be_called_valid(self, tmp_path: Path) -> None:
        files = {f"{label}/{n}.png": png(picture(n + 50 * (label == "valid")))
                 for label in ("broken", "valid") for n in range(4)}  # fmt: skip
        assert load_splits(Folder(path=write(tmp_path, files))).classes == ("broken", "valid")

    def test_folds_take_all_images_and_make_val_themselves(self, tmp_path: Path) -> None:
        data = Folder(path=folder(tmp_path), folds=5, fold=1)
        assert sum(len(images) for _, images in load_splits(data).items()) == 20
        with pytest.raises(tlkit.FieldError, match=r"val: is a tenth of what data\.folds"):
            Folder(path=tmp_path, folds=5, fold=1, val=0.2)

    def test_shares_must_leave_some_to_train(self, tmp_path: Path) -> None:
        with pytest.raises(tlkit.FieldError, match="must be shares that leave some to train"):
            Folder(path=tmp_path, val=0.5, test=0.5)

    def test_a_class_with_too_few_images_is_named(self, tmp_path: Path) -> None:
        folder(tmp_path, each=2)
        with pytest.raises(tlkit.DataError, match=r"^class .a.: 3 splits need as many separate"):
            load_splits(Folder(path=tmp_path))


def test_a_manifest_without_splits_is_split_and_one_with_some_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    rows = [f"{label}/{n}.png,{label}" for label in "ab" for n in range(10)]
    table = tmp_path / "all.csv"
    table.write_text("\n".join(["path,label", *rows]))
    splits = load_splits(Manifest(path=table))
    assert homes(splits) == homes(load_splits(Folder(path=tmp_path)))
    table.write_text(
        "\n".join(["path,label,split", f"{rows[0]},train", *[f"{r}," for r in rows[1:]]])
    )
    with pytest.raises(
        tlkit.DataError, match=r"row 3: split: must be one of train, val, test, got"
    ):
        load_splits(Manifest(path=table))


def test_tlkit_data_split_draws_the_same(tmp_path: Path) -> None:
    splits = load_splits(Folder(path=folder(tmp_path), val=0.2, test=0.2, split_seed=3))
    tlkit.split_data(tmp_path, tmp_path / "m.csv", val=0.2, test=0.2, seed=3)
    assert homes(load_splits(Manifest(path=tmp_path / "m.csv"))) == homes(splits)


def test_a_run_folder_among_the_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a class of the next run."""
    monkeypatch.chdir(folder(tmp_path))
    table = {"data": {"name": "folder", "path": "."}, "backbone": {"weights": "none"}}
    for out in (None, "mine"):
        with pytest.raises(tlkit.ConfigError, match=r"is inside the image folder .*; choose ano"):
            tlkit.run(table, out)
