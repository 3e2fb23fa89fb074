"""The step-by-step guide: which projects to download, where to put them, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from building.sources import PROJECTS, Project

STUDY = Path(__file__).parents[1]
BEGIN = """\
The study's images come from three public sources; lists of the COVID-Net project assign them to
training and test. Nothing is downloaded here, since the licenses ask for your consent.
Once: pip install 'tlkit[dicom]'. The result takes 7 GB, or 2 GB with --max-side 512.
"""
END = """\
5. Check, find the study's date, build
   python {study}/build.py --dry-run
   python {study}/build.py --find-date
   python {study}/build.py --as-of DATE
   The collections of steps 1 and 2 have grown since the study. Its date is not recorded; its
   counts and the lists show that it was soon after 13 May 2020. --find-date marks the days that
   match the paper's counts; --as-of DATE builds from one of them. To build from all current
   images: --keep-surplus. Images that cannot be matched are listed, with the option to skip them.

6. Look at the images, run the experiments
   tlkit data inspect {study}/data/covidxmini.csv
   tlkit run {study}/exp3.toml
   tlkit sweep {study}/study.toml
"""


def missing(folders: Mapping[str, Path]) -> list[Path]:
    """Return the required files and folders that are missing."""
    return [path for project in PROJECTS for path in _needed(project, folders) if _is_missing(path)]


def guide(folders: Mapping[str, Path]) -> str:
    """Return the guide, with what is there and what is missing."""
    lines = [BEGIN]
    for number, project in enumerate(PROJECTS, start=1):
        states = [
            f"   {'missing' if _is_missing(path) else 'there  '}  {path.relative_to(top)}"
            for top in [folders[project.folder]]
            for path in _needed(project, folders)
        ]
        lines += [
            f"{number}. {project.name}",
            f"   where:   {project.address}",
            f"   license: {project.license}",
            f"   get it:  {project.get}",
            f"   into:    {folders[project.folder]}",
            *states,
            "",
        ]
    here = Path.cwd()
    study = STUDY.relative_to(here) if STUDY.is_relative_to(here) else STUDY
    return "\n".join([*lines, END.format(study=study)])


def _needed(project: Project, folders: Mapping[str, Path]) -> list[Path]:
    return [folders[project.folder] / name for name in project.holds]


def _is_missing(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
