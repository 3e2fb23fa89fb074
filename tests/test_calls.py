"""Parts that do not do what they must end in one line that names them, in every run."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import pytest
import tensorflow as tf
import typer
from tests.fakes import FakeBackbone, OneConvolution

import tlkit
from tlkit.parts.augmentations import NoAugmentation
from tlkit.parts.heads import Pooled
from tlkit.parts.optimizers import check_rate, with_rates
from tlkit.parts.plugins import guarded, part_name
from tlkit.system.keras import check_settings
from tlkit.train.assemble import assemble, refuse_others
from tlkit.train.features import Extractor, check_preprocessing
from tlkit.train.step import require_loss

STUDY = """
plugins.modules = ["lies.py"]
data = {name = "shapes", train = 6, val = 3, test = 3, image_px = 16}
backbone = {name = "tiny", weights = "none", image_size = 8}
head.name = "linear"
fit = {epochs = 1, batch_size = 4, cache = false, xla = false}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / "lies.py", tmp_path)
    (tmp_path / "e.toml").write_text(STUDY)
    return tmp_path / "e.toml"


@pytest.mark.slow  # 0.5 s each
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("backbone.name=tiny-none", "'tiny-none': its `load_weights` must return what it loaded"),
        ("backbone.name=tiny-batch", "must not depend on the other images of a batch"),
        ("loss.name=loss-flat", "loss: its `build` must return a loss with a gradient, got none"),
        ("loss.name=loss-double", r"must return one loss per image.* got \(None,\) float64"),
        ("loss.name=loss-none", "must return one loss per image.* got None"),
        ("loss.name=loss-exit", r"lies\.py: a part must not end the process, got SystemExit"),
        ("loss.name=loss-leave", r"lies\.py: a part must not end the process, got Exit"),
        ("loss.name=loss-settings", "keras: floatx must be 'float32', got 'float16'"),
        ("optimizer.name=optimizer-none", "`build` must return a Keras optimizer, got None"),
        ("optimizer.name=optimizer-schedule", "must leave the learning rate to the schedule"),
        ("optimizer.name=optimizer-rate", r"must use `learning_rate`, 0\.001, got 0\.5"),
        ("schedule.name=schedule-text", "`learning_rate` must return a finite number above 0"),
        ("schedule.name=schedule-none", "`learning_rate` must return a finite number .* got None"),
        ("schedule.name=schedule-nan", "`learning_rate` must return a finite number .* got nan"),
        ("augmentation.name=augmentation-fewer", r"`augment` must return \(8, 8, 8, 3\) float32"),
        ("augmentation.name=augmentation-size", r"'augmentation-size': its `augment` must return"),
        ("augmentation.name=augmentation-range", "must return pixels from 0 to 255, got"),
        ("augmentation.name=augmentation-nan", "must return pixels from 0 to 255, got nan"),
        ("augmentation.name=augmentation-type", r"`augment` must return .* float32, got .*float64"),
        ("head.name=head-linear", "'head-linear': must end in probabilities that sum to 1"),
        ("head.name=head-sigmoid", "'head-sigmoid': must end in probabilities that sum to 1"),
        ("head.name=head-more", r"'head-more': its `attach` must return probabilities \(batch, 3"),
        ('data={name="data-text"}', "Text: its `read` must return bytes, got 'text'"),
    ],
)
def test_a_run_names_the_part_that_lies(study: Path, change: str, message: str) -> None:
    try:
        with pytest.raises(tlkit.TlkitError, match=message) as caught:
            tlkit.run(study, study.parent / "r", overrides=[change])
    finally:
        keras.config.set_floatx("float32")
    leaves_a_folder = change.startswith(("schedule", "augmentation"))  # told while it trains
    assert (study.parent / "r").exists() == leaves_a_folder
    assert len(str(caught.value).splitlines()) <= 2  # the second says how to continue
    assert caught.value.exit_code in {6, 8}


@pytest.mark.slow
def test_rates_of_other_number_types_are_read(study: Path) -> None:
    run = tlkit.run(study, study.parent / "r", overrides=["schedule.name=schedule-numpy"])
    assert run.history[0].learning_rate == pytest.approx(1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "check"])
def test_what_parts_print_does_not_mix_with_results(study: Path, command: str) -> None:
    import json

    done = subprocess.run(
        [sys.executable, "-m", "tlkit", command, str(study), "--json"],
        capture_output=True, text=True, check=True, cwd=study.parent,
    )  # fmt: skip
    assert json.loads(done.stdout)
    assert "printed at import" in done.stderr
    assert ("printed while it works" in done.stderr) == (command == "run")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["loss-exit", "loss-leave"])
def test_the_command_does_not_end_as_if_all_were_well(study: Path, part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tlkit", "run", str(study), "--set", f"loss.name={part}"],
        capture_output=True, text=True, check=False, cwd=study.parent,
    )  # fmt: skip
    assert done.returncode == 6
    assert "a part must not end the process" in done.stderr
    assert "Traceback" not in done.stderr


PIXELS = np.full((2, 8, 8, 3), 100, np.uint8)
KEYS = np.zeros((2, 2), np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[1:], r"`augment` must return \(2, 8, 8, 3\) float32, got \(1, 8, 8, 3\)"),
        (lambda x: tf.boolean_mask(x, x[:, 0, 0, 0] > 200), "as many images of the same size"),
        (lambda x: tf.cast(x, tf.float16), "got .* float16"),
        (lambda x: x * 3, "must return pixels from 0 to 255, got 300 to 300"),
        (lambda x: x * math.nan, "from 0 to 255, got nan to nan"),
        (lambda x: None, "got None"),
    ],
)
def test_an_augmentation_that_returns_other_images_is_named(change: Any, message: str) -> None:
    class Lying(tlkit.Augmentation):
        def augment(self, images: Any, keys: Any) -> Any:
            return change(images)

    extractor = Extractor(None, FakeBackbone(), Lying(), batch=2)
    with pytest.raises(tlkit.PartError, match=f"^augmentation Lying: its .*{message}"):
        extractor(PIXELS, KEYS)


def test_an_augmentation_that_keeps_to_the_rules_passes() -> None:
    class Brighter(tlkit.Augmentation):
        def augment(self, images: Any, keys: Any) -> Any:
            return tf.minimum(images * 3, 255.0)

    found = Extractor(None, FakeBackbone(), Brighter(), batch=4)(PIXELS, KEYS)
    assert found.shape == (2, 8, 8, 3)
    assert (found == 1).all()


def test_preprocessing_of_another_size_is_named() -> None:
    class Cropping(FakeBackbone):
        def preprocess_native(self, images: Any) -> Any:
            return images[:, 1:]

    extractor = Extractor(None, Cropping(), NoAugmentation(), batch=2)
    with pytest.raises(tlkit.PartError, match="backbone Cropping: its preprocessing must return"):
        extractor(PIXELS)


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        (lambda x: x / 255, False),
        (lambda x: x / tf.reduce_max(x), True),
        (lambda x: x - tf.reduce_mean(x, axis=0), True),
        (lambda x: (x - tf.reduce_mean(x, [1, 2], keepdims=True)) / 64, False),
        (lambda x: x[:, 1:], False),  # another mistake, told elsewhere
    ],
)
def test_preprocessing_that_depends_on_the_batch_is_named(change: Any, is_told: bool) -> None:
    class Lying(FakeBackbone):
        def preprocess_native(self, images: Any) -> Any:
            return change(images)

    message = r"^backbone Lying: .* not depend on the other images"
    expected: AbstractContextManager[Any]
    expected = pytest.raises(tlkit.PartError, match=message) if is_told else nullcontext()
    with expected:
        check_preprocessing(Lying())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y, p: tf.ones_like(y, tf.float32), "must return a loss with a gradient, got none"),
        (lambda y, p: tf.cast(p[:, 0], tf.float64), r"got \(None,\) float64"),
        (lambda y, p: None, "one loss per image, .* got None"),
        (None, "must return a function, got None"),
    ],
)
def test_a_loss_that_cannot_be_minimized_is_named(loss: Any, message: str) -> None:
    with pytest.raises(tlkit.PartError, match=f"^loss: its `build` .*{message}"):
        require_loss(loss, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: None, "must return a Keras optimizer, got None"),
        (lambda: keras.optimizers.SGD(0.5), r"must use `learning_rate`, 0\.001, got 0\.5"),
        (
            lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(1e-3, 10)),
            "must leave the learning rate to the schedule, got <.*CosineDecay",
        ),
    ],
)
def test_an_optimizer_with_a_rate_of_its_own_is_named(build: Any, message: str) -> None:
    class Lying(tlkit.Optimizer):
        def build(self, multipliers: Any) -> Any:
            return build()

    with pytest.raises(tlkit.PartError, match=f"^optimizer: its `build` {message}"):
        check_rate(with_rates(Lying(), (1.0,)), Lying())


class Ends(tlkit.Head):
    """A head that ends in one layer."""

    units, activation = 3, "softmax"

    def layers(self, features: tuple[int, ...], classes: int) -> tlkit.LayerTable:
        rows = (
            tlkit.Layer("flatten", "Flatten", "head", (72,)),
            tlkit.Layer("scores", "Dense", "head", (self.units,), params=73 * self.units),
        )
        return tlkit.LayerTable(rows)

    def attach(self, features: Any, classes: int) -> Any:
        flat = keras.layers.Flatten(name="flatten")(features)
        return keras.layers.Dense(self.units, self.activation, name="scores")(flat)


@pytest.mark.parametrize(
    ("units", "activation", "message"),
    [
        (4, "softmax", r"its `attach` must return probabilities \(batch, 3\), got \(None, 4\)"),
        (3, "sigmoid", "must end in probabilities that sum to 1, got .*; end it in a softmax"),
        (3, "linear", "must end in probabilities that sum to 1"),
    ],
)
def test_a_head_without_probabilities_is_named(units: int, activation: str, message: str) -> None:
    class Lying(Ends):
        pass

    Lying.units, Lying.activation = units, activation
    with pytest.raises(tlkit.PartError, match=f"^head Lying: {message}"):
        assemble(OneConvolution(), Lying(), 3, 0)
    assemble(OneConvolution(), Ends(), 3, 0)


def test_probabilities_are_checked_where_they_are_used() -> None:
    refuse_others(np.array([[0.2, 0.8], [math.nan, 1.0]]), "head")  # nan is a matter of the loss
    for row in ([0.5, 0.6], [-0.1, 1.1]):
        with pytest.raises(tlkit.PartError, match=r"^head: must end in probabilities"):
            refuse_others(np.array([row]), "head")


def test_weights_that_load_nothing_are_named() -> None:
    class Lying(OneConvolution):
        def load_weights(self, model: Any) -> Any:
            return None

    with pytest.raises(
        tlkit.PartError, match=r"^backbone Lying: its `load_weights` must return wh"
    ):
        assemble(Lying(), Ends(), 3, 0)


@pytest.mark.parametrize(
    ("change", "back", "message"),
    [
        (lambda: keras.config.set_floatx("float16"), lambda: keras.config.set_floatx("float32"),
         "floatx must be 'float32', got 'float16'"),
        (lambda: keras.config.set_dtype_policy("mixed_float16"),
         lambda: keras.config.set_dtype_policy("float32"), "dtype_policy must be 'float32'"),
        (lambda: tf.config.run_functions_eagerly(True),
         lambda: tf.config.run_functions_eagerly(False), "run_functions_eagerly must be False"),
    ],
)  # fmt: skip
def test_changed_settings_of_keras_are_refused(change: Any, back: Any, message: str) -> None:
    check_settings()
    change()
    try:
        with pytest.raises(tlkit.TlkitError, match=f"^keras: {message}.*set it back$"):
            assemble(OneConvolution(), Ends(), 3, 0)
    finally:
        back()


@pytest.mark.parametrize("error", [SystemExit(0), typer.Exit(0), click.Abort(), GeneratorExit()])
def test_only_parts_are_kept_from_ending_the_process(error: BaseException) -> None:
    with pytest.raises(type(error)), guarded():  # it is this test that raises
        raise error


def test_a_part_is_called_by_kind_and_name() -> None:
    assert part_name(Pooled()) == "head 'pooled'"
    assert part_name(OneConvolution()) == "backbone OneConvolution"
