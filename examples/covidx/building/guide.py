"""What a newcomer is told: which projects to get, where each goes, and what is still missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from building.sources import PROJECTS, Project

BEGIN = """\
The study's images come from three public sources; which of them train and test is said by lists
of the COVID-Net project. Nothing is downloaded here: their licences ask for your consent.
"""
END = """\
5. Check, then build
   python examples/covidx/build.py --dry-run
   python examples/covidx/build.py
   The collections of step 1 and 2 have grown since the study, so the second command will ask for
   --as-of DATE or --keep-surplus. The study's date is not on record; its counts and the lists tell
   that it was soon after 13 May 2020: --find-date shows the days that give the paper's counts.

6. Run the experiments
   tlkit data inspect examples/covidx/data/covidxmini.csv
   tlkit run examples/covidx/exp3.toml
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
            f"   as:      {folders[project.folder]}",
            *states,
            "",
        ]
    return "\n".join([*lines, END])


def _needed(project: Project, folders: Mapping[str, Path]) -> list[Path]:
    return [folders[project.folder] / name for name in project.holds]


def _lacks(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
