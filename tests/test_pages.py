"""Reports of real runs: left by every run, and the same when they are written again."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fakes import unseal
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app
from tlkit.runfolder.folder import RunFolder

pytestmark = pytest.mark.usefixtures("slim_vgg")

STUDY = """
[data]
name = "folder"
path = "images"
mask_center = 0.5

[backbone]
weights = "none"
image_size = 32

[head]
name = "pooled"

[optimizer]
name = "adam"
learning_rate = 0.0

[fit]
epochs = 2
xla = false

[calibration]
min_recall = { light = 1.0 }

[card]
not_for = "Not for diagnosis."
"""
METRICS_WITHOUT_SCORES = """
{"evaluated_on": "test", "classes": ["dark"], "keep": "last", "epoch": 1, "test": {}}
"""
PAGES = ("report.html", "MODEL_CARD.md")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study of light and dark pictures."""
    top = tmp_path_factory.mktemp("study")
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 2), ("test", 4)):
        for label, low in (("dark", 0), ("light", 128)):
            (top / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(low, low + 128, (40, 32), np.uint8)
                Image.fromarray(pixels).save(top / f"images/{split}/{label}/{number}.png")
    (top / "study.toml").write_text(STUDY.replace("0.0", "1e-4"), encoding="utf-8")
    return tlkit.run(top / "study.toml", top / "runs" / "study-1").folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the study with its run."""
    shutil.copytree(finished.parent.parent, tmp_path / "study")
    return tmp_path / "study" / "runs" / "study-1"


def test_a_run_leaves_a_report_with_pictures_and_a_card(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert text.count("<img ") >= 8  # right or wrong, each of the test images is shown
    assert ">Explanations</h2>" in text
    assert "No images are shown" not in text
    assert "Not for diagnosis." in (finished / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_its_pictures_are_what_the_model_sees(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    for content in re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="test/', text):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"))
        assert pixels[12:20, 12:20].max() < 30 < pixels[:4].mean() + 30  # its middle is blacked out


def test_it_says_by_which_threshold_a_class_is_called(finished: Path) -> None:
    threshold = json.loads((finished / "calibration.json").read_text())["threshold"]["p"]
    said = f"predicted as light if its probability of that class is {100 * threshold:.1f} % or more"
    for name in PAGES:
        assert said in (finished / name).read_text(encoding="utf-8").replace("\\", "")


def test_written_again_they_are_the_same_bytes(copied: Path) -> None:
    before = [(copied / name).read_bytes() for name in PAGES]
    for name in PAGES:
        (copied / name).unlink()
    assert tlkit.report(copied) == tlkit.Report(copied / "report.html", "")
    assert [(copied / name).read_bytes() for name in PAGES] == before


def test_a_run_that_is_stopped_before_its_pages_gets_the_same_ones_later(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = RunFolder.finish

    def stopped(folder: RunFolder, metrics: Any) -> None:
        finish(folder, metrics)
        os.kill(os.getpid(), signal.SIGTERM)

    run = copied.parent / "study-2"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", stopped)
        with pytest.raises(tlkit.Interrupted, match=r"^stopped after epoch 2 of 2; continue"):
            tlkit.run(copied.parent.parent / "study.toml", run)
    assert not any((run / name).exists() for name in PAGES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (copied.parent.parent / "images").rename(tmp_path / "images")
    assert tlkit.resume(run, data=tmp_path / "images") is None
    for name in PAGES:
        assert (run / name).read_bytes() == (copied / name).read_bytes()
    assert {path.name for path in run.iterdir()} == {path.name for path in copied.iterdir()}


def test_the_images_of_a_list_are_found_where_its_root_was(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copied.parent.parent
    images = sorted((study / "images").rglob("*.png"))
    rows = [f"{x.relative_to(study / 'images')},{x.parts[-2]},{x.parts[-3]}" for x in images]
    (study / "list.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    text = (study / "study.toml").read_text(encoding="utf-8").replace('"folder"', '"manifest"')
    text = text.replace('"images"', '"list.csv"\nroot = "images"')
    (study / "listed.toml").write_text(text, encoding="utf-8")
    run = tlkit.run(study / "listed.toml", study / "runs" / "listed").folder
    before = (run / "report.html").read_bytes()
    assert b"data:image/" in before
    for place in (study, run):
        monkeypatch.chdir(place)
        tlkit.report(run)
        assert (run / "report.html").read_bytes() == before


def test_without_the_images_the_report_says_so_and_is_whole_otherwise(copied: Path) -> None:
    images = copied.parent.parent / "images"
    images.rename(images.with_name("elsewhere"))
    missing = tlkit.report(copied).note
    assert "give the images' new place with --data" in missing
    text = (copied / "report.html").read_text(encoding="utf-8")
    assert "No images are shown" in text
    assert "<img" not in text
    assert ">Results</h2>" in text
    written = tlkit.report(copied, data=images.with_name("elsewhere"))
    page, missing = written.path, written.note
    assert missing == ""
    assert "<img" in page.read_text(encoding="utf-8")


def test_images_that_have_changed_are_not_shown(copied: Path) -> None:
    for path in (copied.parent.parent / "images" / "test").rglob("*.png"):
        Image.new("L", (32, 32), 7).save(path)
    missing = tlkit.report(copied).note
    assert "has changed since the run started" in missing


def test_without_the_weights_there_is_a_report(copied: Path) -> None:
    (copied / "weights.safetensors").unlink()
    missing = tlkit.report(copied).note
    assert "weights.safetensors" in missing


@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "predictions.csv", "plan.json"])
def test_a_folder_that_is_not_whole_is_refused(name: str, copied: Path) -> None:
    before = (copied / "report.html").read_bytes()
    (copied / name).unlink()
    with pytest.raises(tlkit.RunFolderError, match=re.escape(name.partition(".")[0])):
        tlkit.report(copied)
    assert (copied / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "{}", "classes: missing"),
        ("metrics.json", METRICS_WITHOUT_SCORES, r"test\.accuracy: missing"),
        ("plan.json", "[]", r"expected a table, got \[\]"),
        (
            "experiment.json",
            '{"reference": [{"nothing": 1}]}',
            r"reference\[0\]\.nothing: unk",
        ),
        ("history.csv", "epoch,stage\n1,x\n", "line 2: is not as tlkit writes it: inv"),
        (
            "predictions.csv",
            "path,label,predicted,split,p_dark\na,b,c,test,x\n",
            "line 2: is not as",
        ),
        ("manifest.csv", "path,label\na,b\n", "has no column 'split'"),
        ("environment.json", "nonsense", "cannot be read: "),
    ],
)
def test_a_damaged_file_is_an_error_with_its_name_and_key(
    name: str, text: str, message: str, copied: Path
) -> None:
    unseal(copied)
    (copied / name).write_text(text, encoding="utf-8")
    with pytest.raises(tlkit.RunFolderError, match=rf"/{re.escape(name)}: {message}"):
        tlkit.report(copied)


def test_a_folder_that_names_code_is_shown_and_the_code_is_not_run(copied: Path) -> None:
    table = json.loads((copied / "experiment.json").read_text(encoding="utf-8"))
    table["plugins"] = {"modules": ["evil.py"], "sha256": ["0" * 64]}
    unseal(copied)
    (copied / "experiment.json").write_text(json.dumps(table), encoding="utf-8")
    (copied / "evil.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    written = tlkit.report(copied)
    page, missing = written.path, written.note
    assert missing == ""  # the backbone and the head are tlkit's; nothing else is needed
    assert ">Results</h2>" in page.read_text(encoding="utf-8")


def test_the_command_says_where_the_pages_are(copied: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(copied)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"report: {copied / 'report.html'}",
        f"model card: {copied / 'MODEL_CARD.md'}",
    ]
    (copied / "weights.safetensors").unlink()
    done = CliRunner().invoke(app, ["report", str(copied)])
    assert done.stderr.startswith("note: no images in the report: ")


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "keras_cv"):
    sys.modules[name] = None
from tlkit.cli import main
main()
"""


def test_reports_without_pictures_and_comparisons_do_not_import_tensorflow(copied: Path) -> None:
    images = copied.parent.parent / "images"
    images.rename(images.with_name("elsewhere"))
    for arguments in (["report", str(copied)], ["compare", str(copied), str(copied)]):
        command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "No images are shown" in (copied / "report.html").read_text(encoding="utf-8")
