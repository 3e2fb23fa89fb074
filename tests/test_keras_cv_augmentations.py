"""KerasCV's augmentations: its effects, drawn from keys, with nothing of its own state used."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import tensorflow as tf

import tlkit
from tlkit.parts.keras_cv_augmentations import AugMix, GridMask, KerasCV, KeyedDraws, RandAugment
from tlkit.train.feature_key import augmentation_keys

ROOT = Path(__file__).parent.parent
NAMES = ("augmix", "gridmask", "randaugment")
EXPERIMENT = """
data = {{ name = "shapes", train = 6, val = 3, test = 3, image_px = 32 }}
backbone = {{ name = "vgg16", weights = "none", image_size = 32 }}
head = {{ name = "pooled" }}
augmentation = {{ name = "{name}" }}
fit = {{ epochs = 1, xla = false }}
"""
each = pytest.mark.parametrize("augmentation", [AugMix(), GridMask(), RandAugment()], ids=NAMES)


def pictures(count: int, side: int = 32) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.float32)


def augmented(augmentation: KerasCV, images: Any) -> Any:
    keys = augmentation_keys(0, 0, len(images))
    return augmentation.augment(tf.constant(images), tf.constant(keys)).numpy()


def operations(graph: Any) -> Iterator[str]:
    """Yield the kinds of operation in a graph and in the functions that it calls."""
    definition = graph.as_graph_def()
    yield from (node.op for node in definition.node)
    for function in definition.library.function:
        yield from (node.op for node in function.node_def)


@each
def test_no_operation_draws_from_a_state(augmentation: KerasCV) -> None:
    types = [tf.TensorSpec((4, 32, 32, 3), tf.float32), tf.TensorSpec((4, 2), tf.int32)]
    graph = tf.function(augmentation.augment, input_signature=types).get_concrete_function().graph
    drawing = {op for op in operations(graph) if "Random" in op or "Rng" in op}
    assert drawing
    assert {op for op in drawing if not op.startswith("Stateless")} == set()


def test_the_test_above_sees_kerascvs_own_draws() -> None:
    import keras_cv

    layer = keras_cv.layers.RandAugment((0, 255), seed=1)
    types = [tf.TensorSpec((4, 32, 32, 3), tf.float32)]
    graph = tf.function(layer, input_signature=types).get_concrete_function().graph
    stateful = [op for op in operations(graph) if "Random" in op or "Rng" in op]
    assert not all(op.startswith("Stateless") for op in stateful)


@pytest.mark.parametrize(
    "augmentation",
    [AugMix(), GridMask(), pytest.param(RandAugment(), marks=pytest.mark.slow)],
    ids=NAMES,
)
def test_nothing_outside_our_layer_is_touched(augmentation: KerasCV) -> None:
    import keras
    import keras_cv
    from keras_cv.src.backend import ops
    from keras_cv.src.layers.preprocessing import aug_mix, grid_mask, rand_augment
    from keras_cv.src.utils import preprocessing

    modules = [tf.random, keras.random, keras_cv.layers, keras_cv.core, ops, preprocessing]
    modules += [aug_mix, grid_mask, rand_augment]
    classes = [keras_cv.layers.AugMix, keras_cv.layers.GridMask, keras_cv.layers.RandAugment]
    classes += [keras_cv.core.UniformFactorSampler, keras_cv.core.NormalFactorSampler]
    theirs = tf.random.get_global_generator()

    def everything() -> Any:
        attributes = [dict(vars(one)) for one in (*modules, *classes)]
        states = theirs.state.numpy().tolist(), random.getstate(), str(np.random.get_state())
        return attributes, states, keras.config.dtype_policy().name

    before = everything()
    augmented(augmentation, pictures(8, side=24))  # a size of its own, so that it is built anew
    assert everything() == before
    assert tf.random.get_global_generator() is theirs


@pytest.mark.slow
def test_it_works_in_float32_whatever_keras_is_set_to() -> None:
    import keras

    expected = augmented(RandAugment(operations=2), pictures(8))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = augmented(RandAugment(operations=2, views=1), pictures(8))
    finally:
        keras.config.set_dtype_policy(policy)
    assert found.tobytes() == expected.tobytes()


@pytest.fixture
def seeded_globally() -> Iterator[None]:
    """With a seed of their own, KerasCV's nested layers draw the same numbers as each other."""
    theirs = tf.random.get_global_generator()
    tf.random.set_seed(1)
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))
    yield
    tf.random.set_global_generator(theirs)


@pytest.mark.usefixtures("seeded_globally")
@pytest.mark.parametrize("name", [pytest.param("RandAugment", marks=pytest.mark.slow), "GridMask"])
def test_it_changes_as_much_as_kerascvs_own(name: str) -> None:
    """By the mean over many draws of what becomes of a picture."""
    import keras_cv

    count = 600
    image = pictures(1, 16) * np.linspace(0.2, 1, 16, dtype=np.float32)[:, None, None]
    images = np.repeat(image, count, axis=0)
    arguments = {"RandAugment": ((0, 255),), "GridMask": ()}[name]
    layer = getattr(keras_cv.layers, name)(*arguments)
    theirs = np.abs(tf.function(layer)(images).numpy() - images).mean(axis=(1, 2, 3))
    part = {"RandAugment": RandAugment(), "GridMask": GridMask()}[name]
    ours = np.abs(augmented(part, images) - images).mean(axis=(1, 2, 3))
    error = np.hypot(theirs.std(), ours.std()) / np.sqrt(count)
    assert abs(theirs.mean() - ours.mean()) < 3 * error
    assert theirs.std() == pytest.approx(ours.std(), rel=0.15)


def test_augmix_turns_nothing_upside_down_and_inverts_nothing_dark() -> None:
    """As KerasCV 0.9.0 does: it takes degrees for radians and inverts all but the darkest."""
    sky = np.full((300, 32, 32, 3), 20, np.float32)
    sky[:, :16] = 140
    found = augmented(AugMix(chains=1, operations=1), sky)
    light = found[:, :12].mean(axis=(1, 2, 3)) - found[:, 20:].mean(axis=(1, 2, 3))
    assert light.min() > 60


def test_each_chain_of_augmix_draws_its_own_operation() -> None:
    """A dot is seen where it was and, fainter, where the chains moved it to."""
    dot = np.zeros((200, 64, 64, 3), np.float32)
    dot[:, 20:22, 48:50] = 255
    found = augmented(AugMix(chains=2, operations=1, strength=2), dot)[..., 0]
    dots = [scipy.ndimage.label(picture > 5)[1] for picture in found]
    assert {1, 2, 3} <= {*dots}


def test_a_grid_covers_with_its_grey_and_no_more_than_its_share() -> None:
    white = np.full((300, 64, 64, 3), 255, np.float32)
    found = augmented(GridMask(fill_value=90, rotation_deg=0), white)
    assert set(np.unique(found)) == {90, 255}
    covered = (found == 90).mean(axis=(1, 2, 3))
    assert covered.max() < 0.4
    assert covered.mean() == pytest.approx(0.5**2 / 3, rel=0.2)  # the mean of ratio²


# A process in which KerasCV cannot be imported, as if it were not installed.
BLOCKED = "import sys; sys.modules['keras_cv'] = None; from tlkit.cli import main; main()"


def blocked(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", "TLKIT_CACHE": str(folder / "cache")},
        cwd=folder,
        check=False,
    )


@pytest.mark.parametrize(
    "name", ["augmix", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_without_kerascv_a_run_ends_before_it_begins(name: str, tmp_path: Path) -> None:
    (tmp_path / "exp.toml").write_text(EXPERIMENT.format(name=name))
    done = blocked(tmp_path, "run", "exp.toml")
    assert done.stderr == f"augmentation '{name}': needs KerasCV; pip install keras-cv\n"
    assert done.returncode == 6
    assert [path.name for path in tmp_path.iterdir()] == ["exp.toml"]


def test_without_kerascv_its_parts_are_listed_and_explained(tmp_path: Path) -> None:
    listed = blocked(tmp_path, "list", "augmentations")
    assert {line.split()[0] for line in listed.stdout.splitlines()} >= {*NAMES}
    assert "strength: a number" in blocked(tmp_path, "info", "augmix").stdout


@pytest.mark.slow
def test_without_kerascv_everything_else_runs(tmp_path: Path) -> None:
    (tmp_path / "exp.toml").write_text(EXPERIMENT.format(name="xray_safe"))
    done = blocked(tmp_path, "run", "exp.toml", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_without_kerascv_the_tests_of_all_other_parts_pass() -> None:
    files = ("contracts", "augmentations", "dead_settings", "schema", "registry", "cli", "starter")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "tests.without_keras_cv"]
        + [f"tests/test_{name}.py" for name in files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "needs keras-cv" in done.stdout  # it was not there


def test_used_without_kerascv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(
        tlkit.PartError, match=r"^augmentation 'augmix': needs KerasCV; pip install"
    ):
        AugMix(strength=0.7).augment(tf.constant(pictures(1)), tf.zeros((1, 2), tf.int32))


@pytest.mark.slow
def test_using_kerascv_prints_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tlkit", "info", "randaugment", "--preview", "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("randaugment.png\n", "", 0)


# Keyed draws: a function of the key and the position of the draw, also in loops and branches.

KEY = (3, 4)


def drawn(count: int, key: tuple[int, int] = KEY) -> list[Any]:
    draws = KeyedDraws()
    draws.begin(tf.constant(key))
    return [draws.uniform((3,)).numpy().tolist() for _ in range(count)]


def test_draws_differ_from_each_other_and_come_again_with_the_key() -> None:
    first = drawn(3)
    assert len({tuple(row) for row in first}) == 3
    assert drawn(3) == first
    assert drawn(3, (3, 5)) != first


def test_beginning_again_draws_the_same_again() -> None:
    draws = KeyedDraws()
    found = []
    for _ in range(2):
        draws.begin(tf.constant(KEY))
        found.append([draws.uniform(()).numpy(), draws.normal(()).numpy()])
    assert found[0] == found[1]


def test_each_round_of_a_loop_draws_anew() -> None:
    """The body of a loop is traced once, so it would count to the same number in each round."""
    draws = KeyedDraws()

    @tf.function(autograph=False)
    def loop(key: tf.Tensor) -> Any:
        draws.begin(key)

        def body(number: tf.Tensor, found: tf.TensorArray) -> Any:
            with draws.within(number):
                return number + 1, found.write(number, draws.uniform(()))

        array = tf.TensorArray(tf.float32, 6)
        rounds = tf.while_loop(lambda number, _: number < 6, body, [0, array])[1].stack()
        return tf.concat([rounds, [draws.uniform(())]], axis=0)

    found = loop(tf.constant(KEY)).numpy()
    assert len(set(found)) == 7
    np.testing.assert_array_equal(loop(tf.constant(KEY)), found)


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, None, "float32"), (2, 9, "int32")])
def test_even_draws_stay_in_their_range_and_fill_it(low: int, high: int | None, dtype: str) -> None:
    draws = KeyedDraws()
    draws.begin(tf.constant(KEY))
    found = draws.uniform((2000,), low, high, dtype).numpy()
    top = 1 if high is None else high
    assert found.dtype == dtype
    assert low <= found.min() < found.max() < top
    middle = (low + top - (dtype == "int32")) / 2
    assert found.mean() == pytest.approx(middle, rel=0.05)


def test_normal_and_gamma_draws_have_their_moments() -> None:
    draws = KeyedDraws()
    draws.begin(tf.constant(KEY))
    normal = draws.normal((4000,), 5.0, 2.0).numpy()
    gamma = draws.gamma(tf.fill((4000,), 3.0)).numpy()
    assert (normal.mean(), normal.std()) == pytest.approx((5, 2), rel=0.05)
    assert (gamma.mean(), gamma.var()) == pytest.approx((3, 3), rel=0.1)
