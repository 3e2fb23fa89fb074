"""`StageTrainer`: one stage of a run, with its features, its optimizer and its epochs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tlkit.config.experiment import Experiment
from tlkit.data.file_work import decoding_threads
from tlkit.data.images import Reader
from tlkit.data.pixel_store import PixelStore
from tlkit.data.splits import Example, Splits
from tlkit.parts.losses import cross_entropy
from tlkit.parts.optimizers import LBFGS, check_rate, with_rates
from tlkit.system.cache import FeatureCache
from tlkit.system.errors import NumericalError, PartError
from tlkit.system.keras import autograph, check_settings, keras, tf
from tlkit.system.signals import stop_if_asked
from tlkit.train.assemble import above_cut, apply_rates, model_of, split_at
from tlkit.train.callback import Callback, Epoch
from tlkit.train.feature_key import AugmentationKeys, FeatureKey, augmentation_keys
from tlkit.train.features import KEPT_BYTES, Extractor, Images, Source
from tlkit.train.lean import lean
from tlkit.train.plan import Plan
from tlkit.train.refusals import FITTED_KINDS
from tlkit.train.sampling import epoch_order, reseed
from tlkit.train.solver import LogisticRegression
from tlkit.train.step import EvalStep, Probabilities, TrainStep
from tlkit.train.totals import DeviceTotals, StepTotals
from tlkit.weights.tensors import numbered_weights

READ_EVERY_S = 0.5  # how often sums are read from the device, for people to see


@frozen(kw_only=True)
class PreparedRun:
    """A run that is checked and loaded, and ready to train.

    Attributes:
        experiment: Its parts and settings.
        plan: What it will do.
        splits: Its images.
        learns_val: Whether the images of `val` are training images, after they have chosen.
        hashes: The hash of each image file, by path.
        looks: The difference hash of each image, by path.
        pixels: Keeps the images' pixels, so that each is decoded once.
        model: The model with its initial weights.
        weights: Source, file and hash of the backbone's weights.
        learned_before: What the earlier runs that it starts from have learned from.
        cache: Keeps features on disk; None: they are not kept there.
    """

    experiment: Experiment
    plan: Plan
    splits: Splits
    learns_val: bool = False
    hashes: Mapping[str, str] = field(repr=False)
    looks: Mapping[str, str] = field(factory=dict, repr=False)
    pixels: PixelStore | None = field(default=None, repr=False)
    model: keras.Model = field(repr=False)
    weights: Mapping[str, str]
    learned_before: Sequence[Any] = field(default=(), repr=False)
    cache: FeatureCache | None

    @property
    def examples(self) -> Mapping[str, tuple[Example, ...]]:
        """Return the images by split, without empty splits."""
        known = dict(self.splits.items())
        if self.learns_val:
            known["train"] += known.pop("val")
        return known


class StageTrainer:
    """Trains one stage of a run.

    Creating it sets the model's `trainable` flags for the stage, whose numbers start from 1. With
    `only`, it can use only those splits.
    """

    def __init__(
        self,
        run: PreparedRun,
        number: int,
        callback: Callback,
        only: Collection[str] | None = None,
    ) -> None:
        self.run, self.number, self.callback = run, number, callback
        self.planned = run.plan.stages[number - 1]
        self.experiment = run.experiment.phases[self.planned.phase - 1]
        rates, batch_norm = self.planned.stage.lr_multipliers, self.experiment.freeze.batch_norm
        trained = apply_rates(run.model, run.plan.layers, rates, batch_norm)
        prefix, tail = split_at(run.model, run.plan.layers, self.planned.cut)
        self._twin: keras.Model | None = None  # of the model, on several devices
        self._assert_as_planned(tail)
        self.step = self._step(self._lean(tail), trained.variable_rates)
        check_settings()  # loss and optimizer have been at work
        self.sources = self._sources(prefix, only)
        self._regression: LogisticRegression | None = None
        self.on_val: Probabilities = np.empty((0, len(run.plan.classes)), np.float32)

    def _lean(self, tail: keras.Model) -> keras.Model:
        return lean(tail, True, trained=True) if self.planned.winograd else tail

    def _step(self, tail: keras.Model, multipliers: Sequence[float]) -> TrainStep | EvalStep:
        if isinstance(self.experiment.optimizer, LBFGS):
            return EvalStep(tail)
        loss = self.experiment.loss.build(self.run.plan.counts["train"])
        clip_norm, ema = self.experiment.optimizer.clip_norm, self.experiment.fit.ema
        if self.planned.devices > 1:
            return self._mirrored(tail, multipliers, loss, clip_norm, ema)
        optimizer = self._optimizer(multipliers)
        return TrainStep(tail, optimizer, self.planned.xla, loss, clip_norm, ema)

    def _optimizer(self, multipliers: Sequence[float]) -> keras.optimizers.Optimizer:
        optimizer = with_rates(self.experiment.optimizer, multipliers)
        check_rate(optimizer, self.experiment.optimizer)
        scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if self.experiment.fit.mixed_precision == "float16" and not scales:
            return keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def _mirrored(self, tail: keras.Model, multipliers: Sequence[float], *more: Any) -> TrainStep:
        """Return the step on several devices, with a model of its own there."""
        from tlkit.train.mirrored import MirroredStep, strategy  # few runs need it

        plan, experiment = self.run.plan, self.experiment
        mirrored = strategy(self.planned.devices)
        with mirrored.scope():
            model, _ = model_of(experiment, len(plan.classes), load_weights=False)
            rates, batch_norm = self.planned.stage.lr_multipliers, experiment.freeze.batch_norm
            apply_rates(model, plan.layers, rates, batch_norm)
            _, twin = split_at(model, plan.layers, self.planned.cut)
            optimizer = self._optimizer(multipliers)
        own, others = (numbered_weights(each, plan.layers) for each in (self.run.model, model))
        weights = [
            (variable, others[name])
            for name, variable in own.items()
            if int(name.partition(".")[0]) > self.planned.cut
        ]
        self._twin = model
        return MirroredStep(tail, self._lean(twin), weights, mirrored, optimizer, *more)

    def fit_statistics(self) -> None:
        """Set the statistics and landmarks of layers if this is the first stage to train them.

        They are computed from all training images, in the view of the stage's first epoch.
        """
        for place, (_, row) in enumerate(self.run.plan.layers):
            first = next((s for s in self.run.plan.stages if s.stage.lr_multipliers[place]), None)
            if row.kind in FITTED_KINDS and first is self.planned:
                layer = self.run.model.get_layer(row.name)
                view = self.experiment.augmentation.view(self.planned.first_epoch)
                layer.adapt(self._inputs(layer, "train", view))

    def _inputs(self, layer: keras.Layer, split: str, view: int) -> Iterator[Any]:
        """Yield what a layer of the tail receives for a split's images in order.

        Training images are in a view.
        """
        model, cut = self.run.model, self.planned.cut
        features = model.get_layer(self.run.plan.layers[cut].name).output if cut else model.input
        below = None
        if layer.input is not features:
            tail = above_cut(model, self.run.plan.layers, cut, layer.input)
            rewritten = autograph(*tail._flatten_layers())
            below = tf.function(tail, reduce_retracing=True, autograph=rewritten)
        keys = self.keys(view) if split == "train" else None
        size = self.planned.eval_batch if cut else self.run.plan.prefix_batch
        for x in self.sources[split].batches(size, keys=keys):
            if isinstance(x, Images):
                x = x.extractor(x.pixels, x.keys)
            yield x if below is None else below(tf.cast(x, tf.float32), training=False).numpy()

    def epoch(self, done: Sequence[Epoch]) -> Epoch:
        """Train for the stage's next epoch, after those in `done`, and return its figures."""
        number = self.planned.first_epoch + len(done)
        self.callback.on_epoch_begin(number, self.run.plan.epochs, len(self.run.examples["train"]))
        l2, rates = None, [0.0]
        if isinstance(self.step, TrainStep):
            rates = self._learning_rates(number, done)
            totals = self._train(self.step, number, rates)
        else:
            l2 = self.planned.l2[len(done)]
            totals = self._solve(l2, start=bool(done))
            on_batch_end = self.callback.on_batch_end
            on_batch_end(totals.images, totals.mean("loss"), totals.mean("correct"), l2)
        val, self.on_val = self._evaluate("val")
        if not np.isfinite(val.loss):
            raise _not_finite(number, "the validation loss", val.loss)
        return Epoch(
            epoch=number,
            stage=self.number,
            learning_rate=rates[0] if len({*rates}) == 1 else math.fsum(rates) / len(rates),
            loss=totals.mean("loss"),
            loss_unweighted=totals.mean("loss_unweighted"),
            accuracy=totals.mean("correct"),
            val_loss=val.mean("loss"),
            val_accuracy=val.mean("correct"),
            l2=l2,
        )

    def _train(self, step: TrainStep, number: int, rates: Sequence[float]) -> StepTotals:
        """Take the steps of an epoch, each at its learning rate."""
        examples = self.run.examples["train"]
        trained = self._twin or self.run.model
        reseed(trained, self.run.plan.layers, self.experiment.seed, number)
        on_device, images, read_s = DeviceTotals(), 0, -math.inf
        steps: list[npt.NDArray[np.int64]] = []
        batch = self.experiment.fit.batch_size
        at_once = step.steps_at_once(batch * self.sources["train"].image_bytes)
        step.begin_epoch()
        for x, numbers, labels, weights in self.batches(number, at_once):
            of_steps = [numbers[start : start + batch] for start in range(0, len(numbers), batch)]
            of_rates = rates[len(steps) : len(steps) + len(of_steps)]
            step.add_all(on_device, x, labels, weights, batch, of_rates)
            steps += of_steps
            if len(steps) == len(rates) or time.monotonic() >= read_s + READ_EVERY_S:
                totals, bad = on_device.read()
                if bad is not None:
                    files = ", ".join(examples[index].path for index in steps[bad[0]])
                    raise _not_finite(number, f"the training loss on {files}", bad[1])
                loss, accuracy = totals.mean("loss"), totals.mean("correct")
                read_s = time.monotonic()
            for each, rate in zip(of_steps, of_rates, strict=True):
                images += len(each)
                self.callback.on_batch_end(images, loss, accuracy, rate)
            stop_if_asked()
        assert len(steps) == len(rates)
        step.end_epoch()
        return totals

    def refit(self, epoch: Epoch) -> None:
        """Solve an epoch of the solver again with the validation images.

        Standardization and landmarks stay those of the training images.
        """
        assert epoch.l2 is not None
        self._regression = self._regression_on("train", "val")
        self._solve(epoch.l2, start=True)

    def repeat(self, epochs: Sequence[Epoch]) -> None:
        """Train as in these epochs, the stage's first ones, without validating."""
        self.fit_statistics()
        if isinstance(self.step, TrainStep):
            for place, epoch in enumerate(epochs):
                rates = self._learning_rates(epoch.epoch, epochs[:place])
                self._train(self.step, epoch.epoch, rates)
        elif (l2 := epochs[-1].l2) is not None:
            self._solve(l2, start=False)

    @property
    def _scores(self) -> keras.Layer:
        return self.run.model.get_layer(self.run.plan.layers.layers[-1].name)

    def _regression_on(self, *splits: str) -> LogisticRegression:
        """Return the regression of the scores on the images of these splits, in all views."""
        examples = {split: self.run.examples[split] for split in splits}
        of_all = [example for of_split in examples.values() for example in of_split]
        weights = dict(zip(of_all, self._solver_weights(of_all), strict=True))
        rows = [(split, view) for split in splits for view in self.planned.views]
        features = [x for row in rows for x in self._inputs(self._scores, *row)]
        repeated = [example for split, _ in rows for example in examples[split]]
        return LogisticRegression(
            np.concatenate(features),
            self._labels(repeated),
            np.array([weights[example] for example in repeated]),
            len(self.run.plan.classes),
        )

    def _solve(self, l2: float, start: bool) -> StepTotals:
        """Solve the scores for a strength of regularization, from the present ones or zeros."""
        if self._regression is None:
            self._regression = self._regression_on("train")
        kernel, bias = self._scores.weights
        now = np.vstack([kernel.numpy(), bias.numpy()]).astype(np.float64) if start else None
        solution = self._regression.solve(l2, now, stop_if_asked)
        kernel.assign(solution[:-1])
        bias.assign(solution[-1])
        keys = self.keys(self.planned.views[0])
        weights = self._weights(self.run.examples["train"])
        return self._evaluate("train", keys=keys, weights=weights)[0]

    def _solver_weights(self, examples: Sequence[Example]) -> npt.NDArray[np.float32]:
        """Return each image's weight; what the sampler draws more often weighs more."""
        weights = self._weights(examples)
        if self.run.plan.sampler == "balanced":
            counts = Counter(example.label for example in examples)
            weights /= np.array([counts[example.label] for example in examples], np.float32)
        return weights

    def _weights(self, examples: Sequence[Example]) -> npt.NDArray[np.float32]:
        of_class, of_image = self.run.plan.class_weights, self.run.splits.image_weights
        weights = [of_class[e.label] * of_image.get(e.path, 1.0) for e in examples]
        return np.array(weights, np.float32)

    def batches(self, epoch: int, at_once: int = 1) -> Iterator[tuple[Any, ...]]:
        """Yield features, image numbers, labels and weights of each step of an epoch.

        Of features that are kept, those of several steps come `at_once`.
        """
        experiment, plan, examples = self.experiment, self.run.plan, self.run.examples["train"]
        labels = self._labels(examples)
        order = epoch_order(labels, plan.sampler, experiment.seed, epoch)
        weights = self._weights(examples)
        keys = self.keys(experiment.augmentation.view(epoch))
        start = 0
        for x in self.sources["train"].batches(experiment.fit.batch_size, order, keys, at_once):
            numbers = order[start : start + len(x)]
            yield x, numbers, labels[numbers], weights[numbers]
            start += len(x)

    def on_test(self) -> Probabilities:
        """Return the probabilities on the test split."""
        totals, probabilities = self._evaluate("test")
        if not np.isfinite(totals.loss):
            number = self.planned.first_epoch + self.planned.stage.epochs - 1
            raise _not_finite(number, "the loss on the test split", totals.loss)
        return probabilities

    def averaged(self, plain: Probabilities, split: str) -> Probabilities:
        """Return a split's probabilities averaged with those of its mirror images."""
        source = self.sources[split].flipped
        if source.cache is not None and not self._make_room(source.cache, {split: source}):
            source.cache = None
        return (plain + self._evaluate(split, source)[1]) / np.float32(2)

    def log_loss(self, probabilities: Probabilities, split: str) -> float:
        """Return the mean unweighted loss of a split's probabilities."""
        losses = cross_entropy(self._labels(self.run.examples[split]), probabilities)
        return float(losses.numpy().mean(dtype=np.float64))

    def _learning_rates(self, number: int, done: Sequence[Epoch]) -> list[float]:
        """Return the learning rate of each step of the epoch with that number."""
        schedule, steps = self.experiment.schedule, self.run.plan.steps_per_epoch
        base, epochs = self.experiment.optimizer.learning_rate, self.planned.stage.epochs
        of_epoch = schedule.learning_rate(base, epochs, [_figures(epoch) for epoch in done])
        of_steps = [
            schedule.step_rate(base, epochs, len(done) + (step + 0.5) / steps)
            for step in range(steps)
        ]
        for method, some in (("learning_rate", [of_epoch]), ("step_rate", of_steps)):
            for rate in some:
                sound = isinstance(rate, Real) and 0 < float(rate) < np.inf
                if not sound and (rate is not None or method == "learning_rate"):
                    raise PartError(
                        f"schedule: its `{method}` must return a finite number above 0, "
                        f"got {rate!r} for epoch {number}"
                    )
        return [float(of_epoch if rate is None else rate) for rate in of_steps]

    def _evaluate(
        self,
        split: str,
        source: Source | None = None,
        keys: AugmentationKeys | None = None,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> tuple[StepTotals, Probabilities]:
        labels = self._labels(self.run.examples[split])
        source, batch = source or self.sources[split], self.planned.eval_batch
        at_once = self.step.batches_at_once(batch * source.image_bytes)
        features = source.batches(batch, keys=keys, at_once=at_once)
        return self.step.evaluate(features, labels, weights, batch)

    def _sources(
        self, prefix: keras.Model | None, only: Collection[str] | None
    ) -> dict[str, Source]:
        """Return the features of each split, cached on disk if there is room."""
        run, experiment, plan = self.run, self.experiment, self.run.plan
        extractor = Extractor(
            prefix,
            experiment.backbone,
            experiment.augmentation,
            plan.prefix_batch,
            experiment.fit.feature_dtype if prefix is not None else "float32",
            plan.winograd,
            plan.frozen_dtype,
            constant=True,
        )
        data, size = experiment.data, experiment.backbone.image_size
        reader = Reader(
            run.splits.read,
            size,
            data.resize,
            data.mask_center,
            workers=decoding_threads(plan.file_bytes),
            store=run.pixels,
        )
        cache, feature_key = run.cache if prefix is not None else None, None
        if cache is not None:
            settings = plan.prefix_batch, plan.winograd, plan.frozen_dtype
            feature_key = FeatureKey.of(prefix, experiment, *settings)
        sources = {
            split: Source(
                extractor,
                reader,
                tuple(example.path for example in examples),
                split,
                tuple(run.hashes[example.path] for example in examples),
                feature_key,
                cache,
                memory_bytes=KEPT_BYTES if prefix is not None else 0,
                callback=self.callback,
            )
            for split, examples in run.examples.items()
            if only is None or split in only
        }
        if cache is not None and not self._make_room(cache, sources):
            for source in sources.values():
                source.cache = None
        return sources

    def _make_room(self, cache: FeatureCache, sources: Mapping[str, Source]) -> bool:
        """Make room in the cache for the stage's features; return False if there is too little."""
        sizes = {}
        for split, source in sources.items():
            for view in self.planned.views if split == "train" else (None,):
                keys = None if view is None else self.keys(view)
                sizes[source.entry_name(keys)] = source.size_bytes
        cached = {entry.key for entry in cache.entries()}
        needed = sum(size for name, size in sizes.items() if name not in cached)
        if cache.make_room(needed, keep=sizes):
            return True
        self.callback.on_note(
            f"the features need {needed / 1e9:.1f} GB and the cache is limited to "
            f"{cache.limit() / 1e9:.1f} GB: they are computed again each time"
        )
        return False

    def keys(self, view: int) -> AugmentationKeys | None:
        """Return the training images' augmentation keys in one view; None without augmentation."""
        experiment = self.experiment
        if not experiment.augmentation.changes:
            return None
        return augmentation_keys(experiment.seed, view, len(self.run.examples["train"]))

    def _assert_as_planned(self, tail: keras.Model) -> None:
        """Assert that what is trained agrees with the plan."""
        trained = sum(int(np.prod(variable.shape)) for variable in tail.trainable_variables)
        assert trained == self.planned.trainable_params, (trained, self.planned.trainable_params)
        in_tail = {id(variable) for variable in tail.trainable_variables}
        assert in_tail == {id(variable) for variable in self.run.model.trainable_variables}

    def _labels(self, examples: Sequence[Example]) -> npt.NDArray[np.int32]:
        return np.array(self.run.splits.labels(examples), np.int32)


def _not_finite(epoch: int, what: str, value: float) -> NumericalError:
    return NumericalError(f"epoch {epoch}: {what} is {value}; lower optimizer.learning_rate")


def _figures(epoch: Epoch) -> Mapping[str, float]:
    """Return what a schedule may read of an epoch."""
    names = ("loss", "loss_unweighted", "accuracy", "val_loss", "val_accuracy")
    return {name: getattr(epoch, name) for name in names}
