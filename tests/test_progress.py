"""What a run says while it works: lines through a pipe, and the time that is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import tlkit
from tlkit.reports import progress
from tlkit.reports.progress import TimeLeft
from tlkit.train.cost import duration_text, stage_works

EXPERIMENT = {
    "data": {"name": "shapes", "train": 600, "val": 100, "test": 100},
    "backbone": {"name": "vgg16", "weights": "none", "image_size": 64},
    "head": {"name": "pooled"},
    "fit": {"epochs": 4},
}
FIGURES: dict[str, Any] = {
    "stage": 1, "learning_rate": 0.001, "loss": 1.5, "loss_unweighted": 1.5, "accuracy": 0.5,
    "val_loss": 1.2, "val_accuracy": 0.6,
}  # fmt: skip


class Clock:
    """A clock that goes when it is told to."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture(scope="module")
def plan() -> tlkit.Plan:
    return tlkit.check(EXPERIMENT)


def test_the_time_left_counts_the_frozen_layers_and_follows_what_is_done(
    clock: Clock, plan: tlkit.Plan
) -> None:
    left = TimeLeft(plan)
    (work,) = stage_works(plan, left.cores)
    whole = work.left(0)
    assert left.left == whole == work.prefix * 800 + work.epoch * 4
    left.begin(1)
    left.images(800)
    assert left.left == pytest.approx(work.epoch * 4)
    clock.now += 60
    seconds = 60 * left.left / left.done
    assert str(left) == f"about {duration_text(seconds)} left"
    left.batch(1.0)
    left.begin(2)
    assert left.left == pytest.approx(work.epoch * 3)


def test_the_frozen_layers_work_before_the_first_epoch_counts_too(
    clock: Clock, plan: tlkit.Plan
) -> None:
    """A head that standardizes its features needs them before it is trained."""
    terminal = tlkit.Terminal()
    terminal._time = time_left = TimeLeft(plan)
    terminal.on_stage_begin(1, plan.stages[0])
    for done in range(100, 601, 100):
        terminal.on_features_progress("train", done, 600)
    terminal.on_epoch_begin(1, 4, 600)
    (stage,) = time_left.stages
    assert time_left.left == pytest.approx(stage.left(0) - 600 * stage.prefix)
    assert time_left.done == pytest.approx(600 * stage.prefix)


def test_features_from_the_cache_count_as_nothing_left(clock: Clock, plan: tlkit.Plan) -> None:
    left = TimeLeft(plan)
    left.begin(1)
    left.batch(1.0)
    assert left.left > 0.9 * stage_works(plan, left.cores)[0].prefix * 800
    left.begin(2)
    assert left.left == pytest.approx(3 * stage_works(plan, left.cores)[0].epoch)


def test_through_a_pipe_a_line_now_and_then_tells_how_far_the_frozen_layers_are(
    clock: Clock, plan: tlkit.Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = tlkit.Terminal()
    terminal._time = TimeLeft(plan)
    terminal.on_stage_begin(1, plan.stages[0])
    terminal.on_epoch_begin(1, 4, 600)
    for done in range(8, 601, 8):
        clock.now += 1.0
        terminal.on_features_progress("train", done, 600)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 7
    assert all("frozen layers: " in line and line.endswith(" left") for line in lines)
    assert all(len(line) <= 80 for line in lines)


def epoch_lines(capsys: pytest.CaptureFixture[str], numbers: range, *figures: Any) -> list[str]:
    terminal = tlkit.Terminal()
    l2 = (1.0,) if "l2" in figures[0] else ()
    stage = SimpleNamespace(l2=l2, stage=SimpleNamespace(epochs=9), trainable_params=9)
    terminal.on_stage_begin(1, stage)  # type: ignore[arg-type]  # all that it reads
    for number, changed in zip(numbers, figures, strict=True):
        terminal.on_epoch_begin(number, numbers[-1], 600)
        terminal.on_epoch_end(tlkit.Epoch(epoch=number, **FIGURES | changed))
    return capsys.readouterr().err.splitlines()[1:]


def test_an_epochs_line_says_a_new_rate_once(capsys: pytest.CaptureFixture[str]) -> None:
    rates = [{"learning_rate": rate} for rate in (0.001, 0.000998, 8.12e-4, 1e-4, 8.12e-5)]
    lines = epoch_lines(capsys, range(1, 6), *rates)
    said = [line.partition("rate ")[2] for line in lines]
    assert said == ["0.001", "", "8.1e-4", "1e-4", "8.1e-5"]


def test_an_epochs_line_has_the_loss_that_compares_with_validation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (line,) = epoch_lines(capsys, range(1, 2), {"loss": 0.4676, "loss_unweighted": 0.4776})
    assert "  loss 0.4776, val 1.2000  " in line
    assert "0.4676" not in line


@pytest.mark.parametrize("changed", [{"learning_rate": 0.000811}, {"l2": 8.11e-5}, {"l2": 1e-10}])
@pytest.mark.parametrize("loss", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("accuracy", [0.5, 1.0])
@pytest.mark.parametrize("epochs", [9, 100, 1000])
def test_an_epochs_line_fits_80_columns(
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, float], loss: float, accuracy: float, epochs: int,
) -> None:  # fmt: skip
    losses = {"loss": loss / 3, "loss_unweighted": loss, "val_loss": loss}
    shares = {"accuracy": accuracy, "val_accuracy": accuracy}
    lines = epoch_lines(capsys, range(epochs, epochs + 1), losses | shares | changed)
    assert max(map(len, lines)) <= 80
    assert sum(" rate " in line or " L2 " in line for line in lines) == 1
    if loss < 10 and accuracy < 1 and epochs <= 100:
        assert len(lines) == 1


def test_a_stage_of_one_epoch_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    stage = SimpleNamespace(l2=(), stage=SimpleNamespace(epochs=1), trainable_params=9)
    tlkit.Terminal().on_stage_begin(1, stage)  # type: ignore[arg-type]  # all that it reads
    assert capsys.readouterr().err == "stage 1: 1 epoch, 9 trainable parameters\n"
