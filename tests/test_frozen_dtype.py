"""A loaded run computes its frozen layers as they were computed in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fakes import small
from tests.pictures import picture
from typer.testing import CliRunner

import tlkit
from tlkit.cli.app import app
from tlkit.data.images import Reader
from tlkit.parts.datasets import load_splits


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tlkit.Run:
    """Return a run whose frozen layers computed in bfloat16."""
    for module in ("plan", "frozen_dtype"):
        monkeypatch.setattr(f"tlkit.train.{module}.has_bfloat16", lambda: True)
    file = tmp_path / "experiment.toml"
    file.write_text(small(), encoding="utf-8")
    changed = ['fit.frozen_dtype="bfloat16"', "fit.epochs=2", "fit.xla=false"]
    return tlkit.run(file, tmp_path / "run", overrides=changed)


def test_a_run_in_bfloat16_predicts_as_it_was_trained_or_in_float32_where_there_is_none(
    run: tlkit.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load_splits(run.experiment.data)
    rows = run.to_pandas("predictions").query("split == 'test'")
    said = rows[[f"p_{name}" for name in splits.classes]].to_numpy()
    reader = Reader(splits.read, run.experiment.backbone.image_size)
    pixels = np.stack([reader(example.path) for example in splits.test])
    classifier = tlkit.load(run.folder)
    assert classifier.notes == ()
    np.testing.assert_allclose(classifier.predict_proba(pixels), said, atol=1e-6)
    in_float32 = classifier.in_float32().predict_proba(pixels)
    assert 1e-5 < np.abs(in_float32 - said).max() < 0.02
    monkeypatch.setattr("tlkit.train.frozen_dtype.has_bfloat16", lambda: False)
    here = tlkit.load(run.folder)
    np.testing.assert_array_equal(here.predict_proba(pixels), in_float32)
    (note,) = here.notes
    assert note.startswith("fit.frozen_dtype: the frozen layers compute in float32, for this machi")


@pytest.mark.slow
def test_commands_say_once_that_a_run_in_bfloat16_computes_in_float32(
    run: tlkit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, label in enumerate(run.plan.classes):
        path = tmp_path / "images" / label / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(picture(number, 32)).save(path)
    images = str(tmp_path / "images")
    note = "note: fit.frozen_dtype: the frozen layers compute in float32, for this machine"
    commands = ["predict", str(run.folder), images], ["evaluate", str(run.folder), "--data", images]
    assert [CliRunner().invoke(app, command).stderr.count(note) for command in commands] == [0, 0]
    monkeypatch.setattr("tlkit.train.frozen_dtype.has_bfloat16", lambda: False)
    assert [CliRunner().invoke(app, command).stderr.count(note) for command in commands] == [1, 1]


@pytest.mark.slow
def test_an_export_of_it_computes_in_float32(run: tlkit.Run, tmp_path: Path) -> None:
    tlkit.export(run.folder, tmp_path / "exported", to="savedmodel")  # compares its probabilities
