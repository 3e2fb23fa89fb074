"""What a newcomer is told: which projects to get, where each goes, and what is still missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from building.sources import PROJECTS, Project

STUDY = Path(__file__).parents[1]
BEGIN = """\
The study's images come from three public sources; which of them train and test is said by lists
of the COVID-Net project. Nothing is downloaded here: their licences ask for your consent.
Once: pip install 'tlkit[dicom]'. What is built takes 7 GB, with --max-side 512 it takes 2 GB.
"""
END = """\
5. Check, find the study's day, build
   python {study}/build.py --dry-run
   python {study}/build.py --find-date
   python {study}/build.py --as-of DATE
   The collections of steps 1 and 2 have grown since the study. Its date is not on record; its
   counts and the lists tell that it was soon after 13 May 2020. --find-date marks the days that
   give the paper's counts, --as-of DATE builds from one. To build from all that there is now:
   --keep-surplus. What cannot be matched is listed, with the option that builds without it.

6. Look at the images, run the experiments
   tlkit data inspect {study}/data/covidxmini.csv
   tlkit run {study}/exp3.toml
   tlkit sweep {study}/study.toml
"""


def missing(folders: Mapping[str, Path]) -> list[Path]:
    """Return the files and folders that are needed and not there."""
    return [path for project in PROJECTS for path in _needed(project, folders) if _lacks(path)]


def guide(folders: Mapping[str, Path]) -> str:
    """Return the steps, each with what is there."""
    lines = [BEGIN]
    for number, project in enumerate(PROJECTS, start=1):
        states = [
            f"   {'missing' if _lacks(path) else 'there  '}  {path.relative_to(top)}"
            for top in [folders[project.folder]]
            for path in _needed(project, folders)
        ]
        lines += [
            f"{number}. {project.name}",
            f"   where:   {project.address}",
            f"   licence: {project.licence}",
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


def _lacks(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
