"""A run that was stopped and goes on ends with the bytes of one that was not, or is refused."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fakes import RESULTS, FakeBackbone, contents, unseal
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app
from tlkit.data.images import Reader
from tlkit.parts.kinds import registries
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import read_seconds
from tlkit.system.lock import locked
from tlkit.train.checkpoint import Checkpoint

NAME = "two_convolutions"


@frozen(kw_only=True)
class TwoConvolutions(FakeBackbone):
    """A small backbone with BatchNorm and a dropout of its own."""

    def layers(self) -> tlkit.LayerTable:
        rows = [
            tlkit.Layer("first", "Conv2D", "block1", (6, 6, 4), params=112),
            tlkit.Layer("second", "Conv2D", "block2", (4, 4, 4), params=144, kernel_size=3),
            tlkit.Layer("norm", "BatchNormalization", "block2", (4, 4, 4), 8, 8, batch_norm=True),
            tlkit.Layer("drop", "SpatialDropout2D", "block2", (4, 4, 4)),
        ]
        return tlkit.LayerTable(tuple(rows))

    def build(self) -> Any:
        inputs = keras.layers.Input((8, 8, 3))
        outputs = keras.layers.Conv2D(4, 3, activation="tanh", name="first")(inputs)
        outputs = keras.layers.Conv2D(4, 3, use_bias=False, name="second")(outputs)
        outputs = keras.layers.BatchNormalization(name="norm")(outputs)
        return keras.Model(inputs, keras.layers.SpatialDropout2D(0.2, name="drop")(outputs))


TABLES = """
seed = 3

[data]
name = "folder"
path = "images"

[backbone]
name = "two_convolutions"

[head]
name = "pooled"
units = [6]
dropout = 0.5

[freeze]
name = "head_then"
head_epochs = 3
train = ["block2"]
batch_norm = "train"

[augmentation]
name = "affine"
views = 2

[optimizer]
learning_rate = 0.02

[schedule]
name = "plateau"
patience = 1
min_delta = 0.05

[fit]
epochs = 6
batch_size = 4
keep = "best"
xla = false
"""


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    """The study's backbone; and no pages, which are tests/test_pages.py's matter."""
    registries.backbones.register(NAME)(TwoConvolutions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.runner.pages.write_pages", lambda *_: None)
        yield
    registries.backbones.unregister(NAME)


def study(folder: Path) -> Path:
    """Make a folder with an experiment and its images, and return the experiment's path."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for level, label in ((90, "dark"), (160, "light")):
            (folder / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(level, 40, (8, 8)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"images/{split}/{label}/{number}.png")
    (folder / "study.toml").write_text(TABLES, encoding="utf-8")
    return folder / "study.toml"


class StopIn(tlkit.Callback):
    """Sends the process a signal in the middle of an epoch."""

    def __init__(self, epoch: int, number: int = signal.SIGTERM) -> None:
        self.epoch, self.number, self.now = epoch, number, 0
        self.notes: list[str] = []

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        self.now = epoch

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        if self.now == self.epoch and images == 8:
            os.kill(os.getpid(), self.number)

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def stopped(file: Path, out: Path, *epochs: int, overrides: Any = ()) -> Path:
    """Leave a run that was stopped in the given epochs, one process after the other."""
    with pytest.raises(tlkit.Interrupted):
        tlkit.run(file, out, overrides=overrides, callback=StopIn(epochs[0]))
    for epoch in epochs[1:]:
        with pytest.raises(tlkit.Interrupted):
            tlkit.resume(out, callback=StopIn(epoch))
    return out


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def straight(file: Path) -> dict[str, bytes]:
    run = tlkit.run(file, file.parent / "straight")
    assert len({epoch.learning_rate for epoch in run.history}) > 1
    assert run.best.epoch != run.last.epoch
    return contents(run.folder)


@pytest.fixture(scope="module")
def in_the_fifth(file: Path) -> Path:
    """A run that was stopped in its fifth epoch, of the second stage."""
    return stopped(file, file.parent / "in_the_fifth", 5)


@pytest.fixture
def unfinished(in_the_fifth: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(in_the_fifth, tmp_path / "run"))


@pytest.mark.parametrize("epochs", [(1,), (2, 4, 6)], ids=str)
def test_a_run_that_goes_on_ends_with_the_same_bytes(
    epochs: tuple[int, ...], file: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    folder = stopped(file, tmp_path / "run", *epochs)
    done = tlkit.resume(folder)
    assert done is not None
    assert contents(folder) == straight
    left = {path.name for path in folder.iterdir()}
    assert left == {*RESULTS, "environment.json", "seal-machine.json", "study.toml", "timing.csv"}


CHOICES: dict[str, list[Any]] = {
    "freeze": [
        {"name": "head_only"},
        {"name": "head_then", "head_epochs": 2, "train": ["block2"], "batch_norm": "train"},
        {"name": "gradual", "every": 2, "blocks": 1},
        {"name": "layer_range", "train": "2-"},
    ],
    "head": [
        {"name": "pooled", "units": [6], "dropout": 0.5},
        {"name": "pooled", "pooling": "max"},
        {"name": "linear", "standardize": True},
        {"name": "probe"},
        {"name": "kernel", "landmarks": 5},
    ],
    "augmentation": [{"name": "none"}, {"name": "affine"}, {"name": "affine", "views": 2}],
    "optimizer": [
        {"name": "adam", "learning_rate": 0.05},
        {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9},
        {"name": "rmsprop", "learning_rate": 0.01, "centered": True},
    ],
    "schedule": [
        {"name": "constant"},
        {"name": "cosine", "warmup_epochs": 1},
        {"name": "cosine", "warmup_epochs": 0.5, "per_step": True},
        {"name": "one_cycle"},
        {"name": "plateau", "patience": 1, "min_delta": 0.1},
    ],
    "optimizer.clip_norm": [None, 0.1],
    "fit.early_stop_patience": [None, 1, 2],
    "fit.ema": [None, 0.9],
    "fit.keep": ["last", "best"],
    "fit.monitor": ["val_loss", "val_accuracy", "val_loss_and_accuracy"],
    "fit.xla": [True, False],
    "fit.checkpoint_every_s": [0, 60],
    "data.sampler": ["shuffle", "balanced"],
}


def assignment(key: str, value: Any) -> str:
    """Return what `--set` takes."""
    if isinstance(value, dict):
        return f"{key}={{{', '.join(assignment(*pair) for pair in value.items())}}}"
    return f"{key}={json.dumps(value)}"


@pytest.mark.slow
@settings(max_examples=30)
@given(
    chosen=st.fixed_dictionaries({key: st.sampled_from(some) for key, some in CHOICES.items()}),
    epochs=st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True).map(sorted),
)
def test_the_prefix_law(chosen: dict[str, Any], epochs: list[int], file: Path) -> None:
    """Training for a + b epochs is training for a, and then going on for b; in any parts."""
    # In the order of CHOICES: Hypothesis shuffles the keys, and a table would undo its own key.
    overrides = [assignment(key, chosen[key]) for key in CHOICES if chosen[key] is not None]
    with tempfile.TemporaryDirectory() as top:
        done = tlkit.run(file, Path(top) / "straight", overrides=overrides)
        folder = Path(top) / "run"
        for epoch in [*epochs, 99]:
            with contextlib.suppress(tlkit.Interrupted):
                if folder.exists():
                    tlkit.resume(folder, callback=StopIn(epoch))
                else:
                    tlkit.run(file, folder, overrides=overrides, callback=StopIn(epoch))
        assert contents(folder) == contents(done.folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["after", "torn"])
def test_a_crash_changes_no_byte_of_what_keras_learns(
    how: str, file: Path, disk: Any, tmp_path: Path
) -> None:
    """`properties/test_run_folder.py` does this at every operation, with a faster trainer."""
    overrides = ["fit.checkpoint_every_s=0"]
    disk.begin()
    done = tlkit.run(file, tmp_path / "straight", overrides=overrides)
    for number in range(5, len(disk.done), 47):
        folder = tmp_path / str(number)
        disk.begin(number, how)
        with pytest.raises(disk.Crash):
            tlkit.run(file, folder, overrides=overrides)
        disk.begin()
        if folder.exists():
            tlkit.resume(folder)
        else:
            tlkit.run(file, folder, overrides=overrides)
        assert contents(folder) == contents(done.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "fit.xla=true",
        "fit.frozen_dtype='int8'",
        "fit.frozen_dtype='bfloat16'",
        "fit.winograd=true",
    ],
)
def test_with_other_arithmetic_too(
    setting: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("plan", "winograd"):
        monkeypatch.setattr(f"tlkit.train.{module}.MIN_CHANNELS", 1)
    overrides = [setting, "fit.keep='last'", "freeze={name='layer_range', train='2-'}"]
    done = tlkit.run(file, tmp_path / "straight", overrides=overrides)
    folder = stopped(file, tmp_path / "run", 3, overrides=overrides)
    tlkit.resume(folder)
    assert contents(folder) == contents(done.folder)
    (stage,) = json.loads((folder / "plan.json").read_text())["stages"]
    assert ("winograd" in stage) is ("winograd" in setting)


def test_what_a_stopped_run_says(file: Path, tmp_path: Path) -> None:
    callback = StopIn(2)
    with pytest.raises(
        tlkit.Interrupted,
        match=rf"^stopped after epoch 1 of 6; continue with: tlkit resume {tmp_path}/run$",
    ) as caught:
        tlkit.run(file, tmp_path / "run", callback=callback)
    assert caught.value.exit_code == 143
    assert callback.notes == ["stopping after this batch; press Ctrl-C again to quit immediately"]
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert len(Checkpoint.read(path).history) == 1
    with pytest.raises(tlkit.RunFolderError, match=r"is not finished.*; tlkit resume "):
        tlkit.load(tmp_path / "run")
    with pytest.raises(
        tlkit.RunFolderError, match=rf"continue it with: tlkit resume {tmp_path}/run"
    ):
        tlkit.run(file, tmp_path / "run")


def test_a_finished_run_is_left_alone_and_it_is_said(file: Path, tmp_path: Path) -> None:
    folder = tlkit.run(file, tmp_path / "run", overrides=["fit.epochs=4"]).folder
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tlkit.resume(folder) is None
    done = CliRunner().invoke(app, ["resume", str(folder)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{folder}: the run is finished; there is nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_command_goes_on_and_prints_the_results(unfinished: Path) -> None:
    done = CliRunner().invoke(app, ["resume", str(unfinished), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"] == str(unfinished)
    assert "resuming after epoch 4\n" in done.stderr
    assert "epoch 5/6 " in done.stderr
    assert "epoch 4/6 " not in done.stderr


def test_the_command_ends_with_the_signal_s_code(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise tlkit.Interrupted(signal.SIGTERM, "stopped after epoch 1 of 6; continue with: …")

    monkeypatch.setattr("tlkit.cli.run.tlkit.run", stop)
    done = CliRunner().invoke(app, ["run", str(file)])
    assert (done.exit_code, done.stdout) == (143, "")
    assert done.stderr == "stopped after epoch 1 of 6; continue with: …\n"


@pytest.mark.parametrize("together", [True, False], ids=["all", "the run alone"])
def test_a_run_that_was_moved_goes_on_from_any_place(
    together: bool, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    file = study(tmp_path / "here" / "study")
    folder = stopped(file, tmp_path / "here" / "runs" / "run", 4)
    if together:
        (tmp_path / "here").rename(tmp_path / "there")
        folder = tmp_path / "there" / "runs" / "run"
    else:
        folder = folder.rename(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    tlkit.resume(folder)
    assert contents(folder)["weights.safetensors"] == straight["weights.safetensors"]
    assert contents(folder)["predictions.csv"] == straight["predictions.csv"]


def test_data_that_were_moved_must_be_named(straight: dict[str, bytes], tmp_path: Path) -> None:
    file = study(tmp_path / "study")
    folder = stopped(file, tmp_path / "run", 4)
    (tmp_path / "study" / "images").rename(tmp_path / "images")
    with pytest.raises(tlkit.DataError, match=r"/images: the run's data are missing; say where"):
        tlkit.resume(folder)
    tlkit.resume(folder, data=tmp_path / "images")
    assert contents(folder)["weights.safetensors"] == straight["weights.safetensors"]


def table_edit(folder: Path) -> None:
    path = folder / "experiment.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table["optimizer"]["learning_rate"] = 0.03
    table["fit"]["batch_size"] = 2
    path.write_text(json.dumps(table), encoding="utf-8")


def toml_edit(folder: Path) -> None:
    path = folder / "study.toml"
    path.write_text(path.read_text(encoding="utf-8") + "\n# later\n", encoding="utf-8")


def plan_edit(folder: Path) -> None:
    path = folder / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    plan["stages"][1]["epochs"] = 9
    path.write_text(json.dumps(plan), encoding="utf-8")


def image_edit(folder: Path) -> None:
    path = folder / "manifest.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace(lines[1].split(",")[1], "0" * 64)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def weights_edit(folder: Path) -> None:
    path = folder / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8"))
    environment["weights"] = {"source": "imagenet", "sha256": "abc"}
    path.write_text(json.dumps(environment), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        (
            table_edit,
            ["fit.batch_size: was 4, is 2", "optimizer.learning_rate: was 0.02, is 0.03"],
        ),
        (toml_edit, ["study.toml: is not as it was"]),
        (plan_edit, ["plan.stages[1].epochs: was 9, is 3"]),
        (image_edit, [r"images: was train/dark/0.png,0{64},train", "images: is train/dark/0.png"]),
        (weights_edit, ["weights.source: was 'imagenet', is 'none'", "weights.sha256: was 'abc'"]),
    ],
)  # fmt: skip
def test_another_run_than_the_one_that_was_begun_is_refused(
    edit: Any, lines: list[str], unfinished: Path
) -> None:
    before = contents_of_checkpoints(unfinished)
    edit(unfinished)
    with pytest.raises(tlkit.RunFolderError, match="is not the run that was begun") as caught:
        tlkit.resume(unfinished)
    assert caught.value.exit_code == 7
    message = str(caught.value).replace("0" * 64, "0{64}")
    for line in lines:
        assert f"\n  {line}" in message
    with pytest.raises(tlkit.RunFolderError, match="is not the run that was begun"):
        tlkit.resume(unfinished, anyway=True)
    assert contents_of_checkpoints(unfinished) == before


def test_other_weights_in_frozen_layers_are_refused(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after another random start of a newer Keras: no file tells of it."""

    def load_weights(backbone: Any, model: Any) -> Mapping[str, str]:
        model.get_layer("first").bias.assign([1.0] * 4)
        return {"source": "none"}

    monkeypatch.setattr(TwoConvolutions, "load_weights", load_weights)
    with pytest.raises(
        tlkit.WeightsError, match=r"epoch-0004: the weights of the frozen layers have changed"
    ):
        tlkit.resume(unfinished)


def contents_of_checkpoints(folder: Path) -> dict[str, bytes]:
    files = (folder / "checkpoints").rglob("*")
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def test_another_environment_is_refused_unless_it_is_accepted_and_then_recorded(
    unfinished: Path, straight: dict[str, bytes]
) -> None:
    path = unfinished / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8"))
    environment["packages"]["tensorflow"] = "2.0.0"
    environment["threads"]["intra_op"] = 7
    environment["python"] = "3.0"  # does not matter
    path.write_text(json.dumps(environment), encoding="utf-8")
    unseal(unfinished)
    with pytest.raises(tlkit.RunFolderError, match="--anyway") as caught:
        tlkit.resume(unfinished)
    changed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.partition(":")[0] for line in changed] == [
        "packages.tensorflow", "threads.intra_op",
    ]  # fmt: skip
    tlkit.resume(unfinished, anyway=True)
    assert json.loads(path.read_text(encoding="utf-8"))["changed"] == changed
    assert contents(unfinished) == straight


def test_a_folder_that_somebody_writes_to_is_refused(unfinished: Path) -> None:
    with locked(unfinished), pytest.raises(tlkit.RunFolderError, match=r"is writing to it$"):
        tlkit.resume(unfinished)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_what_is_no_run_folder_is_refused_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(tlkit.RunFolderError, match=r"no such run folder|is not a run folder"):
        tlkit.resume(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_damaged_checkpoint_is_passed_over_and_it_is_said(
    file: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    folder = stopped(file, tmp_path / "run", 3, 5)
    (folder / "checkpoints" / "epoch-0004" / "optimizer.safetensors").write_bytes(b"")
    callback = StopIn(99)
    tlkit.resume(folder, callback=callback)
    assert len(callback.notes) == 1
    assert callback.notes[0].endswith(
        "epoch-0004: optimizer.safetensors has changed since it was written; "
        "continuing from epoch-0003"
    )
    assert contents(folder) == straight


def test_checkpoints_stay_if_they_are_asked_for(file: Path, tmp_path: Path) -> None:
    run = tlkit.run(file, tmp_path / "run", overrides=["fit.keep_checkpoints=true"])
    kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert kept == ["epoch-0003", "epoch-0006"]  # the ends of the stages: it took no minute


def test_timing_has_the_epochs_of_all_processes(unfinished: Path) -> None:
    before = (unfinished / "timing.csv").read_text(encoding="utf-8").splitlines()
    done = tlkit.resume(unfinished)
    assert done is not None
    after = (unfinished / "timing.csv").read_text(encoding="utf-8").splitlines()
    assert after[: len(before)] == before
    assert len(after) == 1 + len(done.history)
    assert read_seconds(RunFolder(unfinished), done.history) == [
        float(row.split(",")[1]) for row in after[1:]
    ]


@pytest.mark.parametrize("error", ["MemoryError", "ResourceExhaustedError"])
def test_too_little_memory_is_said_and_the_last_checkpoint_is_good(
    error: str, unfinished: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    def fail(*_: Any) -> None:
        raise (
            MemoryError
            if error == "MemoryError"
            else tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        )

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.train.stage.StageTrainer.epoch", fail)
        with pytest.raises(tlkit.ResourceError, match=r"not enough memory; .*\n.*: tlkit resume "):
            tlkit.resume(unfinished)
    tlkit.resume(unfinished)
    assert contents(unfinished) == straight


def test_a_loss_that_is_not_finite_keeps_the_epochs_before_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = importlib.import_module("tlkit.train.stage").StageTrainer.epoch

    def explode(stage: Any, done: Any) -> Any:
        if len(done) == 2:
            for variable in stage.step.variables:
                variable.assign(variable * np.inf)
        return epoch(stage, done)

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.train.stage.StageTrainer.epoch", explode)
        with pytest.raises(tlkit.NumericalError, match=r"^epoch 3: the training loss on train/"):
            tlkit.run(file, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert [epoch.epoch for epoch in Checkpoint.read(path).history] == [1, 2]


def test_how_many_images_are_decoded_at_once_changes_no_byte(
    file: Path, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tlkit.train.stage.Reader", partial(Reader, workers=7))
    assert contents(tlkit.run(file, tmp_path / "run").folder) == straight


PLUGIN = """
from attrs import frozen
import tlkit

@tlkit.registries.class_weights.register("rising")
@frozen(kw_only=True)
class Rising(tlkit.ClassWeights):
    def for_counts(self, counts):
        return {name: 1.0 + place for place, name in enumerate(counts)}
"""


def test_a_study_s_own_parts_are_named_once_more(tmp_path: Path) -> None:
    file = study(tmp_path / "study")
    plugin = file.parent / "mine.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    tables = '\n[plugins]\nmodules = ["mine.py"]\n[class_weights]\nname = "rising"\n'
    file.write_text(TABLES + tables, encoding="utf-8")
    done = tlkit.run(file, tmp_path / "straight")
    folder = stopped(file, tmp_path / "run", 4)
    with pytest.raises(
        tlkit.PartError, match=r"was made with .*mine\.py, which is executed only if"
    ):
        tlkit.resume(folder)
    tlkit.resume(folder, plugins=[plugin])
    assert contents(folder) == contents(done.folder)


def test_images_and_model_from_python_are_given_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 8, 8, 3), np.uint8)
    labels = np.arange(12) % 2
    data = tlkit.FromImages(
        train=(images[:8], labels[:8]), val=(images[8:], labels[8:]), classes=("a", "b")
    )
    backbone = tlkit.FromModel(model=TwoConvolutions().build())
    experiment = tlkit.Experiment(
        data=data, backbone=backbone, fit=tlkit.Fit(epochs=3, batch_size=4, checkpoint_every_s=0)
    )
    done = tlkit.run(experiment, tmp_path / "straight")
    with pytest.raises(tlkit.Interrupted):
        tlkit.run(experiment, tmp_path / "run", callback=StopIn(2))
    with pytest.raises(tlkit.DataError, match="images from memory"):
        tlkit.resume(tmp_path / "run", backbone=backbone)
    tlkit.resume(tmp_path / "run", backbone=backbone, data=data)
    assert contents(tmp_path / "run") == contents(done.folder)


class Mover(tlkit.Callback):
    """Moves a run's folder away while it trains."""

    def __init__(self, folder: Path, leaves_copy: bool) -> None:
        self.folder, self.leaves_copy = folder, leaves_copy

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        if epoch.epoch == 4:
            moved = self.folder.rename(self.folder.with_name("moved"))
            if self.leaves_copy:
                shutil.copytree(moved, self.folder)


def test_a_run_never_writes_into_the_folder_that_took_its_place(
    file: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(tlkit.ResourceError, match=r"/run: another folder has taken its place"):
        tlkit.run(file, tmp_path / "run", callback=Mover(tmp_path / "run", leaves_copy=True))
    both = [contents_of_checkpoints(tmp_path / name).values() for name in ("run", "moved")]
    assert list(both[0]) == list(both[1])
    tlkit.resume(tmp_path / "moved")
    assert contents(tmp_path / "moved") == straight


def test_a_run_folder_that_goes_away_is_not_made_again(
    file: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(tlkit.ResourceError, match=r"/run: cannot be written to: No such file"):
        tlkit.run(file, tmp_path / "run", callback=Mover(tmp_path / "run", leaves_copy=False))
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    tlkit.resume(tmp_path / "moved")
    assert contents(tmp_path / "moved") == straight
