"""From fake copies of the public sources to Tables 1 and 2, and every planted fault by its name.

The copies have the real layouts, columns and, where the lists are there, the real file names; each
image is 8 px. The quick tests have the shape of the lists at a fiftieth of the size.
"""

from __future__ import annotations

import copy
import csv
import io
import itertools
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import build
import numpy as np
import pydicom
import pytest
from building import study, tables
from building.lists import CLASSES, Row, parse_row, read_lists
from building.sources import COHEN, FIGURE1, LISTS, PROJECTS, RSNA
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from typer.testing import CliRunner

import tlkit
from tlkit.parts.datasets import Manifest

STUDY = Path(__file__).parents[3] / "examples" / "covidx"
REAL_LISTS = Path(__file__).parents[4] / "shared" / "data" / "covidx_lists"
COHEN_COLUMNS = (
    "patientid", "offset", "sex", "age", "finding", "survival", "view", "modality", "date",
    "location", "folder", "filename", "doi", "url", "license", "clinical_notes",
)  # fmt: skip
FIGURE1_COLUMNS = ("patientid", "offset", "sex", "age", "finding", "survival", "view", "modality")
SMALL: tables.Sizes = {"train": (40, 28, 8), "val": (9, 7, 5), "test": (6, 5, 4)}
SMALL_MINI: tables.Sizes = {"train": (8, 8, 8), "val": (6, 6, 5), "test": (6, 5, 4)}
SIDE = 8


def dicom(pixels: bytes, kind: str = "MONOCHROME2") -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    file.PatientName = "SECRET^NAME"
    file.Rows = file.Columns = SIDE
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    file.PixelRepresentation, file.SamplesPerPixel = 0, 1
    file.PhotometricInterpretation = kind
    file.PixelData = pixels
    file["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# The pixels stand last, so that 14,000 files need only one pass through pydicom.
DICOM_HEAD = dicom(bytes(SIDE * SIDE))[: -SIDE * SIDE]


def draw(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture that no other number has."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def picture(number: int, suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw(number)).save(buffer, "PNG" if suffix == ".png" else "JPEG")
    return buffer.getvalue()


class Sources:
    """Fake copies of the three sources and the lists, below one folder."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.numbers = itertools.count()
        self.cohen: list[dict[str, Any]] = []
        self.figure1: list[dict[str, Any]] = []
        self.rsna: list[tuple[str, str]] = []
        self.lists: dict[str, list[str]] = {"train": [], "test": []}
        for project in PROJECTS:
            for name in project.holds:
                path = self.folder(project) / name
                (path if not path.suffix else path.parent).mkdir(parents=True, exist_ok=True)

    def folder(self, project: Any) -> Path:
        return self.top / str(project.folder)

    def image(self, source: str, name: str) -> Path:
        project = {"cohen": COHEN, "figure1": FIGURE1, "rsna": RSNA}[source]
        return self.folder(project) / project.holds[-1] / name

    def add_rsna(self, kind: str, patient: str = "") -> str:
        number = next(self.numbers)
        patient = patient or str(uuid.UUID(int=number + 2**100))
        content = DICOM_HEAD + draw(number).tobytes()
        self.image("rsna", f"{patient}.dcm").write_bytes(content)
        # A row for each box that was drawn.
        boxes = 1 + number % 3 if kind == "Lung Opacity" else 1
        self.rsna += [(patient, kind)] * boxes
        return f"{patient} {patient}.png"

    def add_cohen(self, finding: str, patient: str, name: str, view: str = "PA") -> str:
        content = picture(next(self.numbers), Path(name).suffix)
        self.image("cohen", name).write_bytes(content)
        row = {"patientid": patient, "finding": finding, "view": view, "filename": name}
        self.cohen.append(
            row | {"modality": "CT" if view == "Axial" else "X-ray", "folder": "images"}
        )
        return f"{patient} {name}"

    def add_figure1(self, patient: str, finding: str = "COVID-19") -> str:
        name = f"{patient}.jpg"
        self.image("figure1", name).write_bytes(picture(next(self.numbers), ".jpg"))
        self.figure1.append({"patientid": patient, "finding": finding, "view": "AP erect"})
        return f"{patient} {name}"

    def write(self) -> None:
        write_csv(self.folder(COHEN) / "metadata.csv", COHEN_COLUMNS, self.cohen)
        # Not UTF-8, as the real one.
        first = [self.figure1[0] | {"survival": "Zürich"}, *self.figure1[1:]]
        write_csv(self.folder(FIGURE1) / "metadata.csv", FIGURE1_COLUMNS, first, "latin-1")
        rows = [{"patientId": patient, "class": kind} for patient, kind in self.rsna]
        table = self.folder(RSNA) / "stage_2_detailed_class_info.csv"
        write_csv(table, ("patientId", "class"), rows)
        for split, lines in self.lists.items():
            path = self.folder(LISTS) / "labels" / f"{split}_COVIDx2.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def options(self, out: Path, **more: Any) -> study.Options:
        sizes = {"plus": SMALL, "mini": SMALL_MINI} | more
        folders = {project.folder: self.folder(project) for project in PROJECTS}
        return study.Options(folders=folders, out=out, **sizes)


def write_csv(
    path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]], encoding: str = "utf-8"
) -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def fill(sources: Sources, sizes: tables.Sizes) -> None:
    """Add made-up lists of these sizes, all three sources in each, and what is in neither."""
    patients = itertools.count(1)
    for split in ("train", "test"):
        normal, pneumonia, covid = sizes[split]
        lines = sources.lists[split]
        lines += [f"{sources.add_rsna('Normal')} normal" for _ in range(normal)]
        lines += [f"{sources.add_rsna('Lung Opacity')} pneumonia" for _ in range(pneumonia - 2)]
        for finding, name in (("SARS", "SARS-{}.jpeg"), ("Streptococcus", "{}-day1.png")):
            patient = f"{split}{next(patients)}"
            row = sources.add_cohen(finding, patient, name.format(patient))
            lines.append(f"{row} pneumonia")
        for number in range(covid - 1):
            patient = f"{split}{next(patients) - number % 2}"  # some have two images
            row = sources.add_cohen("COVID-19", patient, f"covid-{split}-{number}.jpg", "AP Supine")
            lines.append(f"{row} COVID-19")
        lines.append(f"{sources.add_figure1(f'COVID-000{next(patients):02d}')} COVID-19")
    fill_validation(sources, sizes["val"])


def fill_validation(sources: Sources, counts: tuple[int, ...]) -> None:
    normal, pneumonia, covid = counts
    for _ in range(normal):
        sources.add_rsna("Normal")
    for _ in range(pneumonia - 1):
        sources.add_rsna("Lung Opacity")
    sources.add_cohen("Pneumonia/Bacterial/Legionella", "new1", "legionella.jpg", "AP erect")
    for number in range(covid - 1):
        sources.add_cohen("COVID-19, ARDS", f"new{2 + number}", f"new-{number}.png")
    sources.add_figure1("COVID-00099a")
    # None of these is the study's: another class, view or kind of picture.
    sources.add_rsna("No Lung Opacity / Not Normal")
    sources.add_cohen("COVID-19", "new1", "lateral.jpg", "L")
    sources.add_cohen("COVID-19", "new1", "slice.jpg", "Axial")
    sources.add_cohen("No Finding", "new1", "nothing.jpg")
    sources.add_figure1("COVID-00098", finding="")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    sources = Sources(tmp_path_factory.mktemp("sources"))
    fill(sources, SMALL)
    return sources


@pytest.fixture
def sources(pristine: Sources, tmp_path: Path) -> Sources:
    """A copy to be spoilt."""
    found = Sources(tmp_path / "sources")
    shutil.copytree(pristine.top, found.top, dirs_exist_ok=True)
    for name in ("cohen", "figure1", "rsna"):
        setattr(found, name, [copy.copy(row) for row in getattr(pristine, name)])
    found.lists = {split: [*lines] for split, lines in pristine.lists.items()}
    found.numbers = itertools.count(10_000)
    found.write()
    return found


def made(options: study.Options, on_image: Callable[[int], None] = lambda done: None) -> str:
    return study.build(options, study.gather(options), on_image)


def rows(path: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))]


def refused(options: study.Options) -> str:
    with pytest.raises(tlkit.DataError, match=r".") as caught:
        made(options)
    assert not (options.out / "covidxplus.csv").exists()
    return str(caught.value)


def test_the_sources_of_the_study_give_its_counts(sources: Sources, tmp_path: Path) -> None:
    said = made(sources.options(tmp_path / "data"))
    assert "paper" not in said
    for name, sizes in (("covidxplus", SMALL), ("covidxmini", SMALL_MINI)):
        path = tmp_path / "data" / f"{name}.csv"
        splits = Manifest(path=path, classes=CLASSES).load()
        found = {split: tuple(splits.counts(split).values()) for split in sizes}
        assert found == sizes
    assert (tmp_path / "data" / "left_out.txt").read_text() == ""


def test_every_png_has_the_pixels_of_its_source(sources: Sources, tmp_path: Path) -> None:
    made(sources.options(tmp_path))
    plus = rows(tmp_path / "covidxplus.csv")
    assert {row["source"] for row in plus} == {"cohen", "figure1", "rsna"}
    for row in plus:
        found = np.asarray(Image.open(tmp_path / row["path"]))
        name = Path(row["path"]).name
        if row["source"] == "rsna":
            stem = Path(name).stem
            expected = pydicom.dcmread(sources.image("rsna", f"{stem}.dcm")).pixel_array
        else:
            source = sources.image(row["source"], name)
            source = source if source.exists() else source.with_suffix("")
            expected = np.asarray(Image.open(source))
        np.testing.assert_array_equal(found, expected)


def test_mini_is_a_part_of_plus_and_another_seed_draws_another(
    sources: Sources, tmp_path: Path
) -> None:
    drawn = []
    for seed in (10, 10, 11):
        made(sources.options(tmp_path, seed=seed))
        drawn.append((tmp_path / "covidxmini.csv").read_text())
    plus = (tmp_path / "covidxplus.csv").read_text().splitlines()
    assert set(drawn[0].splitlines()) < set(plus)
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_image_more_moves_no_other_into_or_out_of_mini(sources: Sources, tmp_path: Path) -> None:
    images = study.gather(sources.options(tmp_path)).images
    before = {image.path for image in tables.draw_mini(images, 10, SMALL_MINI)}
    extra = attrs.evolve(images[0], path="images/rsna/one-more.png")
    after = {image.path for image in tables.draw_mini([*images, extra], 10, SMALL_MINI)}
    assert len(before - after) <= 1


# Each fault, and what must be said of it.


def missing_file(sources: Sources) -> str:
    sources.image("cohen", "covid-train-3.jpg").unlink()
    return "train_COVIDx2.txt:72: covid-train-3.jpg: its file is missing: covid-train-3.jpg"


def missing_validation_file(sources: Sources) -> str:
    sources.image("cohen", "new-1.png").unlink()
    return "new-1.png: its file is missing"


def renamed_file(sources: Sources) -> str:
    path = sources.image("cohen", "covid-train-3.jpg")
    path.rename(path.with_suffix(".jpeg"))
    return "covid-train-3.jpg; 'covid-train-3.jpeg' exists; rename it if it is the same"


def renamed_validation_file(sources: Sources) -> str:
    path = sources.image("cohen", "new-1.png")
    path.rename(path.with_suffix(".jpeg"))
    return "new-1.png: its file is missing: new-1.png; 'new-1.jpeg' exists; rename it if it is"


def renamed_row(sources: Sources) -> str:
    for row in sources.cohen:
        if row["filename"] == "covid-train-3.jpg":
            row["filename"] = "covid-train-3.jpeg"
    path = sources.image("cohen", "covid-train-3.jpg")
    path.rename(path.with_suffix(".jpeg"))
    return "covid-train-3.jpg: is not in any source's metadata; 'covid-train-3.jpeg' exists and is"


def wrong_class(sources: Sources) -> str:
    patient = sources.lists["train"][0].split()[0]
    sources.rsna = [(p, "Lung Opacity" if p == patient else kind) for p, kind in sources.rsna]
    return (
        f"train_COVIDx2.txt:1: {patient}.png: is normal here and 'Lung Opacity' in "
        "stage_2_detailed_class_info.csv:2"
    )


def two_classes_for_one_file(sources: Sources) -> str:
    sources.lists["test"].append(sources.lists["test"][0].replace("normal", "pneumonia"))
    return "is pneumonia here and normal in test_COVIDx2.txt:1"


def a_file_in_both_lists(sources: Sources) -> str:
    sources.lists["test"].append(sources.lists["train"][0])
    return "is normal here and normal in train_COVIDx2.txt:1"


def a_row_without_a_class(sources: Sources) -> str:
    sources.lists["test"].append("7 \x1b[31mred.png sick")
    return r"test_COVIDx2.txt:16: needs patient, file and class, got '7 \x1b[31mred.png sick'"


def corrupt_dicom(sources: Sources) -> str:
    name = f"{sources.lists['train'][0].split()[0]}.dcm"
    path = sources.image("rsna", name)
    path.write_bytes(path.read_bytes()[:-10])
    return f"{name}: has 54 bytes of pixel data, expected 64"


def no_dicom_at_all(sources: Sources) -> str:
    name = f"{sources.lists['train'][0].split()[0]}.dcm"
    sources.image("rsna", name).write_text("<html>please log in</html>")
    return f"{name}: is not an image"


@pytest.mark.parametrize(
    "plant",
    [
        missing_file, missing_validation_file, renamed_file, renamed_validation_file, renamed_row,
        wrong_class,
        two_classes_for_one_file, a_file_in_both_lists, a_row_without_a_class, corrupt_dicom,
        no_dicom_at_all,
    ],
    ids=lambda plant: plant.__name__,
)  # fmt: skip
def test_a_fault_is_named_and_nothing_is_built_unless_told_to(
    plant: Callable[[Sources], str], sources: Sources, tmp_path: Path
) -> None:
    expected = plant(sources)
    sources.write()
    # A renamed image is in neither list, but its patient is: it may not go to validation.
    options = sources.options(tmp_path / "data", leave_out_shared=True)
    assert expected in refused(options)
    assert expected in made(attrs.evolve(options, leave_out_unmatched=True))
    left_out = (tmp_path / "data" / "left_out.txt").read_text().splitlines()
    assert len(left_out) == (2 if plant is renamed_row else 1)
    built = len(rows(tmp_path / "data" / "covidxplus.csv"))
    too_many = (two_classes_for_one_file, a_file_in_both_lists, a_row_without_a_class)
    assert built == sum(map(sum, SMALL.values())) - (plant not in too_many)


def test_a_file_that_the_metadata_tell_of_is_not_proposed_for_another(
    sources: Sources, tmp_path: Path
) -> None:
    missing_file(sources)  # others have nearly its name
    assert "rename it" not in refused(sources.options(tmp_path / "data"))


def test_a_row_that_stands_twice_is_counted_once_and_named(
    sources: Sources, tmp_path: Path
) -> None:
    sources.lists["train"].append(sources.lists["train"][0])
    sources.cohen.append(sources.cohen[-1])
    sources.write()
    plus = study.gather(sources.options(tmp_path))
    patient = sources.lists["train"][0].split()[0]
    assert f"train_COVIDx2.txt:77: {patient}.png: is already in train_COVIDx2.txt:1" in plus.notes
    assert any("nothing.jpg: is already in metadata.csv:" in note for note in plus.notes)


def test_monochrome1_is_inverted(sources: Sources, tmp_path: Path) -> None:
    patient = sources.lists["train"][0].split()[0]
    pixels = bytes(range(SIDE * SIDE))
    sources.image("rsna", f"{patient}.dcm").write_bytes(dicom(pixels, "MONOCHROME1"))
    made(sources.options(tmp_path))
    found = np.asarray(Image.open(tmp_path / "images" / "rsna" / f"{patient}.png"))
    assert (255 - found).tobytes() == pixels


def test_nothing_personal_leaves_the_dicom_files(sources: Sources, tmp_path: Path) -> None:
    made(sources.options(tmp_path / "data"))
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


def test_a_validation_image_of_a_training_patient_is_named(
    sources: Sources, tmp_path: Path
) -> None:
    sources.cohen = [
        row | ({"patientid": "train3"} if row["filename"] == "new-1.png" else {})
        for row in sources.cohen
    ]
    sources.write()
    expected = "images/cohen/new-1.png: is in val, and patient cohen-train3 is in train"
    options = sources.options(tmp_path / "data")
    assert expected in refused(options)
    allowed = attrs.evolve(options, leave_out_shared=True)
    assert "val 9 7 4 (paper 5, -1)" in " ".join(refused(allowed).split())  # nor in silence
    said = made(attrs.evolve(allowed, leave_out_unmatched=True))
    assert expected in said


def commit(clone: Path, date: str) -> None:
    environment = {
        **os.environ, "GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date,
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
    }  # fmt: skip
    me = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "metadata.csv"], [*me, "commit", "-qm", "m"]):
        subprocess.run(["git", "-C", str(clone), *command], check=True, env=environment)


@pytest.fixture
def grown(sources: Sources) -> Sources:
    """The collections as clones that have grown since the study."""
    for clone in (sources.folder(COHEN), sources.folder(FIGURE1)):
        commit(clone, "2020-05-20T12:00:00+00:00")
    sources.add_cohen("COVID-19", "later1", "later.jpg")
    sources.write()
    commit(sources.folder(COHEN), "2020-06-01T23:30:00+00:00")
    return sources


def test_what_came_after_the_study_is_listed_and_needs_a_word(
    grown: Sources, tmp_path: Path
) -> None:
    options = grown.options(tmp_path / "data", show_all=True)
    message = refused(options)
    assert "--as-of DATE" in message
    assert "6 (paper 5, +1)" in message
    assert "images/cohen/later.jpg.png" in message
    assert "later.jpg" not in made(attrs.evolve(options, as_of="2020-05-31"))
    assert "later.jpg" not in (tmp_path / "data" / "covidxplus.csv").read_text()
    assert "6 (paper 5, +1)" in made(attrs.evolve(options, keep_surplus=True))
    assert "later.jpg" in (tmp_path / "data" / "covidxplus.csv").read_text()


def test_the_day_counts_to_its_end_in_utc(grown: Sources, tmp_path: Path) -> None:
    assert "paper 5, +1" in refused(grown.options(tmp_path / "data", as_of="2020-06-01"))
    with pytest.raises(tlkit.DataError, match="has no commit up to 2020-05-19"):
        study.gather(grown.options(tmp_path, as_of="2020-05-19"))


def test_the_days_with_the_papers_counts_can_be_found(grown: Sources, tmp_path: Path) -> None:
    normal, pneumonia, covid = SMALL["val"]
    assert [*study.days(grown.options(tmp_path))] == [
        ("2020-05-20", (normal, pneumonia, covid)),
        ("2020-06-01", (normal, pneumonia, covid + 1)),
    ]


def test_a_copy_that_is_no_clone_has_no_history(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(tlkit.DataError, match="git: fatal: not a git repository"):
        study.gather(sources.options(tmp_path, as_of="2020-05-20"))


def test_the_next_line_reads_the_data_where_they_are(tmp_path: Path) -> None:
    assert build._setting(STUDY / "data") == ""
    option, text = shlex.split(build._setting(tmp_path / "my data"))
    found: Any = tlkit.load_experiment(STUDY / "exp3.toml", [text]).data
    assert (option, found.path) == ("--set", tmp_path / "my data" / "covidxmini.csv")


def test_a_finished_build_is_not_redone(sources: Sources, tmp_path: Path) -> None:
    options = sources.options(tmp_path)
    made(options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*.png")}
    count = sum(map(sum, SMALL.values()))
    assert f"{count} images, {count} of them from before" in made(options)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_only_what_is_not_right_is_redone(sources: Sources, tmp_path: Path) -> None:
    options = sources.options(tmp_path)
    made(options)
    manifest = (tmp_path / "covidxplus.csv").read_bytes()
    files = sorted((tmp_path / "images").rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])
    count = len(files)
    assert f"{count} images, {count - 2} of them from before" in made(options)
    assert (tmp_path / "covidxplus.csv").read_bytes() == manifest
    smaller = attrs.evolve(options, max_side=4)
    assert f"{count} images, 0 of them from before" in made(smaller)
    with Image.open(files[0]) as smaller_picture:
        assert smaller_picture.size == (4, 4)


def test_an_interrupted_build_goes_on_and_ends_alike(sources: Sources, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    made(sources.options(tmp_path / "straight"))
    options = sources.options(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        made(options, interrupt)
    assert not (tmp_path / "data" / "covidxplus.csv").exists()
    said = made(options)
    assert ", 40 of them from before" in said
    assert tree(tmp_path / "data") == tree(tmp_path / "straight")


def tree(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 a.png normal", ("3", "a.png", "normal")),
        ("3 a.png COVID-19 cohen", ("3", "a.png", "covid-19")),
        ("3 a.png COVID-19 AP Supine", ("3", "a.png", "covid-19")),
        ("COVID 1 COVID(1).png COVID-19 sirm", ("COVID 1", "COVID(1).png", "covid-19")),
        ("a normal man b.png pneumonia", ("a normal man", "b.png", "pneumonia")),
        ("a.png normal", None),
        ("3 a.png Normal", None),
        ("", None),
    ],
)
def test_rows_of_every_version_are_read_from_the_right(
    text: str, expected: tuple[str, str, str] | None
) -> None:
    row = parse_row(text, "here")
    assert (row and (row.patient, row.file, row.label)) == expected


needs_lists = pytest.mark.skipif(not REAL_LISTS.is_dir(), reason=f"{REAL_LISTS} is not there")


@needs_lists
@pytest.mark.parametrize(
    ("version", "train", "test"),
    [("2", 13_569, 231), ("3", 13_670, 300), ("8A", 15_599, 400)],
)
def test_no_row_of_the_real_lists_is_lost(version: str, train: int, test: int) -> None:
    found = read_lists(*(REAL_LISTS / f"{s}_COVIDx{version}.txt" for s in ("train", "test")))
    assert (len(found.train), len(found.test)) == (train, test)
    assert (found.problems, found.notes) == ((), ())


def from_real_lists(sources: Sources) -> None:
    """Add an image for every row of the lists that the study used."""
    found = read_lists(*(REAL_LISTS / f"{s}_COVIDx2.txt" for s in ("train", "test")))
    for split, listed in (("train", found.train), ("test", found.test)):
        sources.lists[split] = [add_listed(sources, row) for row in listed.values()]


def add_listed(sources: Sources, row: Row) -> str:
    finding = {"pneumonia": "SARS", "covid-19": "COVID-19"}
    if row.patient.startswith("COVID-"):
        sources.add_figure1(row.patient)
    elif row.file == f"{row.patient}.png":
        sources.add_rsna({"normal": "Normal"}.get(row.label, "Lung Opacity"), row.patient)
    else:
        sources.add_cohen(finding[row.label], row.patient, row.file)
    label = {"covid-19": "COVID-19"}.get(row.label, row.label)
    return f"{row.patient} {row.file} {label}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    """Sources of the study's size: with the real names if the lists are there."""
    sources = Sources(tmp_path_factory.mktemp("whole"))
    if REAL_LISTS.is_dir():
        from_real_lists(sources)
        fill_validation(sources, tables.PLUS["val"])
    else:
        fill(sources, tables.PLUS)
    sources.write()
    yield sources
    shutil.rmtree(sources.top)


@pytest.mark.slow
def test_the_command_gives_tables_1_and_2_and_the_experiments_accept_it(
    whole: Sources, tmp_path: Path
) -> None:
    arguments = ["--sources", str(whole.top), "--out", str(tmp_path / "data")]
    done = CliRunner().invoke(build.app, [*arguments, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "missing " not in done.output
    assert not (tmp_path / "data").exists()
    done = CliRunner().invoke(build.app, arguments)
    assert done.exit_code == 0, done.output
    assert "(paper" not in done.output
    shutil.copy(STUDY / "parts.py", tmp_path)
    for number, sizes in ((1, tables.PLUS), (2, tables.PLUS), (3, tables.MINI), (4, tables.MINI)):
        path = shutil.copy(STUDY / f"exp{number}.toml", tmp_path)
        plan = tlkit.check(tlkit.load_experiment(path))
        assert not plan.stand_in
        assert {split: tuple(counts.values()) for split, counts in plan.counts.items()} == sizes


def test_a_dry_run_on_nothing_tells_what_to_get_and_where_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(build.app, ["--sources", str(tmp_path / "none"), "--dry-run"])
    assert isinstance(done.exception, tlkit.DataError)
    assert str(done.exception) == "8 files or folders are missing; see above"
    for project in PROJECTS:
        for told in (project.name, project.address, project.license, project.get, *project.holds):
            assert told in done.output
        assert str(tmp_path / "none" / project.folder) in done.output
    for told in ("pip install 'tlkit[dicom]'", f"python {build.HERE}/build.py --as-of DATE"):
        assert told in done.output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["yesterday", "2020-5-1", "2020-13-01", "--all"])
def test_a_date_that_is_none_is_a_usage_error(text: str, pristine: Sources) -> None:
    pristine.write()
    done = CliRunner().invoke(build.app, ["--sources", str(pristine.top), f"--as-of={text}"])
    assert done.exit_code == 2
    assert "must be a day such as 2020-05-20" in done.output
