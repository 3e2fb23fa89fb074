"""What has one place in the library is written nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "tlkit"
PLACES = {
    "rich.progress": "reports/progress.py",  # progress bars
    "jinja2.Environment(": "reports/page.py",  # pages
    '"svg"': "reports/svg.py",  # charts
    "csv.writer(": "system/text.py",  # CSV, with its guard against formulas
    "os.walk(": "data/walk.py",  # image files below a folder
    "def same_patient(": "data/leakage.py",
    "-{number}": "runfolder/folder.py",  # new folders with a number
    "nothing is overwritten": "system/notebook.py",  # what exists stays as it is
    "filelock": "system/lock.py",
    'environ["TF_': "system/keras.py",  # the start of Keras
}


@pytest.mark.parametrize(("text", "place"), PLACES.items())
def test_one_idea_has_one_place(text: str, place: str) -> None:
    holders = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if text in path.read_text(encoding="utf-8")
    ]
    assert holders == [place]
