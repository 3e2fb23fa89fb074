"""Laws of what an epoch draws: how often each class and each image, and what it depends on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tlkit
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.heads import Pooled
from tlkit.parts.shapes import Shapes
from tlkit.train import stage
from tlkit.train.plan import seed_for
from tlkit.train.sampling import epoch_order

pytestmark = pytest.mark.usefixtures("slim_vgg")

Labels = npt.NDArray[np.int32]
seeds, epochs = st.integers(0, 2**31 - 1), st.integers(1, 30)
samplers = st.sampled_from(["shuffle", "balanced"])


@st.composite
def labelled(draw: st.DrawFn) -> Labels:
    """Two to five classes of one to twelve images, in any order."""
    counts = draw(st.lists(st.integers(1, 12), min_size=2, max_size=5))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return np.array(draw(st.permutations(labels)), np.int32)


def drawn(labels: Labels, seed: int, first: int, last: int) -> list[npt.NDArray[np.int64]]:
    return [epoch_order(labels, "balanced", seed, epoch) for epoch in range(first, last + 1)]


def spread(counts: Any) -> int:
    return int(max(counts) - min(counts))


@given(labelled(), seeds, epochs)
def test_shuffle_draws_every_image_once(labels: Labels, seed: int, epoch: int) -> None:
    """As it always has: the same numbers as before there were samplers."""
    order = epoch_order(labels, "shuffle", seed, epoch)
    before = np.random.default_rng(seed_for(seed, "order", epoch)).permutation(len(labels))
    assert order.tolist() == before.tolist()
    assert sorted(order) == [*range(len(labels))]


@given(labelled(), seeds, epochs)
def test_balanced_draws_as_many_images_as_there_are(labels: Labels, seed: int, epoch: int) -> None:
    order = epoch_order(labels, "balanced", seed, epoch)
    assert order.shape == (len(labels),)
    assert 0 <= order.min() <= order.max() < len(labels)


@given(labelled(), seeds, epochs, st.integers(0, 4))
def test_every_class_is_drawn_equally_often_up_to_1_in_an_epoch_and_in_all(
    labels: Labels, seed: int, first: int, more: int
) -> None:
    orders = drawn(labels, seed, first, first + more)
    for order in orders:
        assert spread(np.bincount(labels[order])) <= 1
    from_the_start = np.concatenate(drawn(labels, seed, 1, first))
    assert spread(np.bincount(labels[from_the_start])) <= 1


@given(labelled(), seeds, epochs, st.integers(0, 4))
def test_no_image_is_drawn_twice_before_all_of_its_class_were_drawn_once(
    labels: Labels, seed: int, first: int, more: int
) -> None:
    """In an epoch, and in any run of epochs taken together."""
    together = np.concatenate(drawn(labels, seed, first, first + more))
    times = np.bincount(together, minlength=len(labels))
    for label in np.unique(labels):
        assert spread(times[labels == label]) <= 1


@given(labelled(), seeds, epochs, samplers)
def test_an_order_depends_on_nothing_but_its_arguments(
    labels: Labels, seed: int, epoch: int, sampler: str
) -> None:
    expected = epoch_order(labels, sampler, seed, epoch).tolist()
    np.random.seed(seed)  # the global generators are what it must not look at
    random.seed(seed)
    epoch_order(labels, sampler, seed, epoch + 1)
    assert epoch_order(labels.copy(), sampler, seed, epoch).tolist() == expected


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_seeds_and_epochs_draw_apart(sampler: str) -> None:
    labels = np.arange(60, dtype=np.int32) % 4 // 2
    orders = [
        tuple(epoch_order(labels, sampler, seed, epoch))
        for seed in range(4)
        for epoch in range(1, 5)
    ]
    assert len({*orders}) == 16


def test_the_classes_are_mixed_within_an_epoch() -> None:
    labels = np.repeat([0, 1], [90, 10]).astype(np.int32)
    found = labels[epoch_order(labels, "balanced", 0, 1)]
    assert 10 < np.abs(np.diff(found)).sum() < 90


def test_a_study_draws_so() -> None:
    """Experiment 3's training split: 50, 100 and 25 images; the rare ones about twice an epoch."""
    labels = np.repeat([0, 1, 2], [50, 100, 25]).astype(np.int32)
    order = epoch_order(labels, "balanced", 10, 1)
    assert np.bincount(labels[order]).tolist() == [58, 58, 59]
    assert set(Counter(order[labels[order] == 2].tolist()).values()) == {2, 3}


def trained(folder: Path, sampler: Any, cache: bool) -> bytes:
    """Train on five images, which makes a class of one: return the weights' bytes."""
    experiment = tlkit.Experiment(
        seed=3,
        data=Shapes(train=5, val=3, test=0, image_px=32, sampler=sampler),
        backbone=VGG16(weights="none", image_size=32),
        head=Pooled(),
        fit=tlkit.Fit(epochs=2, batch_size=2, cache=cache, xla=False),
    )
    tlkit.run(experiment, folder)
    return (folder / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_training_draws_what_the_sampler_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, int]] = []

    def noted(labels: Labels, sampler: str, seed: int, epoch: int) -> Any:
        asked.append((sampler, seed, epoch))
        return epoch_order(labels, sampler, seed, epoch)

    monkeypatch.setattr(stage, "epoch_order", noted)
    cached = trained(tmp_path / "cached", "balanced", cache=True)
    assert asked == [("balanced", 3, 1), ("balanced", 3, 2)]
    assert trained(tmp_path / "streamed", "balanced", cache=False) == cached
    assert trained(tmp_path / "shuffled", "shuffle", cache=True) != cached
