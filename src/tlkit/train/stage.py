"""One stage while it runs: its halves of the model, its features, its epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tlkit.config.experiment import Experiment
from tlkit.data.images import Reader
from tlkit.data.splits import Example, Splits
from tlkit.system.cache import FeatureCache
from tlkit.system.errors import NumericalError, PartError
from tlkit.system.keras import keras
from tlkit.system.signals import stop_if_asked
from tlkit.train.assemble import apply_rates, split_at
from tlkit.train.callback import Callback, Epoch
from tlkit.train.feature_key import AugmentationKeys, Shelf, make_shelf
from tlkit.train.features import KEPT_BYTES, Extractor, Source
from tlkit.train.plan import Plan, PlannedStage, seed_for
from tlkit.train.sampling import epoch_order, reseed
from tlkit.train.step import Probabilities, StepTotals, TrainStep


class StageTrainer:
    """One stage: its halves of the model, its features and its optimizer.

    Args:
        model: The whole model; its `trainable` flags are set for this stage.
        plan: What the run does.
        number: The stage's number in it, from 1.
        experiment: The parts that do it.
        splits: The images.
        hashes: The hash of each image file, by its path.
        cache: Where features are kept; None: nowhere on disk.
        callback: Told how it goes.
        only: The one split that is needed; None: all.
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        number: int,
        experiment: Experiment,
        splits: Splits,
        hashes: Mapping[str, str],
        cache: FeatureCache | None,
        callback: Callback,
        only: str | None = None,
    ) -> None:
        planned = plan.stages[number - 1]
        self.model, self.plan, self.planned, self.number = model, plan, planned, number
        self.experiment, self.splits, self.callback = experiment, splits, callback
        frozen = apply_rates(
            model, plan.layers, planned.stage.lr_multipliers, experiment.freeze.batch_norm
        )
        prefix, tail = split_at(model, plan.layers, planned.cut)
        optimizer = experiment.optimizer.build(frozen.variable_rates)
        loss = experiment.loss.build(plan.counts["train"])
        self.stepper = TrainStep(tail, optimizer, planned.xla, loss)
        _assert_as_planned(model, tail, optimizer, planned, experiment)
        self.sources = self._sources(prefix, hashes, cache, only)
        self.on_val: Probabilities = np.empty((0, len(plan.classes)), np.float32)

    def epoch(self, done: Sequence[Epoch]) -> Epoch:
        """Train for the stage's next epoch, after those that are done, and return what it gave.

        Raises:
            NumericalError: If a loss is not finite.
            PartError: If the schedule gives no learning rate.
            Interrupted: If the process was asked to stop; the epoch is then half done.
        """
        number = self.planned.first_epoch + len(done)
        rate = self.experiment.schedule.learning_rate(
            self.experiment.optimizer.learning_rate,
            self.planned.stage.epochs,
            [_values(epoch) for epoch in done],
        )
        if not 0 < rate < np.inf:
            what = f"its `rate` must give a finite number above 0, got {rate!r} for epoch {number}"
            raise PartError(f"schedule: {what}")
        self.stepper.optimizer.learning_rate.assign(rate)
        reseed(self.model, self.plan.layers, self.experiment.seed, number)
        examples = self.splits.train
        self.callback.on_epoch_begin(number, self.experiment.fit.epochs, len(examples))
        total = StepTotals()
        for x, chosen, labels, weights in self.batches(number):
            step = self.stepper.train(x, labels, weights)
            if not np.isfinite([step.loss, step.loss_unweighted]).all():
                files = ", ".join(examples[index].path for index in chosen)
                raise _not_finite(number, f"the training loss on {files}", step.loss)
            total += step
            self.callback.on_batch_end(total.images, total.mean("loss"), total.mean("right"), rate)
            stop_if_asked()
        val, self.on_val = self._evaluate("val")
        if not np.isfinite(val.loss):
            raise _not_finite(number, "the validation loss", val.loss)
        return Epoch(
            epoch=number,
            stage=self.number,
            learning_rate=rate,
            loss=total.mean("loss"),
            loss_unweighted=total.mean("loss_unweighted"),
            accuracy=total.mean("right"),
            val_loss=val.mean("loss"),
            val_accuracy=val.mean("right"),
        )

    def batches(self, epoch: int) -> Iterator[tuple[Any, ...]]:
        """Yield the features, numbers, labels and weights of each step of an epoch."""
        seed, size = self.experiment.seed, self.experiment.fit.batch_size
        examples = self.splits.train
        labels = self._labels(examples)
        order = epoch_order(labels, self.plan.sampler, seed, epoch)
        weights = np.array(
            [self.plan.class_weights[example.label] for example in examples], np.float32
        )
        keys = self._keys(self.experiment.augmentation.view(epoch))
        start = 0
        for x in self.sources["train"].batches(size, order, keys):
            chosen = order[start : start + len(x)]
            yield x, chosen, labels[chosen], weights[chosen]
            start += len(x)

    def on_test(self) -> Probabilities:
        """Return the probabilities on the test split."""
        return self._evaluate("test")[1]

    def _evaluate(self, split: str) -> tuple[StepTotals, Probabilities]:
        labels = self._labels(dict(self.splits.items())[split])
        return self.stepper.evaluate(self.sources[split], labels, self.planned.eval_batch)

    def _sources(
        self,
        prefix: keras.Model | None,
        hashes: Mapping[str, str],
        cache: FeatureCache | None,
        only: str | None,
    ) -> dict[str, Source]:
        """Return what gives each split's features, on a shelf if there is one with room."""
        experiment, plan = self.experiment, self.plan
        extractor = Extractor(
            prefix,
            experiment.backbone,
            experiment.augmentation,
            plan.prefix_batch,
            experiment.fit.feature_dtype if prefix is not None else "float32",
            plan.winograd,
        )
        data, size = experiment.data, experiment.backbone.image_size
        reader = Reader(self.splits.read, size, data.resize, data.mask_center)
        shelf = None
        if prefix is not None and cache is not None:
            shelf = make_shelf(cache, prefix, experiment, plan.prefix_batch, plan.winograd)
        sources = {
            split: Source(
                extractor,
                reader,
                tuple(example.path for example in examples),
                split,
                tuple(hashes[example.path] for example in examples),
                shelf,
                memory_bytes=KEPT_BYTES if prefix is not None else 0,
                callback=self.callback,
            )
            for split, examples in self.splits.items()
            if only in {None, split}
        }
        if shelf is not None and not self._make_room(shelf, sources):
            for source in sources.values():
                source.shelf = None
        return sources

    def _make_room(self, shelf: Shelf, sources: Mapping[str, Source]) -> bool:
        """Make room in the cache for the stage's features; say so if there is none."""
        sizes = {}
        for split, source in sources.items():
            for view in self.planned.views if split == "train" else (None,):
                keys = None if view is None else self._keys(view)
                sizes[shelf.key(source.images, keys)] = source.size_bytes
        there = {entry.key for entry in shelf.cache.entries()}
        needed = sum(size for key, size in sizes.items() if key not in there)
        if shelf.cache.make_room(needed, keep=sizes):
            return True
        self.callback.on_note(
            f"the features take {needed / 1e9:.1f} GB and the cache may have "
            f"{shelf.cache.limit() / 1e9:.1f} GB: they are computed again each time"
        )
        return False

    def _keys(self, view: int) -> AugmentationKeys | None:
        """Return the training images' keys in one view; None if nothing is drawn."""
        if not self.experiment.augmentation.changes:
            return None
        return augmentation_keys(self.experiment.seed, view, len(self.splits.train))

    def _labels(self, examples: Sequence[Example]) -> npt.NDArray[np.int32]:
        return np.array(self.splits.labels(examples), np.int32)


def _not_finite(epoch: int, what: str, value: float) -> NumericalError:
    return NumericalError(f"epoch {epoch}: {what} is {value}; lower optimizer.learning_rate")


def _values(epoch: Epoch) -> Mapping[str, float]:
    return {
        name: getattr(epoch, name)
        for name in ("loss", "loss_unweighted", "accuracy", "val_loss", "val_accuracy")
    }


def augmentation_keys(seed: int, view: int, count: int) -> AugmentationKeys:
    """Return the key of each image's augmentation in one view, `(count, 2)`."""
    keys = np.empty((count, 2), np.int32)
    keys[:, 0] = seed_for(seed, "augmentation", view)
    keys[:, 1] = np.arange(count)
    return keys


def _assert_as_planned(
    model: keras.Model,
    tail: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    planned: PlannedStage,
    experiment: Experiment,
) -> None:
    """Make sure that what will be trained, and how fast, is what the plan says."""
    trained = sum(int(np.prod(variable.shape)) for variable in tail.trainable_variables)
    assert trained == planned.trainable_params, (trained, planned.trainable_params)
    ours = {id(variable) for variable in tail.trainable_variables}
    assert ours == {id(variable) for variable in model.trainable_variables}
    stated = np.float32(experiment.optimizer.learning_rate)
    assert np.float32(optimizer.learning_rate) == stated
