"""The kept weights once more, from training and validation images together."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras  # noqa: F401  # so that `make quick` skips the file here, not inside tests.test_fit
import pytest
from attrs import evolve, frozen
from tests.fakes import contents, small
from tests.test_fit import FROM_SECOND, GOOD_THEN_BAD, SCORES, Listener, Trained

import tlkit
from tlkit.data.splits import Splits
from tlkit.parts.augmentations import Affine
from tlkit.parts.kinds import Stage
from tlkit.parts.optimizers import LBFGS, SGD, Adam
from tlkit.parts.shapes import Shapes
from tlkit.train.callback import Epoch
from tlkit.train.plan import PlannedStage
from tlkit.train.refit import path_to

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")


@frozen(kw_only=True)
class TrainAndVal(Shapes):
    """The same images: those of `val` are training images, and those of `test` are `val`."""

    def load(self) -> Splits:
        splits = super().load()
        return evolve(splits, train=splits.train + splits.val, val=splits.test, test=())


PLANNED = PlannedStage(Stage(3, SCORES), 1, 0, 0, False, 4, (0,))


def both(**settings: Any) -> dict[str, Any]:
    """Return settings for training on both splits."""
    keys: Any = {"train": 8, "val": 6, "test": 3, "image_px": 16}
    return {"data": TrainAndVal(**keys), **settings}


@pytest.mark.parametrize(
    ("stages", "settings", "kept"),
    [
        ((Stage(4, FROM_SECOND),), {"keep": "best"}, 2),  # the last two are disastrous
        ((Stage(2, SCORES), Stage(2, FROM_SECOND)), {}, 4),
        pytest.param(
            (Stage(2, SCORES), Stage(2, FROM_SECOND)), {"ema": 0.8}, 4, marks=pytest.mark.slow
        ),
        ((Stage(2, FROM_SECOND),), {"augmentation": Affine(views=2)}, 2),
        pytest.param((Stage(2, FROM_SECOND),), {"batch_norm": "train"}, 2, marks=pytest.mark.slow),
    ],
    ids=["the best", "two stages", "ema", "augmented", "batch norm"],
)
def test_it_is_what_so_many_epochs_on_both_splits_give(
    stages: tuple[Stage, ...], settings: dict[str, Any], kept: int
) -> None:
    found = Trained(*stages, schedule=GOOD_THEN_BAD, refit=True, **settings)
    assert found.fitted.kept.epoch == kept
    epochs = (*stages[:-1], evolve(stages[-1], epochs=2))
    expected = Trained(*epochs, schedule=GOOD_THEN_BAD, **both(**{**settings, "keep": "last"}))
    assert found.weights == expected.weights
    test = expected.fitted.last.probabilities["val"]  # which are the images of `test` there
    assert found.fitted.kept.probabilities["test"].tobytes() == test.tobytes()
    assert found.fitted.refit_images == 8 + 6


def test_the_figures_on_val_are_those_of_the_choice() -> None:
    plain, again = (
        Trained(Stage(3, FROM_SECOND), keep="best", refit=refit).fitted for refit in (False, True)
    )
    assert again.history == plain.history
    kept = again.kept.probabilities["val"]
    assert kept.tobytes() == plain.kept.probabilities["val"].tobytes()
    assert again.kept.probabilities["test"].tobytes() != plain.kept.probabilities["test"].tobytes()
    assert plain.refit_images is None


def test_phases_are_repeated_too() -> None:
    optimizers = LBFGS(), SGD(learning_rate=9.0), Adam(learning_rate=0.01)
    stages = Stage(1, SCORES), Stage(1, FROM_SECOND), Stage(2, FROM_SECOND)
    found = Trained(*stages, optimizers=optimizers, refit=True)
    again = Trained(*stages, optimizers=optimizers, **both())
    assert found.weights == again.weights


def test_a_solver_after_steps_is_repeated_after_them() -> None:
    optimizers, stages = (
        (Adam(learning_rate=0.01), LBFGS()),
        (Stage(2, FROM_SECOND), Stage(1, SCORES)),
    )
    found = Trained(*stages, optimizers=optimizers, refit=True)
    assert found.weights == Trained(*stages, optimizers=optimizers, **both()).weights


def epochs(*stages: int, val_losses: Sequence[float]) -> list[Epoch]:
    """Return a history with these stages and validation losses."""
    return [
        Epoch(epoch=n, stage=stage, learning_rate=1, loss=1, loss_unweighted=1, accuracy=0,
              val_loss=loss, val_accuracy=0)
        for n, (stage, loss) in enumerate(zip(stages, val_losses, strict=True), start=1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "kept", "expected"),
    [
        ("last", 6, [(1, [1, 2]), (2, [3]), (3, [4, 5, 6])]),
        ("last", 5, [(1, [1, 2]), (2, [3]), (3, [4, 5])]),
        ("best", 5, [(1, [1]), (3, [4, 5])]),  # the second phase was worse, and begins after 1
        ("best", 3, [(1, [1]), (2, [3])]),
        ("best", 1, [(1, [1])]),
    ],
)
def test_only_epochs_that_led_there_are_repeated(
    keep: Any, kept: int, expected: list[tuple[int, list[int]]]
) -> None:
    history = epochs(1, 1, 2, 3, 3, 3, val_losses=[0.5, 0.6, 9, 0.4, 0.3, 0.35])
    phases = [evolve(PLANNED, phase=phase) for phase in (1, 2, 3)]
    path = path_to(history[kept - 1], history, phases, tlkit.Fit(keep=keep))
    assert [(number, [each.epoch for each in own]) for number, own in path] == expected


def test_a_later_stage_of_a_phase_begins_where_the_one_before_ended() -> None:
    history = epochs(1, 1, 2, val_losses=[0.5, 0.6, 0.4])
    path = path_to(history[2], history, [PLANNED, PLANNED], tlkit.Fit(keep="best"))
    assert [(number, len(own)) for number, own in path] == [(1, 2), (2, 1)]


def test_a_solver_alone_is_solved_again_as_by_its_own_key() -> None:
    stage = Stage(3, SCORES)
    own = Trained(stage, optimizer=LBFGS(refit=True), keep="best")
    of_fit = Trained(stage, optimizer=LBFGS(), keep="best", refit=True)
    neither = Trained(stage, optimizer=LBFGS(), keep="best")
    assert own.weights == of_fit.weights != neither.weights


def test_a_solver_s_own_key_does_not_repeat_steps_before_it() -> None:
    stages = Stage(2, FROM_SECOND), Stage(1, SCORES)
    optimizers = (Adam(learning_rate=0.01), LBFGS(refit=True))
    listener = Listener()
    found = Trained(*stages, optimizers=optimizers, callback=listener)
    assert found.fitted.refit_images == 8 + 6
    assert not [note for note in listener.notes if "once more" in note]


def test_what_is_done_is_said() -> None:
    listener = Listener()
    Trained(
        Stage(1, SCORES), Stage(2, FROM_SECOND), optimizers=(LBFGS(), Adam()), refit=True,
        callback=listener,
    )  # fmt: skip
    assert listener.notes[-2:] == [
        "once more, with the images of val: stage 1, its solver",
        "once more, with the images of val: stage 2, 2 epochs",
    ]
    assert listener.began[-1] == "epoch 3 of 3"  # what is repeated is no new epoch


class StopThere(tlkit.Callback):
    def on_note(self, text: str) -> None:
        if "once more" in text:
            signal.raise_signal(signal.SIGTERM)


def test_a_run_stopped_there_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        small() + "[fit]\nepochs = 2\nbatch_size = 4\nxla = false\nrefit = true\n"
        '[freeze]\nname = "layer_names"\ntrain = ["block5_conv3", "head"]\n',
        encoding="utf-8",
    )
    done = tlkit.run(file, tmp_path / "straight")
    with pytest.raises(tlkit.Interrupted, match=r"after epoch 2 of 2"):
        tlkit.run(file, tmp_path / "run", callback=StopThere())
    tlkit.resume(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(done.folder)
    plain = tlkit.run(file, tmp_path / "plain", overrides=["fit.refit=false"])
    names = ["history.csv"]
    assert contents(plain.folder, names) == contents(done.folder, names)
    assert contents(plain.folder, ["weights.safetensors"]) != contents(
        done.folder, ["weights.safetensors"]
    )
