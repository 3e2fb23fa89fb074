"""What `bench/xrays.py` reads of a package: arrays, never code."""

from __future__ import annotations

import base64
import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bench import xrays

MANIFEST = (
    '[{paths:["group1-shard1of6"],weights:['
    '{name:"a/kernel",shape:[2,2],dtype:"float32",'
    'quantization:{min:-.5,scale:.25,dtype:"uint8"}},'
    '{name:"a/bias",shape:[1],dtype:"float32"}]}]'
)
CONTENT = bytes([0, 1, 2, 4]) + np.array([1.5], "<f4").tobytes()
EXPECTED = {"a/kernel": [[-0.5, -0.25], [0, 0.5]], "a/bias": [1.5]}


def package(folder: Path) -> Path:
    """Write a package with two arrays in six parts, wrapped in code as nsfwjs wraps them."""
    models = folder / "package" / "dist" / "models" / "inception_v3"
    models.mkdir(parents=True)
    model = f'!function(a){{if(!0)n.exports={{name:"weights",weightsManifest:{MANIFEST}}}}}();'
    (models / "model.min.js").write_text(model)
    for n in range(6):
        part = base64.b64encode(CONTENT[2 * n : 2 * n + 2]).decode()
        (models / f"group1-shard{n + 1}of6.min.js").write_text(f'f(){{e.exports="{part}"}}')
    return folder / "package"


def pin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = folder / "dist" / "models" / "inception_v3"
    files = [models / "model.min.js", *sorted(models.glob("group1-*"))]
    sha256 = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    monkeypatch.setattr(xrays, "NSFWJS", sha256)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1,-2.5,.5,-.5,1e3,2e-7,.25]", [1, -2.5, 0.5, -0.5, 1000, 2e-7, 0.25]),
        ("{a:!0,b_1:!1,c:null,d:[]}", {"a": True, "b_1": False, "c": None, "d": []}),
        (r'["!0 .5 a:{","\"x\\"]', ["!0 .5 a:{", '"x\\']),
        ("{a:1},{},[]]}});", {"a": 1}),
    ],
)
def test_a_literal_is_read(text: str, value: object) -> None:
    assert xrays.parse_literal(text) == value


@pytest.mark.parametrize("text", ["", "(1)", "[f(1)]", "{a:1"])
def test_nothing_but_a_literal_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        xrays.parse_literal(text)


def test_bytes_that_are_left_over_are_refused() -> None:
    with pytest.raises(SystemExit, match="take 8 bytes, but there are 9"):
        xrays.read_shards(xrays.parse_literal(MANIFEST), CONTENT + b"x")


def test_folder_and_archive_hold_the_same_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, archive = package(tmp_path), tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder, "package")
    pin(folder, monkeypatch)
    for path in (folder, archive):
        arrays = xrays.nsfwjs_arrays(path)
        assert {name: array.tolist() for name, array in arrays.items()} == EXPECTED


def test_a_package_that_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(tmp_path)
    pin(folder, monkeypatch)
    shard = folder / "dist" / "models" / "inception_v3" / "group1-shard3of6.min.js"
    shard.write_text(shard.read_text() + " ")
    with pytest.raises(SystemExit, match="has SHA-256"):
        xrays.nsfwjs_arrays(folder)


def test_a_fold_chooses_by_its_training_part_alone() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    rest = np.arange(90)
    telling = np.eye(3)[labels] + random.normal(0, 0.3, (120, 3))
    members = [random.normal(size=(120, 3)), telling, random.normal(size=(120, 3))]
    averages, bandwidths = [[0], [1], [2], [0, 1, 2]], (0.8, 1.6)
    groups = np.arange(120)
    relative = [xrays.distances(x, rest) for x in members]
    chosen = xrays.choose(relative, averages, bandwidths, labels, groups, rest)
    assert chosen.members == [1]
    labels[90:] = 0
    assert xrays.choose(relative, averages, bandwidths, labels, groups, rest) == chosen


def test_each_image_is_tested_once_by_what_its_fold_chose() -> None:
    labels = np.arange(60) % 2
    telling = labels[:, None] + np.random.default_rng(0).normal(0, 0.1, (60, 2))
    noise = np.random.default_rng(1).normal(size=(60, 2))
    predicted, chosen = xrays.cross_validate(
        [noise, telling], [[0], [1]], [0.8], labels, np.arange(60)
    )
    assert [choice.members for choice in chosen] == [[1]] * 5
    assert np.isnan(predicted[0]).all()
    assert (predicted[1].argmax(axis=1) == labels).all()
