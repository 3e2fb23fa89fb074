"""The strict structurer: every wrong value is named with its key path, its rule and what it is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import fields, frozen

from tlkit.config.experiment import Experiment, Fit
from tlkit.config.structure import structure, unstructure, with_new_names
from tlkit.config.toml import load_experiment
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.datasets import Manifest
from tlkit.parts.freezes import TrainRange
from tlkit.parts.heads import FlattenDense, Pooled
from tlkit.parts.kinds import registries
from tlkit.system.errors import ConfigError, PartError, RenamedWarning

FIT = ", ".join(sorted(field.name for field in fields(Fit)))
BACKBONES = ", ".join(registries.backbones.names())
TABLES = (
    "augmentation, backbone, calibration, card, class_weights, data, fit, freeze, head, loss, "
    "optimizer, phase, plugins, reference, schedule, schema, seed, track"
)


def read(toml: str) -> Experiment:
    return structure(Experiment, tomllib.loads(toml))


def problems_in(toml: str) -> list[str]:
    with pytest.raises(ConfigError, match=r"\S") as raised:
        read(toml)
    return [str(problem) for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        # what is not an integer
        ("seed = true", "seed: expected an integer, got True"),
        ("seed = 12.0", "seed: expected an integer, got 12.0"),
        ('seed = "12"', "seed: expected an integer, got '12'"),
        ("seed = nan", "seed: expected an integer, got nan"),
        ("seed = [1]", "seed: expected an integer, got [1]"),
        ("seed = 2026-11-23", "seed: expected an integer, got datetime.date(2026, 11, 23)"),
        ("head.units = [8, true]", "head.units[1]: expected an integer, got True"),
        ("head.units = [[8]]", "head.units[0]: expected an integer, got [8]"),
        # what is not a finite number
        (
            'optimizer.learning_rate = "1e-3"',
            "optimizer.learning_rate: expected a number, got '1e-3'",
        ),
        ("optimizer.learning_rate = true", "optimizer.learning_rate: expected a number, got True"),
        (
            "optimizer.learning_rate = nan",
            "optimizer.learning_rate: must be a finite number, got nan",
        ),
        (
            "optimizer.learning_rate = inf",
            "optimizer.learning_rate: must be a finite number, got inf",
        ),
        # other scalars
        ("fit.xla = 1", "fit.xla: expected true or false, got 1"),
        ('fit.xla = "true"', "fit.xla: expected true or false, got 'true'"),
        ('data = {name = "manifest", path = 3}', "data.path: expected a path, got 3"),
        ('data = {name = "manifest", path = ""}', "data.path: is empty"),
        # choices
        (
            'backbone.preprocess = "unite"',
            "backbone.preprocess: expected 'native' or 'unit', got 'unite'; did you mean 'unit'?",
        ),
        ("backbone.preprocess = 1", "backbone.preprocess: expected 'native' or 'unit', got 1"),
        ("schema = 2", "schema: expected 1, got 2"),
        ("schema = true", "schema: expected 1, got True"),
        ('schema = "1"', "schema: expected 1, got '1'"),
        # lists and tables
        ("head.units = 8", "head.units: expected a list, got 8"),
        (
            'freeze = {name = "layer_names", train = "head"}',
            "freeze.train: expected a list, got 'head'",
        ),
        ("fit = 3", "fit: expected a table, got 3"),
        (
            'class_weights = {name = "fixed", weights = [1]}',
            "class_weights.weights: expected a table, got [1]",
        ),
        (
            'class_weights = {name = "fixed", weights = {normal = 1, covid-19 = "12"}}',
            "class_weights.weights.covid-19: expected a number, got '12'",
        ),
        (
            'backbone.weights = ["imagenet", 3]',
            "backbone.weights[1]: expected 'imagenet' or 'bsds500' or 'none' or a path, got 3",
        ),
        ("backbone.weights = []", "backbone.weights: needs at least 1, got 0"),
        # tables of tables
        ('reference = {source = "x"}', "reference: expected a list, got {'source': 'x'}"),
        (
            '[[reference]]\nsource = "x"\n[[reference]]\nsource = 3',
            "reference[1].source: expected a string, got 3",
        ),
        (
            '[[reference]]\nsource = "x"\nconfusion = [[1, 2], [3, 4.0]]',
            "reference[0].confusion[1][1]: expected an integer, got 4.0",
        ),
        # missing
        ("[[reference]]", "reference[0].source: missing; a string is required"),
        ('freeze.name = "layer_range"', "freeze.train: missing; a string is required"),
        ('data.name = "manifest"', "data.path: missing; a path is required"),
        # unknown keys
        ("sede = 1", f"sede: unknown key; did you mean 'seed'? known: {TABLES}"),
        ("origin = 1", f"origin: unknown key; known: {TABLES}"),
        (
            "fit.bath_size = 3",
            f"fit.bath_size: unknown key; did you mean 'batch_size'? known: {FIT}",
        ),
        ("fit.zzz = 3", f"fit.zzz: unknown key; known: {FIT}"),
        ("class_weights.weights = 1", "class_weights.weights: unknown key; known: name"),
        # parts
        (
            'backbone.name = "vvg16"',
            f"backbone.name: no backbone named 'vvg16'; did you mean 'vgg16'? known: {BACKBONES}",
        ),
        ("backbone.name = 16", f"backbone.name: expected a string, got 16; known: {BACKBONES}"),
        ("backbone = 16", "backbone: expected a table with a name, got 16"),
        ("data = {}", "data.name: missing; known: digits, folder, manifest, shapes"),
        # rules of single keys
        ("fit.epochs = 0", "fit.epochs: must be at least 1, got 0"),
        ("backbone.image_size = 31", "backbone.image_size: must be at least 32, got 31"),
        (
            "optimizer.learning_rate = 0",
            "optimizer.learning_rate: must be above 0, got 0.0",
        ),
        (
            'head = {name = "pooled", dropout = 1}',
            "head.dropout: must be at least 0 and below 1, got 1.0",
        ),
        (
            'class_weights = {name = "fixed", weights = {a = 1, b = 0}}',
            "class_weights.weights: a weight must be finite and above 0, got 'b' = 0.0",
        ),
        (
            'freeze = {name = "layer_range", train = "0-3"}',
            "freeze.train: layer 0 is the input, the first layer is 1",
        ),
        (
            'freeze = {name = "layer_names", train = []}',
            "freeze.train: at least one name is needed and none may be empty, got []",
        ),
        (
            'data = {name = "shapes", classes = ["normal"]}',
            "data.classes: at least two classes are needed, got ['normal']",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_path(toml: str, problem: str) -> None:
    if "data" not in tomllib.loads(toml):
        toml = f'data.name = "shapes"\n{toml}'
    assert problems_in(toml) == [problem]


def test_the_data_table_is_needed() -> None:
    parts = "digits, folder, manifest, shapes"
    needed = f"data: missing; a table with a name is required, one of {parts}"
    assert problems_in("") == [needed]


def test_every_problem_is_told_at_once_sorted_by_path() -> None:
    toml = """
    seed = "x"
    sede = 1
    data.name = "shapes"
    fit = {xla = 0, epochs = 0}
    backbone = {name = "zzz", image_size = 0}
    """
    assert problems_in(toml) == [
        f"backbone.name: no backbone named 'zzz'; known: {BACKBONES}",
        "fit.epochs: must be at least 1, got 0",
        "fit.xla: expected true or false, got 0",
        f"sede: unknown key; did you mean 'seed'? known: {TABLES}",
        "seed: expected an integer, got 'x'",
    ]


@pytest.mark.parametrize(
    ("toml", "path"),
    [
        (f"fit.epochs = 1{'0' * 400}", "fit.epochs"),
        (f"optimizer.learning_rate = 1{'0' * 400}", "optimizer.learning_rate"),
        (f"seed{'.a' * 3000} = 1", "seed"),
        ('data = {name = "manifest", path = "~no_such_user/images.csv"}', "data.path"),
    ],
    ids=["integer beyond float", "float beyond float", "nested too deep to show", "no such user"],
)
def test_what_python_itself_cannot_handle_is_an_ordinary_problem(toml: str, path: str) -> None:
    if "data" not in tomllib.loads(toml):
        toml = f'data.name = "shapes"\n{toml}'
    with pytest.raises(ConfigError, match=f"^{path}: ") as raised:
        read(toml)
    assert [problem.path for problem in raised.value.problems] == [path]


def test_a_problem_is_one_line_whatever_the_key_is_called() -> None:
    toml = 'data.name = "shapes"\n"a\\nb" = 1'
    assert "\n" not in problems_in(toml)[0]


def test_the_source_stands_before_every_problem() -> None:
    table = {"seed": "x", "data": {"name": "shapes", "train": 0}}
    with pytest.raises(ConfigError, match=r"\Aa\.toml: data\.train: .*\na\.toml: seed: .*\Z"):
        structure(Experiment, table, source="a.toml")


def test_an_integer_is_taken_for_a_number_and_becomes_one() -> None:
    rate = read('data.name = "shapes"\noptimizer.learning_rate = 1').optimizer.learning_rate
    assert (rate, type(rate)) == (1.0, float)


def test_a_path_from_python_is_one(tmp_path: Path) -> None:
    found = structure(Manifest, {"path": tmp_path / "a.csv"}, base=Path("elsewhere"))
    assert found.path == tmp_path / "a.csv"
    assert structure(VGG16, {"weights": Path("runs/1")}).weights == Path("runs/1")


def test_what_is_left_out_has_its_default() -> None:
    experiment = read('data.name = "shapes"\nhead.units = [8]\nbackbone = {}')
    assert experiment.head == FlattenDense(units=(8,))
    assert experiment.backbone == VGG16()


def test_paths_are_relative_to_the_base_and_words_are_no_paths() -> None:
    table = {
        "data": {"name": "manifest", "path": "a/b.csv"},
        "backbone": {"weights": ["imagenet", "w.h5", "/x/w.h5"]},
    }
    experiment = structure(Experiment, table, base=Path("study"))
    assert experiment.data == Manifest(path=Path("study/a/b.csv"))
    assert experiment.backbone.weights == ("imagenet", Path("study/w.h5"), Path("/x/w.h5"))


def test_unstructuring_writes_out_every_default_and_leaves_out_what_is_unset() -> None:
    table = unstructure(read('data.name = "shapes"'))
    assert table["schema"] == 1
    assert table["head"] == {"name": "flatten_dense", "units": [1024, 1024]}
    assert "classes" not in table["data"]
    assert "origin" not in table


def test_unstructuring_writes_paths_relative_to_the_base() -> None:
    table = {"data": {"name": "manifest", "path": "../b.csv"}, "backbone": {"weights": "w.h5"}}
    base = Path("/studies/one")
    again = unstructure(structure(Experiment, table, base=base), base=base)
    assert again["data"]["path"] == "../b.csv"
    assert again["backbone"]["weights"] == "w.h5"


def test_a_weights_file_called_like_a_source_stays_a_file() -> None:
    backbone = VGG16(weights=Path("imagenet"))
    assert structure(VGG16, unstructure(backbone)) == backbone


def test_a_range_is_written_as_it_is_read() -> None:
    policy: Any = structure(TrainRange, {"train": "19–"})
    assert unstructure(policy) == {"train": "19-", "batch_norm": "inference"}


def test_a_part_that_is_not_registered_cannot_be_written_out() -> None:
    @frozen(kw_only=True)
    class Homeless(Pooled):
        """Nobody registered it."""

    with pytest.raises(PartError, match=r"^head: .*Homeless is not registered; register it first$"):
        unstructure(Homeless(), registry=registries.heads)


def test_a_field_of_a_type_that_toml_has_not_is_the_authors_mistake() -> None:
    @frozen
    class Strange:
        key: complex

    with pytest.raises(PartError, match=r"Strange: the key key cannot have the type complex; what"):
        structure(Strange, {"key": 1})


OLD_NAMES = {
    "data.occlude_centre=0.5": "data.mask_center",
    "data.balance_twice=true": "data.allow_double_balancing",
    "data.per_class=3": "data.max_per_class",
    'fit.best_by="val_accuracy"': "fit.monitor",
    'card.licence="MIT"': "card.license",
}


@pytest.mark.parametrize("expression", OLD_NAMES)
def test_an_old_name_of_a_key_works_with_a_warning(tmp_path: Path, expression: str) -> None:
    old, _, value = expression.partition("=")
    new = OLD_NAMES[expression]
    file = tmp_path / "study.toml"
    file.write_text('data.name = "shapes"')
    with pytest.warns(RenamedWarning, match=rf"^--set {old}: is now called {new}$"):
        from_set = load_experiment(file, [expression])
    file.write_text(f'data.name = "shapes"\n{expression}\n')
    with pytest.warns(RenamedWarning, match=rf"study\.toml: {old}: is now called {new}$"):
        from_file = load_experiment(file)
    assert (
        from_set == from_file == load_experiment({"data": {"name": "shapes"}}, [f"{new}={value}"])
    )
    # --set replaces what the file says, whichever name each of them uses
    assert load_experiment(file, [f"{new}={value}"]) == from_file
    file.write_text(f'data.name = "shapes"\n{new}={value}\n')
    with pytest.warns(RenamedWarning):
        assert load_experiment(file, [expression]) == from_file


def test_a_key_under_both_its_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('data = {name = "shapes", per_class = 3, max_per_class = 3}')
    problem = r"data\.per_class: is now called max_per_class, which is set too; delete it$"
    with pytest.warns(RenamedWarning), pytest.raises(ConfigError, match=problem):
        load_experiment(file)
    file.write_text('data.name = "shapes"')
    with pytest.raises(ConfigError, match="the key is set twice"):
        load_experiment(file, ["data.per_class=3", "data.max_per_class=3"])


def test_tlkits_own_records_with_old_names_are_read_without_a_warning() -> None:
    table = {"data": {"name": "shapes", "per_class": 3}, "fit": {"best_by": "val_accuracy"}}
    experiment = structure(Experiment, table, own_record=True)
    assert (experiment.data.max_per_class, experiment.fit.monitor) == (3, "val_accuracy")
    assert with_new_names(Experiment, table) == {
        "data": {"name": "shapes", "max_per_class": 3},
        "fit": {"monitor": "val_accuracy"},
    }
