"""Training in stages: the last epoch and the best, early stopping, and BatchNorm across stages."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
from attrs import evolve, frozen
from tests.fakes import FakeBackbone

import tlkit
from tlkit.config.experiment import Phase
from tlkit.data.checks import check_images
from tlkit.data.images import Reader
from tlkit.parts.augmentations import Affine
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import HeadOnly, HeadThen
from tlkit.parts.heads import Pooled
from tlkit.parts.kinds import Stage
from tlkit.parts.optimizers import SGD, Adam
from tlkit.parts.shapes import Shapes
from tlkit.train.assemble import assemble
from tlkit.train.checkpoint import Checkpoints
from tlkit.train.checkpointer import Checkpointer
from tlkit.train.fit import Fitted, Outcome, Training, fit
from tlkit.train.plan import make_plan

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")


@frozen(kw_only=True)
class TwoConvolutions(FakeBackbone):
    """A small backbone with a BatchNorm: layers 1 to 3, of which the last is a block."""

    def layers(self) -> tlkit.LayerTable:
        return tlkit.LayerTable(
            (
                tlkit.Layer("first", "Conv2D", "block1", (6, 6, 4), params=108),
                tlkit.Layer(
                    "norm", "BatchNormalization", "block1", (6, 6, 4), 8, 8, batch_norm=True
                ),
                tlkit.Layer("second", "Conv2D", "block2", (4, 4, 8), params=296),
            )
        )

    def build(self) -> Any:
        inputs = keras.layers.Input((8, 8, 3))
        outputs = keras.layers.Conv2D(4, 3, use_bias=False, name="first")(inputs)
        outputs = keras.layers.BatchNormalization(name="norm")(outputs)
        outputs = keras.layers.Conv2D(8, 3, activation="tanh", name="second")(outputs)
        return keras.Model(inputs, outputs)


@frozen(kw_only=True)
class Given(tlkit.FreezePolicy):
    """A policy that gives the stages it was made with."""

    given: tuple[Stage, ...]

    def stages(self, layers: tlkit.LayerTable, epochs: int) -> tuple[Stage, ...]:
        return self.given


@frozen(kw_only=True)
class Rates(tlkit.Schedule):
    """One rate an epoch."""

    rates: tuple[float, ...]

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        return self.rates[len(history)]


# Rates of first, norm, second, pool and scores.
SCORES = (0.0, 0.0, 0.0, 1.0, 1.0)
FROM_SECOND = (0.0, 0.0, 1.0, 1.0, 1.0)
ALL = (1.0,) * 5


class Listener(tlkit.Callback):
    """Writes down notes and what begins."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.began: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_stage_begin(self, number: int, planned: Any) -> None:
        self.began.append(f"stage {number}")

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        self.began.append(f"epoch {epoch} of {epochs}")


class Trained:
    """What training with one backbone, seed and data gave, and the model it left."""

    def __init__(
        self,
        *stages: Stage,
        callback: tlkit.Callback | None = None,
        batch_norm: Literal["inference", "train"] = "inference",
        optimizer: tlkit.Optimizer | None = None,
        optimizers: Sequence[tlkit.Optimizer] = (),
        schedule: tlkit.Schedule | None = None,
        augmentation: tlkit.Augmentation | None = None,
        data: tlkit.Dataset | None = None,
        **settings: Any,
    ) -> None:
        length = sum(stage.epochs for stage in stages)
        experiment = tlkit.Experiment(
            data=data or Shapes(train=8, val=6, test=3, image_px=16),
            backbone=TwoConvolutions(),
            head=Pooled(),
            freeze=Given(given=stages, batch_norm=batch_norm),
            optimizer=optimizer or Adam(learning_rate=0.01),
            fit=tlkit.Fit(epochs=length, xla=False, **({"batch_size": 4} | settings)),
        )
        experiment = evolve(
            experiment,
            schedule=schedule or experiment.schedule,
            augmentation=augmentation or experiment.augmentation,
        )
        if optimizers:  # each stage is a phase with its own
            phases = [
                Phase(freeze=Given(given=(stage,)), optimizer=own, epochs=stage.epochs)
                for stage, own in zip(stages, optimizers, strict=True)
            ]
            fit_of_all = evolve(experiment.fit, epochs=10)
            plain = tlkit.Experiment(data=experiment.data)
            experiment = evolve(
                experiment, phase=tuple(phases), fit=fit_of_all, freeze=plain.freeze,
                optimizer=plain.optimizer,
            )  # fmt: skip
        splits = experiment.data.load()
        self.plan = make_plan(experiment, splits)
        self.model, weights = assemble(experiment.backbone, experiment.head, 3, experiment.seed)
        self.first_weights = self.weights
        hashes = check_images(splits).hashes
        self.recorded: list[int] = []
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder) / "checkpoints")
            training = Training(
                experiment=experiment, plan=self.plan, splits=splits, hashes=hashes,
                model=self.model, weights=weights, cache=None,
                checkpointer=Checkpointer(self.model, self.plan, experiment.fit, checkpoints),
                record=lambda history: self.recorded.append(len(history)),
            )  # fmt: skip
            self.fitted: Fitted = fit(training, callback or tlkit.Callback())

    @property
    def weights(self) -> dict[str, bytes]:
        return {
            f"{layer.name}/{variable.name}": variable.numpy().tobytes()
            for layer in self.model.layers
            for variable in layer.weights
        }

    @property
    def numbers(self) -> list[int]:
        return [epoch.epoch for epoch in self.fitted.history]


def said(outcome: Outcome) -> tuple[int, dict[str, bytes]]:
    """An outcome in a form that can be compared."""
    return outcome.epoch, {split: p.tobytes() for split, p in outcome.probabilities.items()}


@pytest.mark.parametrize(("held_bytes", "written"), [(2**28, [3]), (0, [1, 2, 3])])
def test_what_is_large_is_written_after_every_epoch_and_not_held(
    held_bytes: int, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    commit = Checkpoints.commit

    def told(self: Checkpoints, state: Any) -> None:
        found.append(state.epoch)
        commit(self, state)

    monkeypatch.setattr("tlkit.train.checkpointer.HELD_BYTES", held_bytes)
    monkeypatch.setattr(Checkpoints, "commit", told)
    Trained(Stage(3, SCORES))
    assert found == written


# Two good epochs in each stage and then disastrous ones, so the second is the best of all.
GOOD_THEN_BAD = Rates(rates=(0.01, 0.01, 9.0, 9.0))
STAGES = {
    "one stage": (Stage(4, FROM_SECOND),),
    "a longer tail follows": (Stage(3, SCORES), Stage(1, FROM_SECOND)),
    "a shorter tail follows": (Stage(3, FROM_SECOND), Stage(1, SCORES)),
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES.keys())
def test_the_best_epoch_is_what_a_run_of_so_many_epochs_ends_with(
    stages: tuple[Stage, ...],
) -> None:
    stopped = Trained(evolve(stages[0], epochs=2), schedule=GOOD_THEN_BAD)
    best, last = (Trained(*stages, schedule=GOOD_THEN_BAD, keep=keep) for keep in ("best", "last"))
    assert best.fitted.best.epoch == 2
    assert len({planned.cut for planned in best.plan.stages}) == len(stages)
    assert best.weights == stopped.weights
    assert said(best.fitted.kept) == said(best.fitted.best) == said(stopped.fitted.last)
    assert said(last.fitted.best) == said(best.fitted.best)
    assert said(last.fitted.kept) == said(last.fitted.last) == said(best.fitted.last)
    assert last.weights != best.weights
    assert best.fitted.history == last.fitted.history
    assert best.recorded == [1, 2, 3, 4]


@pytest.mark.parametrize("rate", [0.0, -0.1, math.nan, math.inf])
def test_what_is_no_learning_rate_ends_the_run(rate: float) -> None:
    message = (
        r"^schedule: its `learning_rate` must return a finite number above 0, got \S+ for epoch 1$"
    )
    with pytest.raises(tlkit.PartError, match=message):
        Trained(Stage(1, SCORES), schedule=Rates(rates=(rate,)))


def test_if_the_last_epoch_is_the_best_both_are_one() -> None:
    found = Trained(Stage(2, FROM_SECOND), keep="best").fitted
    assert found.best is found.last is found.kept
    assert found.last.epoch == 2


@pytest.mark.parametrize(("by", "best"), [("val_loss", 3), ("val_accuracy", 1)])
def test_loss_and_accuracy_can_choose_different_epochs(by: Any, best: int) -> None:
    """Steps so small that the loss falls while every prediction stays."""
    still = SGD(learning_rate=1e-4)
    found = Trained(Stage(3, FROM_SECOND), optimizer=still, monitor=by, batch_size=8).fitted
    assert len({epoch.val_accuracy for epoch in found.history}) == 1
    assert found.best.epoch == best


STILL = SGD(learning_rate=1e-30)  # no epoch is better than the first of its stage


def test_early_stopping_ends_its_stage_and_the_next_begins_with_its_own_number_and_count() -> None:
    listener = Listener()
    stopped = Trained(
        Stage(5, SCORES), Stage(4, FROM_SECOND), optimizer=STILL, callback=listener,
        early_stop_patience=2,
    )  # fmt: skip
    assert stopped.numbers == [1, 2, 3, 6, 7, 8]
    assert [epoch.stage for epoch in stopped.fitted.history] == [1, 1, 1, 2, 2, 2]
    assert listener.began == [
        "stage 1", "epoch 1 of 9", "epoch 2 of 9", "epoch 3 of 9",
        "stage 2", "epoch 6 of 9", "epoch 7 of 9", "epoch 8 of 9",
    ]  # fmt: skip
    assert listener.notes == [
        f"stage {number} ends early: val_loss has not improved for 2 epochs" for number in (1, 2)
    ]


@pytest.mark.parametrize("settings", [{}, {"early_stop_patience": 2}], ids=["unset", "in time"])
def test_a_stage_that_has_all_its_epochs_is_not_said_to_end_early(settings: Any) -> None:
    listener = Listener()
    stages = Stage(3, SCORES), Stage(3, FROM_SECOND)
    found = Trained(*stages, optimizer=STILL, callback=listener, **settings)
    assert found.numbers == [1, 2, 3, 4, 5, 6]
    assert listener.notes == []


def test_an_epoch_is_the_same_whether_or_not_the_stage_before_it_ended_early() -> None:
    """Its number decides the order of the images and their augmentation."""
    stages = Stage(3, SCORES), Stage(3, FROM_SECOND)
    whole, stopped = (
        Trained(
            *stages, optimizer=STILL, augmentation=Affine(), early_stop_patience=patience
        ).fitted.history
        for patience in (None, 1)
    )
    assert len({epoch.loss for epoch in whole}) == len(whole)
    assert stopped == (*whole[:2], *whole[3:5])


def of_norm(trained: Trained) -> dict[str, bytes]:
    return {name: value for name, value in trained.weights.items() if name.startswith("norm/")}


@pytest.mark.parametrize("stages", [(SCORES, ALL), (ALL, SCORES)], ids=["thawed", "frozen"])
def test_batch_norm_is_held_to_the_bit_in_all_stages(stages: tuple[tuple[float, ...], ...]) -> None:
    found = Trained(*(Stage(1, rates) for rates in stages))
    held = {name for name, value in found.weights.items() if value == found.first_weights[name]}
    assert held == set(of_norm(found))


@pytest.mark.parametrize(
    ("stages", "learns"), [((ALL, SCORES), False), ((SCORES, ALL), True)], ids=["frozen", "thawed"]
)
def test_batch_norm_that_is_asked_to_learns_in_the_stages_that_train_it_and_in_no_other(
    stages: tuple[tuple[float, ...], ...], learns: bool
) -> None:
    planned = [Stage(2, rates) for rates in stages]
    half, whole = (of_norm(Trained(*planned[:count], batch_norm="train")) for count in (1, 2))
    assert {name for name in half if half[name] != whole[name]} == (set(half) if learns else set())


RUN = tlkit.Experiment(
    data=Shapes(train=6, val=3, test=3, image_px=32),
    backbone=VGG16(weights="none", image_size=32),
    head=Pooled(),
    freeze=HeadThen(train=("block5_conv3",), rate=1e3),
    fit=tlkit.Fit(epochs=2, batch_size=4, xla=False),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tlkit.Run]:
    """The same run twice, with either epoch's weights kept; its first epoch is the best."""
    return {
        keep: tlkit.run(
            evolve(RUN, fit=evolve(RUN.fit, keep=keep)), tmp_path_factory.mktemp("runs") / keep
        )
        for keep in ("last", "best")
    }


def metrics(run: tlkit.Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("keep", "epoch", "other"), [("last", 2, "best"), ("best", 1, "last")])
def test_the_metrics_are_those_of_what_was_kept_with_the_other_s_beside(
    runs: dict[str, tlkit.Run], keep: str, epoch: int, other: str
) -> None:
    run, found = runs[keep], metrics(runs[keep])
    assert (found["keep"], found["epoch"], found[other]["epoch"]) == (keep, epoch, 3 - epoch)
    assert {key: found[key] for key in ("epoch", "val", "test")} == run.kept.as_json()
    assert found[other] == getattr(run, other).as_json()
    assert keep not in found
    assert found[other] == {key: metrics(runs[other])[key] for key in ("epoch", "val", "test")}
    assert run.scores == run.kept.scores
    assert run.result == run.scores["test"]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_weights_and_predictions_on_disk_are_those_of_what_was_kept(
    runs: dict[str, tlkit.Run], keep: str
) -> None:
    run = runs[keep]
    splits = RUN.data.load()
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    written = np.array([[row[f"p_{name}"] for name in splits.classes] for row in rows], np.float32)
    classifier = tlkit.load(run.folder)
    paths = [example.path for example in splits.test]
    found = np.concatenate(list(classifier.extractor.stream(Reader(splits.read, 32), paths)))
    np.testing.assert_array_equal(found, written)
    kept, loaded = (
        [variable.numpy().tobytes() for variable in model.weights]
        for model in (run.model, classifier.model)
    )
    assert kept == loaded


def test_what_the_best_epoch_of_the_first_stage_left_is_on_disk(
    runs: dict[str, tlkit.Run], tmp_path: Path
) -> None:
    stopped = evolve(RUN, freeze=HeadOnly(), fit=evolve(RUN.fit, epochs=1))
    tlkit.run(stopped, tmp_path / "stopped")
    for name in ("weights.safetensors", "predictions.csv"):
        here, there = (
            (folder / name).read_bytes() for folder in (tmp_path / "stopped", runs["best"].folder)
        )
        assert here == there
