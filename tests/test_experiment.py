"""Reading experiment files: what can be wrong with a file, overrides, references."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import tlkit
from tlkit.config.experiment import Experiment, Fit, PublishedResult
from tlkit.config.structure import structure, unstructure
from tlkit.config.toml import load_experiment, parse_assignment
from tlkit.parts.datasets import Manifest
from tlkit.parts.freezes import HeadOnly, TrainRange
from tlkit.parts.heads import Pooled
from tlkit.parts.shapes import Shapes
from tlkit.system.errors import ConfigError, FieldError

SHAPES = 'data.name = "shapes"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment file with a table, a list of tables and a part that is not the default."""
    path = tmp_path / "study.toml"
    path.write_text(
        """
        seed = 1
        [data]
        name = "shapes"
        [freeze]
        name = "layer_range"
        train = "19-22"
        [fit]
        epochs = 2
        [[reference]]
        source = "paper"
        """
    )
    return path


class TestFile:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "data: missing; a table with a name is required"),
            (b"\xff\xfed\x00", r"must be UTF-8, got byte 0xff at 0$"),
            (b"seed = 1 # \xe9", r"must be UTF-8, got byte 0xe9 at 11$"),
            (b"seed = \n", r"not valid TOML: Invalid value \(at line 1, column 8\)$"),
            (b"seed = 1\nseed = 2\n", r"not valid TOML: Cannot overwrite a value \(at line 2"),
            (b"\0", "not valid TOML: Invalid statement"),
            (
                b'data = "D:\\data"',
                r"not valid TOML: .*; write Windows paths in single quotes: 'D:",
            ),
            (b'data = "C:\\Users"', r"not valid TOML: .*; write Windows paths in single quotes"),
            (
                b'data = { name = "folder", path = "D:\\new\\tests" }',
                r"data\.path: has a control character, got 'D:\\new\\tests'; in TOML, write W",
            ),
            (b"#" * (1 << 20) + b"#", "an experiment file has at most 1 MiB$"),
            (
                b"a." * 50_000 + b"a = 1",
                "a key has at most 100 parts, got one that begins",
            ),
            (b"seed = " + b"[" * 5000 + b"]" * 5000, "not valid TOML: nested too deeply$"),
            (b"seed = 1" + b"0" * 5000, "not valid TOML: Exceeds the limit"),
        ],
        ids=[
            "empty",
            "UTF-16",
            "Latin-1",
            "syntax error",
            "key twice",
            "NUL",
            "Windows path",
            "Windows users",
            "Windows path with a new line",
            "over 1 MiB",
            "a key without end",
            "deep nesting",
            "integer of 5,001 digits",
        ],
    )
    def test_a_file_that_cannot_be_read_is_named_with_the_reason(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "broken.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"(?m)^{path}: {message}"):
            load_experiment(path)

    @pytest.mark.parametrize("line", ["a" * (1 << 19), "a " * (1 << 18), "a.b " * (1 << 17)])
    def test_other_long_lines_are_looked_at_in_no_time(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "long.toml"
        path.write_text(line)
        begun = time.perf_counter()
        with pytest.raises(ConfigError, match="not valid TOML"):
            load_experiment(path)
        assert time.perf_counter() - begun < 5

    def test_a_path_without_a_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
            load_experiment(tmp_path / "none.toml")
        with pytest.raises(ConfigError, match=rf"^{tmp_path}: cannot be read: Is a directory$"):
            load_experiment(tmp_path)

    @pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
    def test_a_byte_order_mark_and_windows_line_ends_are_accepted(
        self, tmp_path: Path, head: bytes
    ) -> None:
        path = tmp_path / "study.toml"
        path.write_bytes(head + SHAPES.replace("\n", "\r\n").encode() + b"fit.epochs = 3\r\n")
        assert load_experiment(path) == Experiment(data=Shapes(), fit=Fit(epochs=3))

    def test_one_mebibyte_is_just_allowed(self, tmp_path: Path) -> None:
        path = tmp_path / "study.toml"
        path.write_text(SHAPES + "#" * ((1 << 20) - len(SHAPES)))
        assert load_experiment(path).data == Shapes()

    def test_a_tilde_is_a_home_only_at_the_beginning(self, tmp_path: Path) -> None:
        path = tmp_path / "study.toml"
        for text, expected in (("~/x.csv", Path.home() / "x.csv"), ("./~x", tmp_path / "~x")):
            path.write_text(f'[data]\nname = "manifest"\npath = "{text}"\n')
            experiment = load_experiment(path)
            assert experiment.data == Manifest(path=expected)
            table = unstructure(experiment, base=tmp_path)
            again = structure(Experiment, table, base=tmp_path).data
            assert isinstance(again, Manifest)
            assert again.path.resolve() == expected

    def test_relative_paths_are_relative_to_the_file_wherever_it_is_read_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "study").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "study" / "one.toml").write_text(
            '[data]\nname = "manifest"\npath = "../data.csv"\n[backbone]\nweights = "w.h5"\n'
        )
        for folder, name in (("study", "one.toml"), ("elsewhere", "../study/one.toml")):
            monkeypatch.chdir(tmp_path / folder)
            experiment = load_experiment(name)
            assert isinstance(experiment.data, Manifest)
            assert experiment.data.path.resolve() == tmp_path / "data.csv"
            (weights,) = experiment.backbone.sources
            assert Path(weights).resolve() == tmp_path / "study" / "w.h5"

    def test_an_experiment_knows_where_it_is_from(self, file: Path) -> None:
        experiment = load_experiment(file, ["seed=2"])
        assert (experiment.name, experiment.base) == ("study", file.parent)
        assert experiment.origin is not None
        assert experiment.origin.text == file.read_text()
        assert experiment.origin.overrides == ("seed=2",)

    def test_where_it_is_from_does_not_make_it_another_experiment(self, file: Path) -> None:
        experiment = load_experiment(file)
        assert experiment == evolve(experiment, origin=None)
        assert Experiment(data=Shapes()).name == "experiment"


class TestOverrides:
    @pytest.mark.parametrize(
        ("overrides", "changed"),
        [
            (["fit.epochs=3"], {"fit": Fit(epochs=3)}),
            (["  fit . epochs = 3  # why"], {"fit": Fit(epochs=3)}),
            (["fit.batch_size=4"], {"fit": Fit(epochs=2, batch_size=4)}),
            (["fit={batch_size=4}"], {"fit": Fit(batch_size=4)}),  # a table replaces a table
            (["fit={batch_size=4}", "fit.epochs=5"], {"fit": Fit(epochs=5, batch_size=4)}),
            (["seed=7", "fit.epochs=3"], {"seed": 7, "fit": Fit(epochs=3)}),
            (['freeze={name="head_only"}'], {"freeze": HeadOnly()}),
            (['head.name="pooled"', "head.units=[8]"], {"head": Pooled(units=(8,))}),
            (['"head".\'name\'="pooled"'], {"head": Pooled()}),
            (["reference=[]"], {"reference": ()}),
        ],
    )
    def test_an_override_changes_its_key_alone(
        self, file: Path, overrides: list[str], changed: dict[str, Any]
    ) -> None:
        assert load_experiment(file, overrides) == evolve(load_experiment(file), **changed)

    def test_an_override_names_keys_that_the_file_has_not(self, file: Path) -> None:
        train = load_experiment(file, ['class_weights.name="balanced"']).class_weights
        assert train == tlkit.registries.class_weights.get("balanced")()

    @pytest.mark.parametrize(
        "override",
        [
            *("", "fit.epochs", "=3", "fit.epochs=", "head.name=[two words"),
            *("[fit]x", "seed=" + "[" * 5000, "seed=1" + "0" * 5000),
        ],
    )
    def test_an_override_is_one_toml_assignment_with_strings_in_quotes(
        self, file: Path, override: str
    ) -> None:
        with pytest.raises(ConfigError, match=r"^--set .*: expected key=value in TOML, with str"):
            load_experiment(file, [override])

    @pytest.mark.parametrize(
        ("override", "written"),
        [
            ("data.path=../flat", "'data.path=\"../flat\"'"),
            ("head.name=two words", "'head.name=\"two words\"'"),
            ("phase[1].freeze.train=../x", "'phase[1].freeze.train=\"../x\"'"),
            ("data.path=D:\\new", "'data.path=\"D:\\\\new\"'"),
            ("data.path=/a'b", "'data.path=\"/a'\"'\"'b\"'"),
        ],
    )
    def test_a_text_without_quotes_is_shown_with_them(
        self, file: Path, override: str, written: str
    ) -> None:
        message = f"^--set .*: a text needs quotes, .*: --set {re.escape(written)}$"
        with pytest.raises(ConfigError, match=message):
            load_experiment(file, [override])
        (argument,) = shlex.split(written)
        assert parse_assignment(argument)[1] == override.partition("=")[2]

    @pytest.mark.parametrize(
        ("override", "quoted"),
        [
            ("head.name=pooled", 'head.name="pooled"'),
            ("freeze.train = 19-22", 'freeze.train="19-22"'),
            ("freeze.train=19–22", 'freeze.train="19–22"'),
            ("data.path=my/x-rays", 'data.path="my/x-rays"'),
            ("fit.epochs=3", "fit.epochs=3"),
            ("fit.cache=true", "fit.cache=true"),
            ("fit.epochs=three", 'fit.epochs="three"'),
        ],
    )
    def test_a_word_needs_no_quotes(self, override: str, quoted: str) -> None:
        assert parse_assignment(override) == parse_assignment(quoted)

    def test_a_quoted_key_may_hold_an_equals_sign(self, file: Path) -> None:
        weights = ["class_weights.name='fixed'", 'class_weights.weights."a=b" = 2']
        found: Any = load_experiment(file, [*weights, "class_weights.weights.c=1"]).class_weights
        assert found.weights == {"a=b": 2, "c": 1}

    @pytest.mark.parametrize(
        "override",
        [
            "# nothing",
            "seed=1\nfit.epochs=3",
            "fit.epochs=3\nfit.batch_size=4",
            "fit.epochs=3\n[head]\nname='pooled'",
            "[fit]\nepochs=3\nbatch_size=4",
            "[[reference]]\nsource='x'\naccuracy=1.0",
        ],
    )
    def test_an_override_cannot_smuggle_in_a_second_one(self, file: Path, override: str) -> None:
        with pytest.raises(ConfigError, match=r"^--set [\s\S]*: expected exactly one key=value$"):
            load_experiment(file, [override])

    @pytest.mark.parametrize(
        ("overrides", "problem"),
        [
            (["seed=2", "seed=3"], "--set seed=3: the key is set twice"),
            (["fit.epochs=2", "fit . epochs=2"], "--set fit . epochs=2: the key is set twice"),
            (["fit.epochs.a=3"], "--set fit.epochs.a=3: 'epochs' is not a table"),
            (["seed.a=3"], "--set seed.a=3: 'seed' is not a table"),
            (["reference.source='x'"], "--set reference.source='x': 'reference' is not a table"),
        ],
    )
    def test_overrides_that_contradict_each_other_or_the_file_are_refused(
        self, file: Path, overrides: list[str], problem: str
    ) -> None:
        with pytest.raises(ConfigError, match=r"^--set ") as raised:
            load_experiment(file, overrides)
        assert str(raised.value) == problem

    def test_an_override_that_another_one_would_undo_is_refused(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--set fit=\{batch_size=4\}: "):
            load_experiment(file, ["fit.epochs=3", "fit={batch_size=4}"])

    def test_every_wrong_override_is_told_at_once(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--set head=x y: .*\n--set seed\.a=1: "):
            load_experiment(file, ["seed.a=1", "head=x y"])

    def test_overridden_values_are_checked_like_the_files(self, file: Path) -> None:
        message = rf"^{file}: fit\.epochs: must be at least 1, got 0\n{file}: nope: unknown key"
        with pytest.raises(ConfigError, match=message):
            load_experiment(file, ["fit.epochs=0", "nope=1"])


class TestReferences:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"confusion": ((1, 2), (3,))}, r"^confusion: must be a square of counts, got "),
            ({"confusion": ((1, 2),)}, r"^confusion: must be a square of counts, got "),
            ({"confusion": ((1, -2), (3, 4))}, r"^confusion: must be a square of counts, got "),
            ({"accuracy": 1.01}, r"^accuracy: must be from 0 to 1, got 1\.01$"),
            ({"accuracy": -0.1}, r"^accuracy: must be from 0 to 1, got -0\.1$"),
            ({"accuracy": float("nan")}, r"^accuracy: must be from 0 to 1, got nan$"),
            ({"recall": {"covid-19": 90.3}}, r"^recall\.covid-19: must be from 0 to 1, got 90\.3$"),
            ({"precision": {"a": 1, "b": 2}}, r"^precision\.b: must be from 0 to 1, got 2$"),
        ],
    )
    def test_figures_that_cannot_be_are_refused(
        self, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(FieldError, match=message):
            PublishedResult(source="x", **settings)

    def test_a_wrong_figure_in_a_file_has_its_whole_path(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r": reference\[0\]\.recall\.a: must be from 0 to 1"):
            load_experiment(file, ["reference=[{source='x', recall={a=2}}]"])

    def test_limits_are_allowed(self) -> None:
        matrix = ((0, 1), (0, 0))
        reference = PublishedResult(source="x", confusion=matrix, accuracy=0, recall={"a": 1})
        assert reference.confusion == matrix


def test_the_example_study_is_read_as_it_is_meant() -> None:
    experiment = load_experiment(Path(__file__).parents[1] / "examples" / "covidx" / "exp3.toml")
    assert experiment.freeze == TrainRange(train=tlkit.LayerRange(19, 22))
    assert experiment.data.classes == ("normal", "pneumonia", "covid-19")
    assert experiment.backbone.sources == ("imagenet", "bsds500")
    assert experiment.reference[0].confusion == ((61, 36, 3), (3, 91, 6), (0, 3, 28))


def test_a_dict_is_read_as_a_file_is() -> None:
    table = {"data": {"name": "shapes"}, "fit": {"epochs": 2}, "head": {"name": "pooled"}}
    found = load_experiment(table, ["fit.epochs=3", "fit.batch_size=4"])
    assert (found.fit, found.head, found.data) == (Fit(epochs=3, batch_size=4), Pooled(), Shapes())
    assert table["fit"] == {"epochs": 2}
    with pytest.raises(ConfigError, match=r"^fit\.epoch: unknown key"):
        load_experiment({"data": {"name": "shapes"}, "fit": {"epoch": 2}})


def test_in_a_dict_a_part_may_stand_in_place_of_its_table() -> None:
    data, head = Shapes(train=9), Pooled(units=(3,))
    found = load_experiment({"data": data, "head": head})
    assert found.data is data
    assert found.head is head
    with pytest.raises(ConfigError, match=r"^head: expected a table with a name"):
        load_experiment({"data": data, "head": HeadOnly()})


def test_a_dict_names_files_with_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import attrs, tlkit\n"
        "@tlkit.registries.heads.register('mine_of_a_dict')\n"
        "@attrs.frozen(kw_only=True)\n"
        "class Mine(tlkit.parts.heads.Pooled):\n"
        "    'Mine.'\n"
    )
    table = {"data": {"name": "shapes"}, "plugins": {"modules": ["mine.py"]}}
    found = load_experiment({**table, "head": {"name": "mine_of_a_dict"}})
    assert type(found.head).__name__ == "Mine"
    assert len(found.plugins.sha256) == 1


def test_check_takes_a_file_a_dict_and_an_experiment(file: Path) -> None:
    given: dict[str, Any] = {
        "data": {"name": "shapes"},
        "freeze": {"name": "layer_range", "train": "19-22"},
    }
    plans = [
        tlkit.check(file, ["seed=0", "fit.epochs=3"]),
        tlkit.check(str(file), ["seed=0", "fit.epochs=3"]),
        tlkit.check(given, ["fit.epochs=3"]),
        tlkit.check(load_experiment(given, ["fit.epochs=3"])),
    ]
    assert all(plan == plans[0] for plan in plans)


@pytest.mark.parametrize("overrides", ["fit.epochs=3", {"fit.epochs": 3}], ids=str)
def test_overrides_are_a_list(overrides: Any) -> None:
    with pytest.raises(ConfigError, match=r"^overrides: must be a list such as \['fit"):
        tlkit.check({"data": {"name": "shapes"}}, overrides)


def test_a_finished_experiment_takes_no_overrides() -> None:
    experiment = load_experiment({"data": {"name": "shapes"}})
    with pytest.raises(ConfigError, match=r"^overrides: change a file or a dict; make another"):
        tlkit.check(experiment, ["fit.epochs=3"])
