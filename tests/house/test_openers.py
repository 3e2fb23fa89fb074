"""Which modules open files, and why; whatever others may have made is opened in one place."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src" / "tlkit"

# Everything else that is read comes from a folder that others may have made: `system/untrusted.py`
# opens it.
OPENS = re.compile(
    r"(?<!folder)\.read_text\(|(?<!folder)(?<!self)\.read_bytes\(|\.open\(|(?<![\w.])open\(|os\.open\("
    r"|np\.load\(|load_file\(|safe_open\(|json\.loads?\("
)
OPENERS = {
    "cli/machine.py": "the system's own files",
    "cli/predict.py": "writes a new file",
    "cli/resumable.py": "the rows of its own that were not finished",
    "config/starter.py": "writes a new file",
    "data/manifest.py": "a CSV file that the user names",
    "data/walk.py": "the first bytes of images",
    "estimator.py": "images that the user names, and its own temporary run",
    "exporter/compact.py": "the estimator's own temporary run",
    "exporter/formats.py": "the exported script, which stands alone",
    "from_python.py": "images that the user names",
    "model/graph.py": "Keras's own source",
    "parts/compose.py": "a part's own keys",
    "parts/datasets.py": "a file of scikit-learn's",
    "reports/figures.py": "tlkit's own style sheets",
    "reports/page.py": "tlkit's own style sheets",
    "reports/preview.py": "images that the user names",
    "reports/svg.py": "tlkit's own style sheets",
    "runfolder/folder.py": "through `system/untrusted.py`",
    "runfolder/kept_outputs.py": "writes a new file, or goes on with its own",
    "sweeps/processes.py": "what the worker says",
    "sweeps/worker.py": "what the sweep says",
    "system/cache.py": "writes new files",
    "system/files.py": "syncs what was written",
    "system/keras.py": "the system's own files",
    "system/lease.py": "makes new files; the system's own files",
    "system/lock.py": "locks, never through a link",
    "system/limits.py": "the system's own files",
    "system/parallel.py": "what processes of its own say",
    "system/stdio.py": "the null device",
    "system/untrusted.py": "the one place",
    "train/feature_key.py": "a part's own source",
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


# What reads a whole model, which may be code or cost anything.
READS_MODELS = re.compile(
    r"onnx\.load|InferenceSession|saved_model\.load|[^_]load_model\(HERE|TFSMLayer|runpy\."
    r"|torch\.load|pickle\.load"
)
OF_MODELS = {
    "exporter/export.py": "the script of the export that is being written",
    "exporter/formats.py": "the ONNX file that was just written; the text of that script",
}


def test_no_model_is_read_but_one_just_written() -> None:
    readers = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if READS_MODELS.search(path.read_text(encoding="utf-8"))
    }
    assert readers == OF_MODELS.keys()
