"""The best epoch, and when to stop waiting for a better one."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

import tlkit
from tlkit.train.callback import best_of, should_stop

MEASURES = ("val_loss", "val_accuracy")
measures = st.sampled_from(MEASURES)
values = st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=8)  # few: often equal


def epochs(values: list[float], by: str) -> list[tlkit.Epoch]:
    """Epochs that differ in one value."""
    others = ("learning_rate", "loss", "loss_unweighted", "accuracy", *MEASURES)
    return [
        tlkit.Epoch(epoch=number, stage=1, **(dict.fromkeys(others, 0.5) | {by: value}))
        for number, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("by", "values", "best"),
    [
        ("val_loss", [0.5], 1),
        ("val_loss", [0.5, 0.2, 0.9], 2),
        ("val_loss", [0.5, 0.2, 0.2], 2),
        ("val_accuracy", [0.5, 0.2, 0.9], 3),
        ("val_accuracy", [0.5, 0.9, 0.9], 2),
    ],
)
def test_the_best_is_the_first_with_the_least_loss_or_the_highest_accuracy(
    by: str, values: list[float], best: int
) -> None:
    assert best_of(epochs(values, by), by).epoch == best


@pytest.mark.parametrize(
    ("later", "best"),
    [
        ([(0.1, 0.8)], 3),
        ([(0.1, 0.7)], 2),  # less accurate
        ([(0.2, 0.9)], 2),  # no lower loss
        ([(0.1, 0.8), (0.05, 0.7), (0.08, 0.8), (0.08, 0.9)], 5),
        ([(0.19, 0.9), (0.01, 0.8)], 4),  # the least loss of those that count
    ],
)
def test_by_both_a_later_stage_counts_only_if_it_is_no_less_accurate(
    later: list[tuple[float, float]], best: int
) -> None:
    """The first stage has losses 0.3, 0.2 and accuracies 0.9, 0.8: its best is by the loss."""
    figures = [(1, 0.3, 0.9), (1, 0.2, 0.8), *((2, *pair) for pair in later)]
    history = [
        evolve(epochs([loss], "val_loss")[0], epoch=n, stage=stage, val_accuracy=accuracy)
        for n, (stage, loss, accuracy) in enumerate(figures, start=1)
    ]
    assert best_of(history, "val_loss_and_accuracy").epoch == best


@given(values, measures, st.integers(1, 9))
def test_training_stalls_when_none_of_the_last_epochs_is_better_than_all_before(
    values: list[float], by: str, patience: int
) -> None:
    sign = -1 if by == "val_accuracy" else 1
    before, last = values[:-patience], values[-patience:]
    expected = bool(before) and min(sign * v for v in last) >= min(sign * v for v in before)
    assert should_stop(epochs(values, by), by, patience) == expected


@given(values, measures)
def test_without_patience_or_epochs_training_never_stalls(values: list[float], by: str) -> None:
    assert not should_stop(epochs(values, by), by, None)
    assert not should_stop([], by, 1)


def test_old_names_of_methods_still_work_with_the_new_one_named() -> None:
    with pytest.warns(tlkit.RenamedWarning, match=r"Old\.epoch_done: is now called on_epoch_end$"):

        class Old(tlkit.Callback):
            heard: int | None = None

            def epoch_done(self, epoch: tlkit.Epoch) -> None:
                self.heard = epoch.epoch

    callback = Old()
    callback.on_epoch_end(epochs([0.5], "val_loss")[0])
    assert callback.heard == 1
