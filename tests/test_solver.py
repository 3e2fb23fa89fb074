"""The optimizer `lbfgs`: logistic regression solved to its optimum, strength by strength."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression as Sklearn
from tests.fakes import small

import tlkit
from tlkit.cli.run import kept_text
from tlkit.data.images import to_pixels
from tlkit.parts.optimizers import LBFGS
from tlkit.reports.charts import learning_charts
from tlkit.reports.console import plan_text
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import read_history
from tlkit.train.plan import make_plan
from tlkit.train.solver import LogisticRegression

pytestmark = pytest.mark.usefixtures("slim_vgg")

PROBE = ['head={name="probe", depths=2}', 'optimizer.name="lbfgs"', "fit.epochs=4"]


def blobs(images: int, width: int, classes: int = 3, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(images, dtype=np.int32) % classes
    return random.normal(size=(images, width)) + 0.5 * random.normal(size=(classes, width))[
        labels
    ], labels


def probabilities(solution: Any, x: Any) -> Any:
    logits = x @ solution[:-1] + solution[-1]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("images", [12, 90], ids=["wide", "long"])
@pytest.mark.parametrize("l2", [10.0, 0.1, 1e-3])
def test_it_is_scikit_learns_optimum(images: int, l2: float) -> None:
    x, labels = blobs(images, 30)
    weights = np.random.default_rng(1).uniform(0.5, 2, images)
    exact = Sklearn(C=1 / (l2 * weights.sum()), tol=1e-12, max_iter=100_000)
    exact.fit(x, labels, sample_weight=weights)
    found = LogisticRegression(x, labels, weights, 3).solve(l2)
    np.testing.assert_allclose(probabilities(found, x), exact.predict_proba(x), atol=1e-6)


@settings(max_examples=15)
@given(times=st.lists(st.integers(1, 3), min_size=9, max_size=9), width=st.sampled_from([3, 20]))
def test_a_weight_is_as_many_copies(times: list[int], width: int) -> None:
    x, labels = blobs(9, width)
    weighed = LogisticRegression(x, labels, np.array(times), 3).solve(0.1)
    copies = np.repeat(np.arange(9), times)
    repeated = LogisticRegression(x[copies], labels[copies], np.ones(len(copies)), 3).solve(0.1)
    np.testing.assert_allclose(probabilities(weighed, x), probabilities(repeated, x), atol=1e-6)


@pytest.mark.parametrize("width", [3, 40])
def test_where_it_starts_does_not_matter(width: int) -> None:
    problem = LogisticRegression(*blobs(20, width), np.ones(20), 3)
    start = np.random.default_rng(2).normal(size=(width + 1, 3))
    start[-1] -= start[-1].mean()
    one, other = problem.solve(0.1), problem.solve(0.1, start)
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("epochs", "strengths"),
    [(1, [0.001**0.5]), (2, [10, 1e-4]), (6, [10, 1, 0.1, 0.01, 1e-3, 1e-4])],
)
def test_the_strengths_fall_by_equal_factors(epochs: int, strengths: Sequence[float]) -> None:
    np.testing.assert_allclose(LBFGS().strengths(epochs), strengths)


def test_the_strengths_must_fall() -> None:
    with pytest.raises(tlkit.FieldError, match=r"^weakest: must be at most strongest, 1, got 2$"):
        LBFGS(strongest=1, weakest=2)


def experiment(*overrides: str) -> tlkit.Experiment:
    table = {
        "data": {"name": "shapes", "train": 6, "val": 3, "test": 0},
        "backbone": {"weights": "none", "image_size": 32},
        "head": {"name": "probe"},
        "optimizer": {"name": "lbfgs"},
        "fit": {"epochs": 4, "xla": False},
    }
    return tlkit.load_experiment(table, overrides=list(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['head={name="pooled", units=[4]}'],
         r"optimizer: 'lbfgs' solves one dense softmax layer and cannot train dense_1 \(Dense\)"),
        (['head.name="cosine"'], r"optimizer: .* cannot train scores \(CosineScores\)"),
        (['freeze.name="all_layers"'], r"optimizer: .* cannot train block1_conv1 \(Conv2D\)"),
        (['head={name="pooled", dropout=0.5}'], r"head: .*, so dropout_1 would do nothing"),
        (['loss.name="focal"'], r"loss: 'lbfgs' minimizes plain cross-entropy, got 'focal'"),
        (["loss.label_smoothing=0.1"], r"loss: .*set label_smoothing = 0"),
        (['schedule.name="cosine"'], r"schedule: 'lbfgs' has no learning rate, got 'cosine'"),
        (["schedule.warmup_epochs=1"], r"schedule: .* \"constant\" without a warm-up"),
        (["fit.ema=0.9"], r"fit\.ema: 'lbfgs' takes no steps to average"),
        (["phase=[{}, {ema=0.9}]"], r"phase\[1\]\.ema: 'lbfgs' takes no steps to average"),
        (['augmentation.name="affine"'], r"augmentation\.views: .* say how many"),
        (['phase=[{optimizer={name="lbfgs"}, schedule={name="cosine"}}]'],
         r"phase\[0\]\.schedule: 'lbfgs' has no learning rate"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(overrides: list[str], message: str) -> None:
    asked = experiment(*overrides)
    with pytest.raises(tlkit.ConfigError, match=message):
        make_plan(asked, asked.data.load())


def test_a_learning_rate_is_an_unknown_key() -> None:
    with pytest.raises(tlkit.ConfigError, match=r"optimizer\.learning_rate: unknown key"):
        experiment("optimizer.learning_rate=1")
    with pytest.raises(tlkit.ConfigError, match=r"optimizer\.clip_norm: unknown key"):
        experiment("optimizer.clip_norm=1")


def test_the_plan_names_the_strengths_and_all_views() -> None:
    asked = experiment('augmentation={name="affine", views=7}')
    plan = make_plan(asked, asked.data.load())
    assert plan.stages[0].views == tuple(range(7))
    assert "solved with 4 strengths of L2 regularization, 10 to 0.0001\n" in plan_text(plan)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("solver") / "x.toml"
    path.write_text(small(train=9, val=6), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> tlkit.Run:
    return tlkit.run(file, file.parent / "straight", overrides=PROBE)


def features(run: tlkit.Run, layer: str) -> Any:
    splits, backbone = run.experiment.data.load(), run.experiment.backbone
    pixels = [to_pixels(splits.read(e.path), 32, "stretch", 0.0) for e in splits.train]
    prepared = backbone.preprocess_images(np.array(pixels, np.float32))
    inner = keras.Model(run.model.input, run.model.get_layer(layer).output)
    return inner(prepared).numpy(), np.array(splits.labels(splits.train), np.int32)


def test_a_run_ends_at_scikit_learns_optimum(run: tlkit.Run) -> None:
    x, labels = features(run, "standardize")
    exact = Sklearn(C=1 / (1e-4 * len(x)), tol=1e-12, max_iter=100_000).fit(x, labels)
    np.testing.assert_allclose(features(run, "scores")[0], exact.predict_proba(x), atol=1e-4)


def test_history_and_charts_show_the_strengths(run: tlkit.Run) -> None:
    history = read_history(RunFolder(run.folder))
    assert history == run.history
    np.testing.assert_allclose([epoch.l2 or 0 for epoch in history], LBFGS().strengths(4))
    assert all(one.loss > two.loss for one, two in pairwise(history))
    titles = [chart.title for chart in learning_charts(history, 1, 4)]
    assert titles == ["Loss", "Accuracy, %", "L2 regularization"]
    assert "L2" in (run.folder / "report.html").read_text(encoding="utf-8")


class StopAfter(tlkit.Callback):
    """Sends the process a signal after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        if epoch.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_stopped_between_strengths_ends_with_the_same_bytes(
    run: tlkit.Run, file: Path
) -> None:
    folder = file.parent / "resumed"
    with pytest.raises(tlkit.Interrupted, match=r"^stopped after epoch 2 of 4"):
        tlkit.run(file, folder, overrides=PROBE, callback=StopAfter(2))
    assert tlkit.resume(folder) is not None
    for name in ("weights.safetensors", "history.csv", "predictions.csv", "plan.json"):
        assert (folder / name).read_bytes() == (run.folder / name).read_bytes(), name


def test_the_chosen_strength_is_solved_again_on_all_images(run: tlkit.Run, file: Path) -> None:
    asked = [*PROBE, "data.test=3", 'fit.keep="best"']
    chosen = tlkit.run(file, file.parent / "chosen", overrides=asked)
    again = tlkit.run(file, file.parent / "again", overrides=[*asked, "optimizer.refit=true"])
    assert again.history == chosen.history
    assert again.scores["val"] == chosen.scores["val"]

    layers = again.model.get_layer
    inner = keras.Model(again.model.input, layers("scores").input)
    splits = again.experiment.data.load()
    images = (*splits.train, *splits.val)
    pixels = np.stack([to_pixels(splits.read(example.path), 32) for example in images])
    x = inner.predict(again.experiment.backbone.preprocess_images(pixels.astype("float32")))
    regression = LogisticRegression(x, np.array(splits.labels(images)), np.ones(len(x)), 3)
    best = again.history[again.kept.epoch - 1]
    solution = regression.solve(best.l2 or 0)
    np.testing.assert_allclose(layers("scores").get_weights()[0], solution[:-1], atol=1e-4)
    assert np.abs(chosen.model.get_layer("scores").get_weights()[0] - solution[:-1]).max() > 1e-3

    assert f"fitted again to all {len(x)} training" in kept_text(again, len(x))
    assert tlkit.load(again.folder).learned_from.refit
    assert not tlkit.load(chosen.folder).learned_from.refit
    assert "fitted again to all" in (again.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_balanced_sampler_and_balanced_weights_are_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, count in (("few", 3), ("many", 9)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 255, (32, 32), np.uint8)).save(
                    folder / f"{number}.png"
                )
    table = {
        "data": {"name": "folder", "path": str(tmp_path / "images")},
        "backbone": {"weights": "none", "image_size": 32},
    }
    found = []
    for number, own in enumerate(["seed=0", 'data.sampler="balanced"',
                                  'class_weights.name="balanced"']):  # fmt: skip
        run = tlkit.run(table, tmp_path / str(number), overrides=[*PROBE[:2], "fit.epochs=1", own])
        found.append(run.model.get_layer("scores").get_weights()[0])
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
def test_then_the_backbone_is_fine_tuned_from_there(
    run: tlkit.Run, file: Path, tmp_path: Path
) -> None:
    phases = (
        'phase=[{}, {epochs=1, freeze={name="layer_names", train=["block5", "head"]}, '
        'optimizer={name="sgd", learning_rate=1e-5}}]'
    )
    both = tlkit.run(file, tmp_path / "run", overrides=[*PROBE, phases])
    assert both.history[:-1] == run.history
    solved, tuned = both.history[-2:]
    assert (solved.learning_rate, tuned.l2, tuned.learning_rate) == (0, None, 1e-5)
    assert tuned.val_loss == pytest.approx(solved.val_loss, rel=0.1)
    assert tuned.val_loss != solved.val_loss
    kept, statistics = (x.model.get_layer("standardize").get_weights() for x in (both, run))
    np.testing.assert_array_equal(kept, statistics)
    titles = [chart.title for chart in learning_charts(both.history, 1, 4)]
    assert titles[-2:] == ["Learning rate", "L2 regularization"]


@pytest.mark.slow
def test_features_of_mixed_precision_are_solved_in_float64_too(file: Path, tmp_path: Path) -> None:
    run = tlkit.run(file, tmp_path / "run", overrides=[*PROBE, 'fit.mixed_precision="bfloat16"'])
    assert run.model.get_layer("standardize").output.dtype == "float32"
    assert run.history[0].loss > run.history[-1].loss
