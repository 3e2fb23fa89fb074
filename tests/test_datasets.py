"""Datasets: folders, manifests, and what takes the place of missing data."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from tlkit.config.experiment import Experiment
from tlkit.config.structure import structure, unstructure
from tlkit.data.splits import Example, Splits
from tlkit.parts.datasets import Folder, Manifest, load_splits
from tlkit.parts.kinds import Dataset, StandIn
from tlkit.parts.shapes import Shapes
from tlkit.system.errors import ConfigError, DataError, FieldError, PartError

SHAPES = StandIn.parse("shapes")


def make(top: Path, *files: str) -> Path:
    """Make empty files below a folder; a name with a slash at its end is an empty folder."""
    for name in files:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(name.encode())
    return top


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes, one image of each in `train` and `val`, no `test`."""
    files = [f"{split}/{label}/1.png" for split in ("train", "val") for label in "ba"]
    return make(tmp_path / "images", *files)


class TestFolder:
    def test_classes_are_the_sorted_folders_and_images_the_sorted_files(self, images: Path) -> None:
        make(images, "train/a/0.PNG", "train/a/deep/er/3.jpeg")
        splits = Folder(path=images).load()
        assert splits.classes == ("a", "b")
        assert splits.train == (
            Example("train/a/0.PNG", "a"),
            Example("train/a/1.png", "a"),
            Example("train/a/deep/er/3.jpeg", "a"),
            Example("train/b/1.png", "b"),
        )
        assert splits.read("train/a/1.png") == b"train/a/1.png"

    def test_named_classes_keep_their_order(self, images: Path) -> None:
        splits = Folder(path=images, classes=("b", "a")).load()
        assert splits.classes == ("b", "a")
        assert [example.label for example in splits.train] == ["b", "a"]

    def test_test_is_optional(self, images: Path) -> None:
        assert Folder(path=images).load().test == ()
        make(images, "test/a/3.png", "test/b/3.png")
        assert len(Folder(path=images).load().test) == 2

    @pytest.mark.parametrize(
        "name", [".DS_Store", "train/.cache/x.png", "train/a/.hidden.png", "train/a/.git/y.png"]
    )
    def test_hidden_files_and_folders_are_passed_over(self, images: Path, name: str) -> None:
        before = Folder(path=images).load()
        make(images, name)
        after = Folder(path=images).load()
        assert evolve(after, notes=()) == before
        hidden = next((part for part in Path(name).parts if part.startswith(".")), "")
        found = images / name.partition(hidden)[0] / hidden
        noted = f"1 left out: hidden, such as {found}"
        assert after.notes == ((noted,) if name.endswith(".png") else ())

    def test_files_that_are_no_images_by_name_are_left_out_and_counted(self, images: Path) -> None:
        make(images, "train/a/notes.txt", "val/b/thumbs.db", "val/b/noext")
        splits = Folder(path=images).load()
        assert splits.counts("train") == {"a": 1, "b": 1}
        (note,) = splits.notes
        assert note == f"3 left out: not an image file, such as {images}/train/a/notes.txt"

    @pytest.mark.parametrize(
        ("made", "message"),
        [
            ([], r"/data: the data's folder is not there; set data\.path$"),
            (["val/a/1.png"], "/data/train: there is no such folder; it is needed$"),
            (["train/a/1.png"], "/data/train: needs one folder for each .* got a$"),
            (["1.png"], "/data: needs one folder for each of two or more classes, got none$"),
            (["a/1.png", "b/"], "/data/b: class 'b' has no images$"),
            (["train/", "val/"], "/data/train: needs one folder for each .* got none$"),
            (["train/a/1.png", "val/a/1.png"], "/data/train: needs one folder for each .* got a$"),
            (
                ["train/a/1.png", "train/b/", "val/a/1.png", "val/b/1.png"],
                "/data/train/b: class 'b' has no images in train$",
            ),
            (
                ["train/a/1.png", "train/b/.1.png", "val/a/1.png", "val/b/1.png"],
                "/data/train/b: class 'b' has no images in train$",
            ),
            (
                ["train/a/1.png", "train/b/1.png", "val/a/1.png"],
                "/data/val/b: class 'b' has no images in val$",
            ),
            (
                ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/a/1.png"],
                "/data/test/b: class 'b' has no images in test$",
            ),
        ],
    )
    def test_what_is_missing_is_named(self, tmp_path: Path, made: list[str], message: str) -> None:
        make(tmp_path / "data", *made)
        with pytest.raises(DataError, match=rf"^{tmp_path}{message}"):
            Folder(path=tmp_path / "data").load()

    def test_a_folder_that_is_no_class_is_an_error_with_the_nearest_class(
        self, images: Path
    ) -> None:
        make(images, "val/pnuemonia/1.png", "train/pneumonia/1.png", "val/pneumonia/1.png")
        message = r"/val/pnuemonia: is none of the classes a, b, pneumonia; did you mean 'pneumon"
        with pytest.raises(DataError, match=message):
            Folder(path=images).load()
        with pytest.raises(DataError, match=r"/train/pneumonia: is none of the classes a, b; name"):
            Folder(path=images, classes=("a", "b")).load()

    def test_class_folders_alike_but_for_case_are_a_data_error(self, images: Path) -> None:
        make(images, "train/A/1.png", "val/A/1.png")
        with pytest.raises(DataError, match="class names must differ by more than case"):
            Folder(path=images).load()


class TestPatientsInFileNames:
    PATTERN = "^(p[0-9]+)_"

    @pytest.mark.parametrize("kind", ["folder", "manifest"])
    def test_stay_in_one_split_of_those_that_are_drawn(self, kind: str, tmp_path: Path) -> None:
        names = [f"{label}/p{n}_{view}.png" for label in "ab" for n in range(9) for view in (1, 2)]
        dataset: Folder | Manifest = Folder(path=make(tmp_path, *names), patient=self.PATTERN)
        if kind == "manifest":
            rows = [f"{name},{name[0]}" for name in names]
            (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]))
            dataset = Manifest(path=tmp_path / "all.csv", patient=self.PATTERN)
        splits = load_splits(dataset)
        of_split = [{example.patient for example in part} for _, part in splits.items()]
        assert len(of_split) == 3
        assert set.union(*of_split) == {f"p{n}" for n in range(9)}
        assert sum(map(len, of_split)) == 9
        plain = load_splits(evolve(dataset, patient=None))
        assert {example.patient for _, part in plain.items() for example in part} == {""}

    def test_may_not_be_in_two_splits_that_the_data_have(self, images: Path) -> None:
        make(images, "train/a/p1_1.png", "val/a/p1_2.png")
        assert Folder(path=images).load().val
        with pytest.raises(DataError, match=r"patient 'p1'"):
            load_splits(Folder(path=images, patient=self.PATTERN))

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [("(", r"^patient: '\(' is not a regular"), ("^p[0-9]+", r"^patient: .* must have one gr")],
    )
    def test_need_a_pattern_with_one_group(self, pattern: str, message: str) -> None:
        with pytest.raises(FieldError, match=message):
            Folder(path=Path("images"), patient=pattern)


class TestManifest:
    def test_classes_are_the_sorted_labels_unless_they_are_named(self, images: Path) -> None:
        rows = [f"{split}/{c}/1.png,{c},{split}" for split in ("train", "val") for c in "ba"]
        path = images / "data.csv"
        path.write_text("\n".join(["path,label,split", *rows]))
        splits = Manifest(path=path).load()
        assert splits.classes == ("a", "b")
        assert [example.path for example in splits.train] == ["train/b/1.png", "train/a/1.png"]
        assert splits.read("val/a/1.png") == b"val/a/1.png"
        assert Manifest(path=path, classes=("b", "a")).load().classes == ("b", "a")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "needs two or more classes, got none$"),
            (["train/a/1.png,a,train"], "needs two or more classes, got a$"),
            (
                ["train/a/1.png,a,train", "train/b/1.png,b,train", "val/a/1.png,a,val"],
                "val split: every class needs at least one image, got none of 'b'$",
            ),
            (
                ["train/a/1.png,a,train", "train/b/1.png,A,train", "val/a/1.png,a,val"],
                "class names must differ by more than case, got 'a' twice$",
            ),
        ],
    )
    def test_what_does_not_make_a_study_is_told_with_the_file(
        self, images: Path, rows: list[str], message: str
    ) -> None:
        path = images / "data.csv"
        path.write_text("\n".join(["path,label,split", *rows]))
        with pytest.raises(DataError, match=rf"^{path}: {message}"):
            Manifest(path=path).load()

    def test_a_patient_in_two_splits_is_told_with_the_file(self, images: Path) -> None:
        path = images / "data.csv"
        path.write_text(
            "path,label,split,patient\n"
            "train/a/1.png,a,train,p1\ntrain/b/1.png,b,train,p2\n"
            "val/a/1.png,a,val,p3\nval/b/1.png,b,val,p2\n"
        )
        message = rf"^{path}: patient 'p2' in train and val: train/b/1\.png \(train\), val/b/1\.png"
        with pytest.raises(DataError, match=message):
            load_splits(Manifest(path=path))
        assert load_splits(Manifest(path=path, allow_leakage=True)).leakage == {"patient": 1}

    def test_paths_are_relative_to_root_if_it_is_set(self, images: Path, tmp_path: Path) -> None:
        path = tmp_path / "lists" / "data.csv"
        path.parent.mkdir()
        rows = [f"{split}/{c}/1.png,{c},{split}" for split in ("train", "val") for c in "ba"]
        path.write_text("\n".join(["path,label,split", *rows]))
        with pytest.raises(DataError, match=r"row 2: path: there is no file 'train/b/1\.png'"):
            Manifest(path=path).load()
        splits = Manifest(path=path, root=images).load()
        assert splits.read("val/a/1.png") == b"val/a/1.png"
        assert splits.root == str(images)
        none = images / "none"
        with pytest.raises(DataError, match=rf"^{none}: the images' folder is not there; set data"):
            Manifest(path=path, root=none).load()

    def test_links_may_lead_out_of_the_folder_only_if_that_is_said(
        self, images: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "lists" / "data.csv"
        path.parent.mkdir()
        (path.parent / "linked").symlink_to(images)
        rows = [f"linked/{split}/{c}/1.png,{c},{split}" for split in ("train", "val") for c in "ba"]
        path.write_text("\n".join(["path,label,split", *rows]))
        message = r"row 2: path: 'linked/train/b/1\.png' is a link that leads out of "
        with pytest.raises(DataError, match=message):
            Manifest(path=path).load()
        splits = Manifest(path=path, follow_links=True).load()
        assert splits.read("linked/val/a/1.png") == b"val/a/1.png"

    def test_a_manifest_that_is_not_there_says_what_to_set(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.csv", tmp_path):
            with pytest.raises(DataError, match=rf"^{path}: the manifest is not there; set data\."):
                Manifest(path=path).load()


class TestStandIn:
    def test_it_is_chosen_by_name_and_written_as_such(self) -> None:
        dataset = structure(Folder, {"path": "data", "stand_in": "shapes"})
        assert dataset.stand_in == SHAPES
        assert Folder(path=Path("data"), stand_in="shapes") == dataset  # type: ignore[arg-type]
        assert unstructure(dataset)["stand_in"] == "shapes"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "shape",
                r"^data\.stand_in: no dataset named 'shape'; did you mean 'shapes'",
            ),
            (
                "folder",
                r"^data\.stand_in: dataset 'folder' cannot stand in: .* key path$",
            ),
        ],
    )
    def test_only_a_dataset_without_required_keys_can_stand_in(
        self, name: str, message: str
    ) -> None:
        table = {"data": {"name": "folder", "path": "data", "stand_in": name}}
        with pytest.raises(ConfigError, match=message):
            structure(Experiment, table)

    @pytest.mark.parametrize("kind", [Folder, Manifest])
    def test_another_dataset_stands_in_for_missing_data(
        self, tmp_path: Path, kind: type[Folder] | type[Manifest]
    ) -> None:
        missing = tmp_path / "data"
        splits = load_splits(kind(path=missing, stand_in=SHAPES, classes=("a", "b")))
        assert splits.stand_in == "shapes"
        assert splits.classes == ("a", "b")
        assert splits.notes == (f"{missing} does not exist: the dataset shapes stands in for it",)
        assert splits.read(splits.train[0].path).startswith(b"\x89PNG")

    @pytest.mark.parametrize("kind", [Folder, Manifest])
    def test_without_a_stand_in_missing_data_are_an_error(
        self, tmp_path: Path, kind: type[Folder] | type[Manifest]
    ) -> None:
        with pytest.raises(DataError, match=r"is not there; set data\.path$"):
            load_splits(kind(path=tmp_path / "data"))

    def test_data_that_are_there_are_used(self, images: Path) -> None:
        splits = load_splits(Folder(path=images, stand_in=SHAPES))
        assert splits.stand_in == ""
        assert splits == Folder(path=images).load()

    @pytest.mark.parametrize("rows", [[], ["x.png,a,train", "y.png,b,train"]])
    def test_a_manifest_that_is_wrong_is_an_error_stand_in_or_not(
        self, tmp_path: Path, rows: list[str]
    ) -> None:
        path = tmp_path / "data.csv"
        path.write_text("\n".join(["path,label,split", *rows]))
        dataset: Dataset = Manifest(path=path, stand_in=SHAPES, classes=("a", "b"))
        with pytest.raises(DataError, match=f"^{path}: "):
            load_splits(dataset)


def test_what_a_dataset_gives_must_be_splits() -> None:
    class Wrong(Shapes):
        """Gives something else."""

        def load(self) -> Splits:
            return ["a.png"]  # type: ignore[return-value]  # somebody's mistake

    with pytest.raises(PartError, match=r"^Wrong: its `load` must return Splits, got \['a\.png'"):
        load_splits(Wrong())
