"""What has one place in the library is written nowhere else."""

from __future__ import annotations

import re
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
    "nothing is overwritten": "system/text.py",  # what exists stays as it is
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


# Everything else that is read comes from a folder that others may have made: `system/untrusted.py`
# opens it.
OPENS = re.compile(
    r"(?<!folder)\.read_text\(|(?<!folder)(?<!self)\.read_bytes\(|\.open\(|(?<![\w.])open\(|os\.open\("
    r"|np\.load\(|load_file\(|safe_open\(|json\.loads?\("
)
OPENERS = {
    "cli/machine.py": "the system's own files",
    "cli/predict.py": "writes a new file",
    "config/starter.py": "writes a new file",
    "data/manifest.py": "a CSV file that the user names",
    "data/walk.py": "the first bytes of images",
    "estimator.py": "images that the user names, and its own temporary run",
    "exporter/script.py": "the exported script, which stands alone",
    "keras_tools.py": "images that the user names",
    "model/graph.py": "Keras's own source",
    "parts/compose.py": "a part's own keys",
    "parts/digits.py": "a file of scikit-learn's",
    "reports/page.py": "tlkit's own style sheets",
    "reports/preview.py": "images that the user names",
    "reports/svg.py": "tlkit's own style sheets",
    "runfolder/folder.py": "through `system/untrusted.py`",
    "sweeps/processes.py": "what the worker says",
    "sweeps/worker.py": "what the sweep says",
    "system/cache.py": "arrays whose hash was checked; writes new files",
    "system/files.py": "syncs what was written",
    "system/keras.py": "the system's own files",
    "system/lease.py": "makes new files; the system's own files",
    "system/lock.py": "locks, never through a link",
    "system/stdio.py": "the null device",
    "system/untrusted.py": "the one place",
    "train/feature_key.py": "a part's own source",
    "weights/files.py": "the arrays of a file that was checked",
    "weights/sources.py": "downloads, by their published hash",
    "weights/torch_files.py": "a file that the user names",
}


def test_files_that_others_may_have_made_are_opened_in_one_place() -> None:
    openers = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if OPENS.search(path.read_text(encoding="utf-8"))
    }
    assert openers == OPENERS.keys()
