"""A run that starts from another: what is taken, what is checked, and what is recorded."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.fakes import unseal
from typer.testing import CliRunner

import tlkit
from tlkit.cli.app import app
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import read_learned_before

pytestmark = pytest.mark.usefixtures("slim_vgg")

DATA = {"name": "shapes", "train": 4, "val": 3, "test": 3, "image_px": 32}
CLASSES = ("circle", "square", "triangle")


def study(**changed: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "data": DATA,
        "backbone": {"name": "vgg16", "weights": "none", "image_size": 32},
        "head": {"name": "pooled", "units": [4], "batch_norm": True, "dropout": 0.1},
        "freeze": {"name": "layer_names", "train": ["block5", "head"], "batch_norm": "head"},
        "fit": {"epochs": 1, "batch_size": 4, "xla": False},
    }
    for key, values in changed.items():
        table[key] = {**table.get(key, {}), **values}
    return table


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tlkit.run(study(), tmp_path_factory.mktemp("earlier") / "a").folder


def arrays(folder: Path, head: bool) -> dict[str, Any]:
    plan = json.loads((folder / "plan.json").read_text())
    names = {x["name"] for x in plan["layers"] if (x["block"] == "head") == head}
    return {
        name: array
        for name, array in load_file(folder / "weights.safetensors").items()
        if name[4:].rpartition("/")[0] in names
    }


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", ["", "weights.safetensors"])
def test_the_backbone_is_taken_and_the_head_is_new(name: str, first: Path, tmp_path: Path) -> None:
    said: list[str] = []
    callback = tlkit.Terminal()
    callback.say = said.append  # type: ignore[method-assign, assignment]  # to hear it
    table = study(
        backbone={"weights": str(first / name)},
        freeze={"name": "head_only"},
        head={"units": [5]},
    )
    del table["freeze"]["train"]
    run = tlkit.run(table, tmp_path / "b", callback=callback)
    assert equal(arrays(run.folder, head=False), arrays(first, head=False))
    assert not equal(arrays(run.folder, head=True), arrays(first, head=True))
    assert "weights: the backbone of the run a, which began with none" in said
    record = json.loads((run.folder / "metrics.json").read_text())["weights"]
    assert record["run"] == "a"
    assert record["file"] == "weights.safetensors"
    assert str(first.parent) not in json.dumps(record)
    report = (run.folder / "report.html").read_text()
    assert "the backbone of the run a, which began with none" in report
    assert "the backbone of the run a" in (run.folder / "MODEL_CARD.md").read_text()
    third = tlkit.run(study(backbone={"weights": str(run.folder)}), tmp_path / "c").folder
    record = json.loads((third / "metrics.json").read_text())["weights"]
    assert record["began_with"] == "the run a, which began with none"
    # What `a` has learned from counts; `b` held its backbone and took no images into it.
    for folder, images in ((run.folder, 7), (third, 7)):
        before = read_learned_before(RunFolder(folder))
        assert Counter(image.run for image in before) == {"a": images}
        assert all(len(image.sha256) == 64 and image.bits for image in before)


def test_the_head_is_taken_when_asked_for(first: Path, tmp_path: Path) -> None:
    table = study(
        backbone={"weights": str(first)},
        fit={"head_weights": str(first)},
        optimizer={"name": "sgd", "learning_rate": 1e-30},
    )
    said: list[str] = []
    callback = tlkit.Terminal()
    callback.say = said.append  # type: ignore[method-assign, assignment]  # to hear it
    run = tlkit.run(table, tmp_path / "b", callback=callback).folder
    statistics = ("moving_mean", "moving_variance")  # these follow the images at any rate
    for head in (True, False):
        ours, theirs = arrays(run, head), arrays(first, head)
        assert ours.keys() == theirs.keys()
        for name in ours:
            if not name.endswith(statistics):
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-20)
    assert "head: that of the run a" in said
    assert json.loads((run / "metrics.json").read_text())["weights"]["head_run"] == "a"
    assert "and the head of the run a" in (run / "MODEL_CARD.md").read_text()


def of(first: Path, **changed: Any) -> dict[str, Any]:
    return study(**{"backbone": {"weights": str(first)}, **changed})


@pytest.mark.slow
def test_a_member_of_a_joined_backbone_may_come_from_a_run(first: Path, tmp_path: Path) -> None:
    def joined(weights: Path) -> dict[str, Any]:
        members = [{"name": "vgg16", "weights": w} for w in (str(weights), "none")]
        table = study(freeze={"name": "head_only"}, head={"units": [], "batch_norm": False})
        table["backbone"] = {"name": "joined", "image_size": 32, "members": members}
        del table["freeze"]["train"]
        return table

    with pytest.raises(tlkit.WeightsError, match=r"^backbone\.weights: there is no file .*absent"):
        tlkit.check(joined(tmp_path / "absent"))
    run = tlkit.run(joined(first), tmp_path / "b").folder
    assert {image.run for image in read_learned_before(RunFolder(run))} == {"a"}


def test_a_check_sees_what_does_not_fit(first: Path, tmp_path: Path) -> None:
    assert tlkit.check(of(first, fit={"head_weights": str(first)})).classes == CLASSES
    other = {"weights": str(first), "name": "vgg19"}
    wrong: list[tuple[dict[str, Any], str]] = [
        (of(first, backbone=other), r"^backbone\.weights: .* has another backbone: 'block"),
        (of(tmp_path / "none"), r"^backbone\.weights: there is no file .*none"),
        (of(first, head={"units": [5]}, fit={"head_weights": str(first)}),
         r"^fit\.head_weights: .*a has another head: 'dense_1' with .* same \[head\] as that run"),
        (of(first, data={"classes": [*reversed(CLASSES)]}, fit={"head_weights": str(first)}),
         r"the head of .*a tells circle, square, triangle apart, these data have triangle, square"),
        (of(first, fit={"head_weights": str(tmp_path)}), r"^fit\.head_weights: there is no finis"),
    ]  # fmt: skip
    for table, message in wrong:
        with pytest.raises(tlkit.WeightsError, match=message):
            tlkit.check(table)
        with pytest.raises(tlkit.WeightsError, match=message):
            tlkit.run(table, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_an_unfinished_or_damaged_run_is_refused(first: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(tlkit.WeightsError, match=r"weights\.safetensors: has changed since it was"):
        tlkit.run(of(copy), tmp_path / "never")
    unseal(copy)
    (copy / "plan.json").write_text("{}")
    with pytest.raises(tlkit.WeightsError, match="copy: is not a run as tlkit writes it: 'layers'"):
        tlkit.check(of(copy))
    (copy / "metrics.json").unlink()
    with pytest.raises(tlkit.WeightsError, match="the run is not finished; finish it with tlkit r"):
        tlkit.check(of(copy))


def test_the_command_line_takes_a_folder(first: Path, tmp_path: Path) -> None:
    toml = tmp_path / "b.toml"
    toml.write_text(
        f'[data]\nname = "shapes"\n[backbone]\nweights = "{first}"\nimage_size = 32\n'
        '[head]\nname = "pooled"\n'
    )
    done = CliRunner().invoke(app, ["check", str(toml)])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["check", str(toml), "--set", 'backbone.name="vgg19"'])
    assert isinstance(done.exception, tlkit.WeightsError)
