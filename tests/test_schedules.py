"""Schedules, with Keras's own `ReduceLROnPlateau` as the oracle."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlkit.parts.schedules import Constant, Cosine, OneCycle, Plateau
from tlkit.system.keras import start_keras

# Keras compares in float32, where sixteenths and their like are exact: no rounding can differ.
sixteenths = st.integers(0, 16).map(lambda n: n / 16)
plateaus = st.builds(
    Plateau,
    factor=st.sampled_from([0.25, 0.5, 0.75]),
    patience=st.integers(1, 2),
    min_delta=st.sampled_from([0.0, 1 / 16, 1 / 4]),
    cooldown=st.integers(0, 3),
    min_rate=st.sampled_from([0.0, 1 / 64, 1 / 8]),
)


def keras_rates(plateau: Plateau, base: float, losses: list[float]) -> list[float]:
    """The rate of every epoch, and of the one after the last, as Keras's callback sets them."""
    start_keras()
    import keras

    callback = keras.callbacks.ReduceLROnPlateau(
        monitor="loss",
        mode="min",
        factor=plateau.factor,
        patience=plateau.patience,
        min_delta=plateau.min_delta,
        cooldown=plateau.cooldown,
        min_lr=plateau.min_rate,
    )
    model = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=base))
    callback.set_model(model)
    callback.on_train_begin()
    rates = [base]
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"loss": loss})
        rates.append(model.optimizer.learning_rate)
    return rates


def our_rates(plateau: Plateau, base: float, losses: list[float]) -> list[float]:
    history = [{"loss": loss} for loss in losses]
    return [plateau.learning_rate(base, len(losses), history[:n]) for n in range(len(losses) + 1)]


@given(plateaus, st.sampled_from([1.0, 1 / 8]), st.lists(sixteenths, min_size=8, max_size=14))
def test_plateau_lowers_the_rate_when_keras_does(
    plateau: Plateau, base: float, losses: list[float]
) -> None:
    assert our_rates(plateau, base, losses) == keras_rates(plateau, base, losses)


def test_plateau_lowers_again_after_as_many_bad_epochs() -> None:
    plateau = Plateau(factor=0.5, patience=2)
    assert our_rates(plateau, 1.0, [3, 3, 3, 3, 3, 2]) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_plateau_never_goes_below_its_least_rate_nor_raises_a_lower_one() -> None:
    plateau = Plateau(factor=0.1, patience=1, min_rate=0.02)
    assert our_rates(plateau, 1.0, [1, 1, 1, 1]) == [1, 1, 0.1, 0.02, 0.02]
    assert our_rates(plateau, 0.01, [1, 1, 1]) == [0.01] * 4


@pytest.mark.parametrize("monitor", ["loss", "loss_unweighted", "val_loss"])
def test_plateau_watches_what_it_is_told_to(monitor: str) -> None:
    watched = Plateau(monitor=monitor, patience=1, factor=0.5)  # type: ignore[arg-type]  # a literal
    falling = {"loss": 1.0, "loss_unweighted": 1.0, "val_loss": 1.0}
    history = [{name: value / n for name, value in falling.items()} for n in (1, 2, 3)]
    assert watched.learning_rate(1.0, 9, history) == 1.0
    assert watched.learning_rate(1.0, 9, [*history, {**history[-1], monitor: 5.0}]) == 0.5


@given(st.floats(1e-9, 10), st.lists(st.fixed_dictionaries({"loss": sixteenths}), max_size=5))
def test_constant_is_constant(base: float, history: list[dict[str, float]]) -> None:
    assert Constant().learning_rate(base, 9, history) == base


def cosine_rates(cosine: Cosine, base: float, epochs: int) -> list[float]:
    return [cosine.learning_rate(base, epochs, [{}] * done) for done in range(epochs)]


def test_cosine_rises_to_the_full_rate_and_falls_by_half_a_wave() -> None:
    found = cosine_rates(Cosine(warmup_epochs=3), 1.0, 7)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == pytest.approx([0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


@given(
    st.builds(Cosine, warmup_epochs=st.integers(0, 8), min_rate=st.floats(0, 0.5)),
    st.floats(0.5, 2),
    st.integers(1, 30),
)
def test_cosine_stays_between_its_limits_and_never_rises_after_the_warm_up(
    cosine: Cosine, base: float, epochs: int
) -> None:
    found = cosine_rates(cosine, base, epochs)
    falling = found[int(cosine.warmup_epochs) :]
    assert falling == sorted(falling, reverse=True)
    assert falling[:1] in ([], [base])
    assert all(cosine.min_rate <= rate <= base for rate in falling)
    assert all(0 < rate < base for rate in found[: int(cosine.warmup_epochs)])


def step_rates(schedule: Any, epochs: int, steps: int) -> list[float | None]:
    """The rate of every step; the base is 1."""
    middles = [(step + 0.5) / steps for step in range(epochs * steps)]
    return [schedule.step_rate(1.0, epochs, middle) for middle in middles]


def test_one_cycle_is_fastai_s() -> None:
    """`combined_cos(0.25, lr / 25, lr, lr / 1e5)`, at the middle of each step."""

    def cosine(start: float, end: float, share: float) -> float:
        return start + (1 + math.cos(math.pi * (1 - share))) * (end - start) / 2

    shares = [(step + 0.5) / 40 for step in range(40)]
    expected = [
        cosine(1 / 25, 1, share / 0.25) if share < 0.25 else cosine(1, 1e-5, (share - 0.25) / 0.75)
        for share in shares
    ]
    assert step_rates(OneCycle(), 10, 4) == pytest.approx(expected)
    other = OneCycle(warmup_frac=0.5, start_div=2, end_div=10)
    assert step_rates(other, 1, 1) == [1.0]
    assert other.step_rate(1.0, 3, 0.0) == pytest.approx(0.5)
    assert other.step_rate(1.0, 3, 3.0) == pytest.approx(0.1)
    assert OneCycle().learning_rate(1.0, 8, [{}]) == OneCycle().step_rate(1.0, 8, 1.5)


def test_cosine_per_step_warms_up_in_a_fraction_of_an_epoch_and_then_falls_at_every_step() -> None:
    schedule = Cosine(warmup_epochs=0.5, per_step=True, min_rate=0.25)
    found = step_rates(schedule, 2, 4)
    expected = [0.25 + 0.75 * (1 + math.cos(math.pi * (p - 0.5) / 1.5)) / 2
                for p in (0.625, 0.875, 1.125, 1.375, 1.625, 1.875)]  # fmt: skip
    assert found == pytest.approx([0.25, 0.75, *expected])
    assert schedule.step_rate(1.0, 2, 2.0) == pytest.approx(0.25)
    assert step_rates(Cosine(warmup_epochs=1), 2, 4) == [None] * 8


@pytest.mark.parametrize("schedule", [Constant, Plateau])
def test_a_warm_up_rises_at_every_step_and_then_the_epochs_rate_holds(schedule: Any) -> None:
    assert step_rates(schedule(), 2, 2) == [None] * 4
    found = step_rates(schedule(warmup_epochs=1.5), 2, 2)
    assert found == [pytest.approx(1 / 6), pytest.approx(0.5), pytest.approx(5 / 6), None]
