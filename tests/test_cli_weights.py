"""`tlkit weights`: list, fetch, pack, verify."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app
from tlkit.cli.machine import _weights
from tlkit.parts.available import published_files

runner = CliRunner()


def test_list_names_what_is_here_and_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = published_files(tlkit.registries.backbones.get("resnet50"))["imagenet"].path  # type: ignore[union-attr]  # it is remote
    path.parent.mkdir()
    path.write_bytes(b"arrays")
    assert "resnet50" in runner.invoke(app, ["weights", "list"]).stdout
    found = json.loads(runner.invoke(app, ["weights", "list", "--json"]).stdout)
    assert {"name": "resnet50", "source": "imagenet", "image_size": 224} in found
    monkeypatch.setattr("tlkit.parts.available.available_backbones", lambda: ())
    assert "tlkit weights fetch" in runner.invoke(app, ["weights", "list"]).stdout


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("absent", r"absent: there is no such folder; name the folder that holds packed folders"),
        ("file", r"file: is not a folder; name the folder"),
        ("empty", r"empty: holds no packed folders; name the folder"),
        ("shelf", r"weights\.json: is not as tlkit writes it: .*; pack it again, or remove its"),
        ("shelf/bad", r"bad: is itself a packed folder; name the folder above it, .*shelf$"),
    ],
)
def test_a_broken_shelf_is_told(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "shelf" / "bad").mkdir(parents=True)
    (tmp_path / "shelf" / "bad" / "weights.json").write_text("{")
    monkeypatch.setenv("TLKIT_SHELF", str(tmp_path / name))
    told = runner.invoke(app, ["weights", "list"]).stderr.strip()
    assert re.match(f"note: TLKIT_SHELF: .*{fault}", told), told
    (finding,) = [found for found in _weights() if found.name == "TLKIT_SHELF"]
    assert finding.state == "problem"
    assert re.search(fault, f"{finding.value}; {finding.advice}")
    monkeypatch.delenv("TLKIT_SHELF")
    assert "TLKIT_SHELF" not in runner.invoke(app, ["weights", "list"]).stderr
    assert not [found for found in _weights() if found.name == "TLKIT_SHELF"]


def test_fetch_downloads_keras_file_and_refuses_what_nobody_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.weights.sources.download", lambda remote: tmp_path / remote.url[-9:])
    done = runner.invoke(app, ["weights", "fetch", "vgg16"])
    assert done.stdout.strip() == str(tmp_path / "_notop.h5")
    done = runner.invoke(app, ["weights", "fetch", "keras_hub"])
    assert "keras_hub: nobody publishes a file" in str(done.exception)


def test_pack_and_verify(tmp_path: Path) -> None:
    part = tlkit.registries.backbones.get("mobilenet")(weights="none", image_size=32)
    part.build().save_weights(tmp_path / "m.weights.h5")
    command = ["weights", "pack", "mobilenet", "--weights", str(tmp_path / "m.weights.h5")]
    command += ["--out", str(tmp_path / "out"), "--license", "Apache-2.0", "--set", "image_size=32"]
    done = runner.invoke(app, command)
    assert done.stdout.startswith(f"{tmp_path / 'out'}\nmobilenet, path, SHA-256 ")
    done = runner.invoke(app, ["weights", "verify", str(tmp_path / "out")])
    assert "mobilenet with path, as packed\nlicense: Apache-2.0\n" in done.stdout
    done = runner.invoke(app, ["weights", "verify", str(tmp_path / "out"), "--json"])
    assert json.loads(done.stdout)["backbone"] == "mobilenet"
    done = runner.invoke(app, command)
    assert "out: cannot be written" in str(done.exception)
