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


def test_an_epoch_is_a_line_of_80_columns_and_says_a_new_rate_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = tlkit.Terminal()
    for number, rate in enumerate((0.001, 0.001, 0.0001), start=1):
        terminal.on_epoch_begin(number, 300, 600)
        terminal.on_epoch_end(tlkit.Epoch(epoch=number, **FIGURES | {"learning_rate": rate}))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("rate ")[2] for line in lines] == ["0.001", "", "0.0001"]
    assert max(len(line.partition("  rate")[0]) for line in lines) <= 80
    assert "unweighted" not in "".join(lines)
    stage = SimpleNamespace(l2=(0.000811,), stage=SimpleNamespace(epochs=12), trainable_params=9)
    terminal.on_stage_begin(1, stage)  # type: ignore[arg-type]  # all that it reads
    terminal.on_epoch_begin(12, 12, 600)
    best = {"loss": 0, "loss_unweighted": 0, "accuracy": 1, "val_accuracy": 1, "l2": 0.000811}
    terminal.on_epoch_end(tlkit.Epoch(epoch=12, **FIGURES | best))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("L2 0.000811")
    assert len(line) <= 80
