"""The three public sources: where they are, their files, and the images they offer."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from tlkit.system.errors import DataError


@frozen(kw_only=True)
class Project:
    """A project to download.

    Attributes:
        name: Its name.
        folder: Name of its folder below `sources`.
        address: Its web page.
        license: What is known about its license.
        get: How to download it.
        holds: Required files and folders.
    """

    name: str
    folder: str
    address: str
    license: str
    get: str
    holds: tuple[str, ...]


COHEN = Project(
    name="COVID-19 Image Data Collection",
    folder="covid-chestxray-dataset",
    address="https://github.com/ieee8023/covid-chestxray-dataset",
    license="each image has its own, in the column `license` of metadata.csv",
    get="git clone https://github.com/ieee8023/covid-chestxray-dataset",
    holds=("metadata.csv", "images"),
)
FIGURE1 = Project(
    name="Figure 1 COVID-19 Chest X-ray Dataset Initiative",
    folder="Figure1-COVID-chestxray-dataset",
    address="https://github.com/agchung/Figure1-COVID-chestxray-dataset",
    license="its README says: for research purposes only",
    get="git clone https://github.com/agchung/Figure1-COVID-chestxray-dataset",
    holds=("metadata.csv", "images"),
)
RSNA = Project(
    name="RSNA Pneumonia Detection Challenge, stage 2",
    folder="rsna-pneumonia-detection-challenge",
    address="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    license="the challenge's rules, to be accepted at Kaggle; attribution to RSNA and NIH",
    get="accept the rules at Kaggle, then download the two below there and unpack them, or all: "
    "kaggle competitions download -c rsna-pneumonia-detection-challenge",
    holds=("stage_2_detailed_class_info.csv", "stage_2_train_images"),
)
LISTS = Project(
    name="COVIDx lists, version 2, of the COVID-Net project",
    folder="COVID-Net",
    address="https://github.com/lindawangg/COVID-Net",
    license="see LICENSE.md there",
    get="git clone https://github.com/lindawangg/COVID-Net",
    holds=("labels/train_COVIDx2.txt", "labels/test_COVIDx2.txt"),
)
PROJECTS = (COHEN, FIGURE1, RSNA, LISTS)

# Findings as mapped by COVID-Net's create_COVIDx_v2.ipynb; all others have no class.
FINDINGS = {
    "COVID-19": "covid-19",
    **dict.fromkeys(
        ("SARS", "MERS", "Streptococcus", "Klebsiella", "Chlamydophila", "Legionella"), "pneumonia"
    ),
}
# The views that it counts as frontal.
VIEWS = frozenset({"PA", "AP", "AP Supine", "AP semi erect", "AP erect"})
RSNA_CLASSES = {"Normal": "normal", "Lung Opacity": "pneumonia"}


@frozen(kw_only=True)
class Candidate:
    """An image that a source offers.

    Attributes:
        name: Its file name in the lists.
        label: Its class; empty for none.
        finding: The source's own term for the class.
        patient: The patient, with the source's name as a prefix.
        source: The source's short name.
        view: The projection, if known.
        frontal: Whether it may be used for validation.
        file: The image file, which may be missing.
        where: The metadata row.
    """

    name: str
    label: str
    finding: str
    patient: str
    source: str
    view: str = ""
    frontal: bool = True
    file: Path
    where: str


def cohen(folder: Path, metadata: str | None = None) -> Iterator[Candidate]:
    """Return the images of the COVID-19 Image Data Collection.

    Args:
        folder: A clone of it.
        metadata: Text to use instead of the current `metadata.csv`.
    """
    for where, row in _rows(folder / "metadata.csv", metadata, "filename", "finding", "view"):
        name, view = row["filename"], row["view"]
        yield Candidate(
            name=name,
            label=FINDINGS.get(_finding(row["finding"]), ""),
            finding=row["finding"],
            patient=f"cohen-{row['patientid']}",
            source="cohen",
            view=view,
            frontal=view in VIEWS and row.get("modality", "X-ray") == "X-ray",
            file=folder / (row.get("folder") or "images") / name,
            where=where,
        )


def figure1(folder: Path, metadata: str | None = None) -> Iterator[Candidate]:
    """Return the images of the Figure 1 initiative; files are named after the patient."""
    there = _names(folder / "images")
    for where, row in _rows(folder / "metadata.csv", metadata, "finding", "view"):
        stem = row["patientid"]
        name = next((stem + end for end in (".jpg", ".png") if stem + end in there), f"{stem}.jpg")
        yield Candidate(
            name=name,
            label=FINDINGS.get(_finding(row["finding"]), ""),
            finding=row["finding"],
            patient=f"figure1-{stem.rstrip('abcdefgh')}",  # 15a and 15b are of one patient
            source="figure1",
            view=row["view"],
            file=folder / "images" / name,
            where=where,
        )


def rsna(folder: Path) -> Iterator[Candidate]:
    """Return the images of the RSNA challenge: one per patient, with a row per bounding box."""
    classes: dict[str, str] = {}
    for where, row in _rows(folder / "stage_2_detailed_class_info.csv", None, "class"):
        patient, kind = row["patientid"], row["class"]
        if classes.setdefault(patient, kind) != kind:
            raise DataError(f"{where}: {patient} is {kind!r} here and {classes[patient]!r} before")
        if classes[patient] is not kind:
            continue
        yield Candidate(
            name=f"{patient}.png",
            label=RSNA_CLASSES.get(kind, ""),
            finding=kind,
            patient=f"rsna-{patient}",
            source="rsna",
            file=folder / "stage_2_train_images" / f"{patient}.dcm",
            where=where,
        )


def commit_as_of(clone: Path, date: str) -> str:
    """Return the clone's last commit of a day, in UTC.

    Raises:
        DataError: If the folder is not a clone with history, or the project is younger.
    """
    commit = _git(clone, "rev-list", "-1", f"--before={date}T23:59:59+00:00", "HEAD").strip()
    if not commit:
        raise DataError(f"{clone}: has no commit up to {date}; clone it with its full history")
    return commit


def metadata_at(clone: Path, commit: str) -> str:
    """Return `metadata.csv` as of a commit."""
    return _git(clone, "show", f"{commit}:metadata.csv")


def days_of_change(clone: Path) -> set[str]:
    """Return the days, in UTC, on which `metadata.csv` changed."""
    day = ["log", "--date=format-local:%Y-%m-%d", "--format=%cd", "HEAD", "--", "metadata.csv"]
    return set(_git(clone, *day).split())


def _git(clone: Path, *arguments: str) -> str:
    command = ["git", "-C", str(clone), *arguments]
    try:
        done = subprocess.run(  # noqa: S603  # git, with arguments of our own
            command, capture_output=True, check=True, env=_environment()
        )
    except FileNotFoundError:
        raise DataError("git: needed for --as-of and --find-date, but not installed") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(f"{clone}: git: {lines[-1] if lines else 'failed'}") from None
    return _text(done.stdout)


def _environment() -> Mapping[str, str]:
    import os

    return {**os.environ, "TZ": "UTC", "LC_ALL": "C"}


def _rows(path: Path, text: str | None, *needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a table's rows, each with file and line; column names in lower case."""
    reader = csv.reader(io.StringIO(_text(path.read_bytes()) if text is None else text))
    columns = [name.strip().lower() for name in next(reader, [])]
    missing = [name for name in ("patientid", *needed) if name not in columns]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}, got {', '.join(columns)}")
    for line in reader:
        if line:
            values = (value.strip() for value in line)
            row = dict(zip(columns, values, strict=False))
            yield f"{path.name}:{reader.line_num}", dict.fromkeys(columns, "") | row


def _text(content: bytes) -> str:
    """Decode UTF-8, or else Latin-1, as in the Figure 1 metadata."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _finding(text: str) -> str:
    """Return the last level of the first finding.

    >>> _finding("COVID-19, ARDS"), _finding("Pneumonia/Viral/SARS")
    ('COVID-19', 'SARS')
    """
    return text.split(",")[0].split("/")[-1].strip()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
