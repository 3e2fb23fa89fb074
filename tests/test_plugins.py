"""A study's own parts: files that an experiment lists, and that no run folder can make run."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import small, unseal

import tlkit
from tlkit.cli import main
from tlkit.config.structure import unstructure
from tlkit.config.toml import load_experiment
from tlkit.parts.kinds import registries
from tlkit.parts.shapes import Shapes
from tlkit.train.feature_key import FeatureKey

pytestmark = pytest.mark.usefixtures("slim_vgg")

MINE = """
from __future__ import annotations

from collections.abc import Mapping

import attrs
import tlkit


@tlkit.registries.class_weights.register("mine")
@attrs.frozen(kw_only=True)
class Mine(tlkit.ClassWeights):
    \"\"\"Weigh every class alike.

    Attributes:
        weight: The weight.
    \"\"\"

    weight: float = 2.0

    def for_counts(self, counts: Mapping[str, int]) -> dict[str, float]:
        return dict.fromkeys(counts, self.weight)
"""
HEAD = """
import attrs
import tlkit
from tlkit.parts.heads import Pooled


@tlkit.registries.heads.register("own")
@attrs.frozen(kw_only=True)
class Own(Pooled):
    \"\"\"A head of one's own.\"\"\"
"""
DARKEN = """
import attrs
import tlkit


@tlkit.registries.augmentations.register("darken")
@attrs.frozen(kw_only=True)
class Darken(tlkit.Augmentation):
    \"\"\"Make every picture darker.\"\"\"

    def augment(self, images, keys):
        return images * 0.5
"""
STUDY = f"""
[plugins]
modules = ["mine.py"]

{small()}

[class_weights]
name = "mine"
weight = 3

[fit]
epochs = 1
xla = false
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An experiment file with a part in a file beside it."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study and its run, `run` beside the experiment's file."""
    top = tmp_path_factory.mktemp("plugins")
    (top / "mine.py").write_text(MINE)
    (top / "study.toml").write_text(STUDY)
    tlkit.run(top / "study.toml", top / "run")
    return top


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a head of its own, and its run."""
    top = tmp_path_factory.mktemp("headed")
    (top / "head.py").write_text(HEAD)
    text = small().replace('"pooled"', '"own"')
    (top / "study.toml").write_text(
        f'[plugins]\nmodules = ["head.py"]\n{text}\n[fit]\nepochs = 1\nxla = false\n'
    )
    tlkit.run(top / "study.toml", top / "run")
    return top


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No registry has another part after a test than before."""
    before = {kind: registry.registered() for kind, registry in registries.items()}
    yield
    assert before == {kind: registry.registered() for kind, registry in registries.items()}


class TestReading:
    def test_a_part_of_the_file_is_used_and_recorded_with_its_hash(self, study: Path) -> None:
        experiment = load_experiment(study)
        assert tlkit.check(experiment).class_weights["circle"] == 3
        assert unstructure(experiment, base=study.parent)["plugins"] == {
            "modules": ["mine.py"],
            "sha256": [sha256(study.parent / "mine.py")],
        }
        assert unstructure(experiment)["class_weights"] == {"name": "mine", "weight": 3.0}

    def test_the_files_may_be_anywhere_below_and_are_found_from_anywhere(
        self, study: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (study.parent / "parts").mkdir()
        (study.parent / "mine.py").rename(study.parent / "parts" / "own.py")
        study.write_text(STUDY.replace("mine.py", "parts/own.py"))
        monkeypatch.chdir(study.parent / "parts")
        experiment = load_experiment("../study.toml")
        assert unstructure(experiment, base=experiment.base)["plugins"]["modules"] == [
            "parts/own.py"
        ]

    def test_an_experiment_that_does_not_list_the_file_does_not_know_its_parts(
        self, study: Path
    ) -> None:
        load_experiment(study)
        study.write_text(STUDY.replace('"mine.py"', ""))
        with pytest.raises(tlkit.ConfigError, match=r"no class weighting named 'mine'"):
            load_experiment(study)

    def test_the_file_is_run_once_a_content(self, study: Path) -> None:
        mine = study.parent / "mine.py"
        mine.write_text(MINE + "import builtins\nbuiltins.runs = getattr(builtins, 'runs', 0) + 1")
        first, second = load_experiment(study), load_experiment(study)
        (study.parent / "again").mkdir()
        (study.parent / "again" / "mine.py").write_bytes(mine.read_bytes())
        (study.parent / "again" / "study.toml").write_text(STUDY)
        third = load_experiment(study.parent / "again" / "study.toml")
        assert first == second
        assert third.class_weights == first.class_weights
        assert vars(sys.modules["builtins"]).pop("runs") == 1

    def test_a_changed_file_gives_other_classes_and_leaves_what_was_made_before(
        self, study: Path
    ) -> None:
        before = load_experiment(study)
        (study.parent / "mine.py").write_text(MINE.replace("self.weight)", "7.0)"))
        after = load_experiment(study)
        counts = {"a": 1}
        assert before.class_weights.for_counts(counts) == {"a": 3}
        assert after.class_weights.for_counts(counts) == {"a": 7}
        assert unstructure(before)["class_weights"] == unstructure(after)["class_weights"]
        assert before.plugins.sha256 != after.plugins.sha256

    def test_nothing_is_written_beside_the_file(self, study: Path) -> None:
        load_experiment(study)
        assert sorted(path.name for path in study.parent.iterdir()) == ["mine.py", "study.toml"]

    def test_a_hash_in_the_file_holds_its_parts_fixed(self, study: Path) -> None:
        mine = study.parent / "mine.py"
        pinned = f'["mine.py"]\nsha256 = ["{sha256(mine)}"]'
        study.write_text(STUDY.replace('["mine.py"]', pinned))
        load_experiment(study)
        mine.write_text(MINE + "raise SystemExit\n")
        with pytest.raises(
            tlkit.ConfigError, match=r"plugins\.sha256\[0\]: \S+/mine\.py: SHA-256 must be"
        ):
            load_experiment(study)
        study.write_text(STUDY.replace('["mine.py"]', '["mine.py"]\nsha256 = ["a", "b"]'))
        with pytest.raises(tlkit.ConfigError, match=r"plugins\.sha256: needs .* 1 modules, got 2"):
            load_experiment(study)


class TestMistakes:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("\n1 / 0", r":2: ZeroDivisionError: division by zero"),
            ("x = 1\ndef", r":2: SyntaxError: invalid syntax"),
            ("raise SystemExit(3)", r":1: SystemExit: 3"),
            ("import no_such_package", r":1: ModuleNotFoundError: No module named 'no_such_pa"),
            ("def f():\n    raise ValueError('no')\n\nf()", r":2: ValueError: no"),
            (MINE + "\nraise ValueError('after the part')", r":\d+: ValueError: after the part"),
            (
                MINE.replace('"mine"', '"none"'),
                r":10: .* 'none': the name is taken by tlkit\.\S+, got mine\.py:Mine; choose",
            ),
            (
                MINE + MINE[35:].replace("Mine", "Two"),
                r": .* 'mine': the name is taken by mine\.py:Mine, got mine\.py:Two",
            ),
            (
                MINE.replace("def for_counts", "def for_count"),
                r":10: .* 'mine': mine\.py:Mine lacks what every ClassWeights .*: for_counts$",
            ),
            (
                MINE.replace("@attrs.frozen(kw_only=True)", ""),
                r":10: .*, got mine\.py:Mine; decorate it",
            ),
            ("import study", r":1: ModuleNotFoundError: No module named 'study'$"),
            ("from beside import x", r":1: .* 'beside'; a plugin file stands alone"),
            # This file alone is without `from __future__ import annotations`.
            (MINE[36:].replace(": float", ": flaot"), r": NameError: name 'flaot' is not defined"),
        ],
    )
    def test_a_file_that_fails_is_named_with_the_line(
        self, study: Path, source: str, message: str
    ) -> None:
        (study.parent / "mine.py").write_text(source)
        (study.parent / "beside.py").write_text("x = 1")
        for _ in range(2):  # nothing of the first attempt is left
            with pytest.raises(tlkit.PartError, match=rf"/mine\.py.*{message}") as error:
                load_experiment(study)
            assert error.value.exit_code == 6
        assert not [name for name in sys.modules if name.endswith(sha256(study.parent / "mine.py"))]

    @pytest.mark.parametrize(
        ("hint", "message"),
        [
            ("list[float]", r"the type list\[float\]; what a key may have: bool, int"),
            ("tuple[float, float]", r"the type tuple\[float, float\]; what"),
            ("complex", r"^Mine: the key weight cannot have the type complex; what"),
            ("'flaot'", r"^Mine: name 'flaot' is not defined; its keys' types must be known$"),
        ],
    )
    def test_a_type_that_no_key_can_have_is_named(
        self, study: Path, hint: str, message: str
    ) -> None:
        (study.parent / "mine.py").write_text(MINE.replace(": float", f": {hint}"))
        with pytest.raises(tlkit.PartError, match=message):
            load_experiment(study)

    def test_what_a_part_raises_at_work_is_told_with_its_line(
        self, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = MINE.replace("return dict.fromkeys(counts, self.weight)", "return {}[counts]")
        (study.parent / "mine.py").write_text(source)
        line = 1 + source[: source.index("return {}")].count("\n")
        monkeypatch.setattr("sys.argv", ["tlkit", "check", str(study)])
        with pytest.raises(SystemExit, match="6"):
            main()
        said = f"{study.parent / 'mine.py'}:{line}: TypeError: "
        assert capsys.readouterr().err.startswith(said)
        monkeypatch.setattr("sys.argv", ["tlkit", "--debug", "check", str(study)])
        with pytest.raises(TypeError, match="unhashable"):
            main()

    def test_of_many_lines_that_it_raises_the_last_is_told(
        self, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """TensorFlow puts the whole way to what it traced before it."""
        raising = r"raise RuntimeError('in user code:\n\n  File x\n\n    RuntimeError: so it is\n')"
        source = MINE.replace("return dict.fromkeys(counts, self.weight)", raising)
        (study.parent / "mine.py").write_text(source)
        monkeypatch.setattr("sys.argv", ["tlkit", "check", str(study)])
        with pytest.raises(SystemExit, match="6"):
            main()
        said = capsys.readouterr().err
        assert said.endswith(": RuntimeError: so it is; tlkit --debug shows more\n")
        assert said.count("\n") == 1

    def test_a_mistake_of_tlkits_own_is_not_laid_at_a_parts_door(
        self, study: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("tlkit.check", fail)
        monkeypatch.setattr("sys.argv", ["tlkit", "check", str(study)])
        with pytest.raises(ZeroDivisionError):
            main()

    def test_two_files_that_claim_one_name_are_refused(self, study: Path) -> None:
        (study.parent / "other.py").write_text(MINE + "# another file\n")
        both = STUDY.replace('"mine.py"', '"mine.py", "other.py"')
        for text in (both, STUDY.replace("mine.py", "other.py"), both):  # unknown, then known
            study.write_text(text)
            if text == both:
                with pytest.raises(
                    tlkit.PartError, match=r"/other\.py.* 'mine': the name is taken"
                ):
                    load_experiment(study)
            else:
                load_experiment(study)

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("no.py", r"'\S+/no\.py' cannot be read: No such file"),
            (".", r"cannot be read: Is a directory"),
            ("a\\u0000b", r"has a control character"),
            ("../mine.py", r"must stay in the experiment's folder, got '\S+/\.\./mine\.py'"),
            ("/mine.py", r"must stay in the experiment's folder, got '/mine\.py'"),
            ("~/mine.py", r"must stay in the experiment's folder"),
            ("link.py", r"must stay in the experiment's folder"),
        ],
    )
    def test_a_path_to_no_file_of_the_study_is_refused_at_its_key(
        self, study: Path, tmp_path_factory: pytest.TempPathFactory, path: str, message: str
    ) -> None:
        outside = tmp_path_factory.mktemp("outside") / "mine.py"
        outside.write_text(MINE)
        (study.parent / "link.py").symlink_to(outside)
        study.write_text(STUDY.replace('"mine.py"', f'"mine.py", "{path}"'))
        with pytest.raises(tlkit.ConfigError, match=rf"plugins\.modules\[1\]: .*{message}"):
            load_experiment(study)

    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            ("plugins = 1", r"plugins: expected a table"),
            ('plugins = {modules = "mine.py"}', r"plugins\.modules: expected a list"),
            ('plugins = {module = ["mine.py"]}', r"plugins\.module: unknown key; did you mean"),
        ],
    )
    def test_a_wrong_table_is_named_before_anything_runs(
        self, study: Path, table: str, problem: str
    ) -> None:
        (study.parent / "mine.py").write_text("raise SystemExit")
        study.write_text(STUDY.replace('[plugins]\nmodules = ["mine.py"]', table))
        with pytest.raises(tlkit.ConfigError, match=problem):
            load_experiment(study)

    @pytest.mark.parametrize(
        ("text", "override"), [("\n[fit\n", []), ("\n[fit]", []), ("", ["fit.epochs=[3"])]
    )
    def test_no_code_runs_before_the_whole_file_is_toml(
        self, study: Path, text: str, override: list[str]
    ) -> None:
        (study.parent / "mine.py").write_text("raise SystemExit('it ran')")
        study.write_text(STUDY + text)
        with pytest.raises(tlkit.ConfigError, match=r"not valid TOML|expected key=value in TOML"):
            load_experiment(study, override)


class TestRunFolders:
    def test_the_run_records_the_file_by_name_and_hash(self, finished: Path) -> None:
        found = sha256(finished / "mine.py")
        experiment = json.loads((finished / "run" / "experiment.json").read_text())
        environment = json.loads((finished / "run" / "environment.json").read_text())
        assert experiment["plugins"] == {"modules": ["mine.py"], "sha256": [found]}
        assert environment["parts"] == [
            {"kind": "class_weights", "name": "mine", "file": "mine.py", "sha256": found}
        ]
        assert str(finished) not in json.dumps([experiment, environment])

    def test_loading_needs_the_file_by_name_and_takes_it_from_anywhere(
        self, finished: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy.py"
        copy.write_bytes((finished / "mine.py").read_bytes())
        classifier = tlkit.load(finished / "run", plugins=[copy])
        assert type(classifier.experiment.class_weights).__name__ == "Mine"
        assert (
            classifier.experiment.class_weights
            == load_experiment(finished / "study.toml").class_weights
        )

    def test_without_the_file_a_part_for_training_is_a_placeholder(self, finished: Path) -> None:
        classifier = tlkit.load(finished / "run")
        weights = classifier.experiment.class_weights
        assert type(weights).__name__ == "UnavailableClassWeights"
        assert unstructure(weights) == {"name": "mine", "weight": 3.0}
        with pytest.raises(tlkit.PartError, match="the class weighting 'mine', which is not"):
            weights.for_counts({"a": 1})

    def test_without_the_file_of_its_head_it_is_named_and_nothing_runs(self, headed: Path) -> None:
        message = r"/run: was made with head\.py, which is executed only if you name it: --plugin"
        with pytest.raises(tlkit.PartError, match=message) as error:
            tlkit.load(headed / "run")
        assert sha256(headed / "head.py") in str(error.value)
        classifier = tlkit.load(headed / "run", plugins=[headed / "head.py"])
        assert type(classifier.experiment.head).__name__ == "Own"

    def test_another_file_is_refused_without_running_it(
        self, finished: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
        with pytest.raises(tlkit.PartError, match=r"hashes to \S+, but \S+/run was made with mine"):
            tlkit.load(finished / "run", plugins=[tmp_path / "mine.py"])
        with pytest.raises(tlkit.PartError, match=r"no\.py: cannot be read: No such file"):
            tlkit.load(finished / "run", plugins=[tmp_path / "no.py"])

    def test_a_folder_with_code_in_it_runs_none(self, finished: Path, tmp_path: Path) -> None:
        """What a hostile folder could do: bring the file, and name it by its own hash."""
        code = b"raise SystemExit('it ran')"
        (tmp_path / "mine.py").write_bytes(code)
        for file in (finished / "run").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        unseal(tmp_path)
        table = json.loads((tmp_path / "experiment.json").read_text())
        table["plugins"]["sha256"] = [hashlib.sha256(code).hexdigest()]
        (tmp_path / "experiment.json").write_text(json.dumps(table))
        tlkit.load(tmp_path)
        table["head"]["name"] = "own"
        (tmp_path / "experiment.json").write_text(json.dumps(table))
        with pytest.raises(
            tlkit.PartError, match=r"was made with mine\.py, which is executed only"
        ):
            tlkit.load(tmp_path)

    @pytest.mark.parametrize(
        "plugins", [[], {"modules": 1}, {"modules": ["a"], "sha256": []}, {"modules": [1]}, "mine"]
    )
    def test_a_record_that_tlkit_did_not_write_is_refused(
        self, finished: Path, tmp_path: Path, plugins: Any
    ) -> None:
        for file in (finished / "run").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        unseal(tmp_path)
        table = json.loads((tmp_path / "experiment.json").read_text())
        (tmp_path / "experiment.json").write_text(json.dumps(table | {"plugins": plugins}))
        with pytest.raises(tlkit.RunFolderError, match=r"experiment\.json: plugins is not as"):
            tlkit.load(tmp_path, plugins=[finished / "mine.py"])

    def test_a_package_that_is_not_installed_is_named(self, finished: Path, tmp_path: Path) -> None:
        for file in (finished / "run").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        unseal(tmp_path)
        part = {"kind": "heads", "name": "acme_head", "distribution": "acme", "version": "1.2"}
        (tmp_path / "environment.json").write_text(json.dumps({"parts": [part]}))
        table = json.loads((tmp_path / "experiment.json").read_text())
        table["head"]["name"] = "acme_head"
        (tmp_path / "experiment.json").write_text(json.dumps(table))
        message = r"needs the head 'acme_head' of acme 1\.2; install that package$"
        with pytest.raises(tlkit.PartError, match=message):
            tlkit.load(tmp_path, plugins=[finished / "mine.py"])

    def test_predict_and_evaluate_take_the_file_as_an_option(
        self, headed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        splits = Shapes(train=6, val=3, image_px=32).load()
        for example in splits.val:
            path = headed / "images" / example.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(splits.read(example.path))
        run, data = str(headed / "run"), str(headed / "images" / "val")
        image = str(path)
        commands = [["predict", run, image], ["evaluate", run, "--data", data]]
        for command in commands:
            for option, code in ([], 6), (["--plugin", str(headed / "head.py")], 0):
                monkeypatch.setattr("sys.argv", ["tlkit", *command, *option])
                with pytest.raises(SystemExit, match=re.escape(str(code))):
                    main()
                assert ("--plugin FILE" in capsys.readouterr().err) == (code == 6)


def test_the_schema_knows_the_parts_of_an_experiment_that_is_named(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for arguments in ([], [str(study)]):
        monkeypatch.setattr("sys.argv", ["tlkit", "schema", *arguments])
        with pytest.raises(SystemExit, match="0"):
            main()
        found = json.loads(capsys.readouterr().out)["$defs"]["class_weights"]
        names.append(found["properties"]["name"]["enum"])
    assert names[1] == sorted([*names[0], "mine"])


class TestFeatures:
    def key(self, study: Path) -> str:
        import keras

        inputs = keras.layers.Input((8, 8, 3))
        prefix = keras.Model(inputs, keras.layers.MaxPooling2D(name="pool")(inputs))
        key = FeatureKey.of(prefix, load_experiment(study), 4, False)
        return key.entry_name(["an image"], np_keys())

    def test_a_changed_augmentation_finds_no_old_features(self, study: Path) -> None:
        (study.parent / "mine.py").write_text(MINE + DARKEN)
        study.write_text(STUDY + '\n[augmentation]\nname = "darken"')
        before = self.key(study)
        assert self.key(study) == before
        (study.parent / "mine.py").write_text(MINE + DARKEN.replace("0.5", "0.4"))
        assert self.key(study) != before


def np_keys() -> Any:
    from tlkit.train.feature_key import augmentation_keys

    return augmentation_keys(0, 0, 1)
