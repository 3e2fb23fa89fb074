"""Features by Ray actors: bytes of images to the actor, features back, no file shared.

The process that fills the cache builds the frozen layers, reads the images and writes the shards.
An actor gets the layers' weights once and then the bytes of one shard after the other. Its features
are refused unless they are named in the cache as this process would name them: by processor,
threads and versions too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from attrs import frozen

from tlkit.config.experiment import Experiment
from tlkit.data.images import Reader
from tlkit.model.layers import LayerTable
from tlkit.runner.fill import SHARD_IMAGES, Compute, Shard
from tlkit.sweeps.executors import ray_session
from tlkit.sweeps.joining import thread_variables
from tlkit.system.errors import ResourceError
from tlkit.train.assemble import apply_rates, model_of, split_at
from tlkit.train.feature_key import AugmentationKeys, FeatureKey
from tlkit.train.features import Extractor
from tlkit.train.stage import StageTrainer

AHEAD = 2  # shards per actor whose bytes are under way


@frozen(kw_only=True)
class FrozenLayers:
    """What an actor needs to compute features as the process that asks it.

    Attributes:
        experiment: The experiment; its data are not read.
        classes: The number of classes.
        layers: The model's layers.
        lr_multipliers: The stage's learning-rate multiplier of each layer.
        cut: The last frozen layer of the stage.
        weights: The frozen layers' weights, in Keras's order.
        batch: The number of images per pass.
        winograd: Whether convolutions are computed by Winograd's algorithm.
        frozen_dtype: What the frozen layers compute in.
        feature_key: What names the features.
    """

    experiment: Experiment
    classes: int
    layers: LayerTable
    lr_multipliers: Sequence[float]
    cut: int
    weights: Sequence[Any]
    batch: int
    winograd: bool
    frozen_dtype: str
    feature_key: FeatureKey

    @classmethod
    def of(cls, stage: StageTrainer) -> FrozenLayers:
        """Return those of a stage."""
        plan, key = stage.run.plan, stage.sources["val"].feature_key
        assert key is not None
        prefix, _ = split_at(stage.run.model, plan.layers, stage.planned.cut)
        assert prefix is not None
        return cls(
            experiment=stage.experiment,
            classes=len(plan.classes),
            layers=plan.layers,
            lr_multipliers=stage.planned.stage.lr_multipliers,
            cut=stage.planned.cut,
            weights=prefix.get_weights(),
            batch=plan.prefix_batch,
            winograd=plan.winograd,
            frozen_dtype=plan.frozen_dtype,
            feature_key=key,
        )


class FeatureActor:
    """Computes the features of images whose bytes it gets."""

    def __init__(self, frozen_layers: FrozenLayers) -> None:
        experiment = frozen_layers.experiment
        model, _ = model_of(experiment, frozen_layers.classes, load_weights=False)
        batch_norm = experiment.freeze.batch_norm
        apply_rates(model, frozen_layers.layers, frozen_layers.lr_multipliers, batch_norm)
        prefix, _ = split_at(model, frozen_layers.layers, frozen_layers.cut)
        assert prefix is not None
        prefix.set_weights(frozen_layers.weights)
        computing = frozen_layers.winograd, frozen_layers.frozen_dtype
        self.extractor = Extractor(
            prefix,
            experiment.backbone,
            experiment.augmentation,
            frozen_layers.batch,
            experiment.fit.feature_dtype,
            *computing,
            constant=True,
        )
        own = FeatureKey.of(prefix, experiment, frozen_layers.batch, *computing)
        wanted = frozen_layers.feature_key.depends_on
        self.differs = [key for key in wanted if own.depends_on.get(key) != wanted[key]]
        self.experiment = experiment

    def features(self, images: Sequence[bytes], keys: AugmentationKeys | None) -> Any:
        """Return the features of images; or what differs from the process that asks."""
        import numpy as np

        if self.differs:
            return self.differs
        data, size = self.experiment.data, self.experiment.backbone.image_size
        known = {str(number): content for number, content in enumerate(images)}
        reader = Reader(known.__getitem__, size, data.resize, data.mask_center)
        return np.concatenate(list(self.extractor.stream(reader, tuple(known), keys)))


def by_ray(place: str, processes: int | None, threads: int | None) -> Compute:
    """Return a function that has shards computed by actors of a Ray cluster."""

    def compute(stage: StageTrainer, shards: list[Shard]) -> Iterator[Shard]:
        if not shards:
            return
        pieces = [
            (shard, start)
            for shard in shards
            for start in range(0, len(shard.source.paths), SHARD_IMAGES)
        ]
        with ray_session(place) as ray:
            most = int(ray.cluster_resources().get("CPU", 1)) // (threads or 1)
            count = min(processes or max(1, most), len(pieces))
            options = {"num_cpus": threads or 1, "max_restarts": 3, "max_task_retries": 3,
                       "runtime_env": {"env_vars": thread_variables(threads)}}  # fmt: skip
            layers = ray.put(FrozenLayers.of(stage))
            actor = ray.remote(**options)(FeatureActor)
            free = [actor.remote(layers) for _ in range(count)] * AHEAD
            waiting, asked = list(reversed(pieces)), dict[Any, tuple[Shard, int, Any]]()
            found: dict[str, dict[int, Any]] = {}
            while waiting or asked:
                while waiting and free:
                    (shard, start), one = waiting.pop(), free.pop()
                    part = slice(start, start + SHARD_IMAGES)
                    images = [stage.run.splits.read(path) for path in shard.source.paths[part]]
                    keys = None if shard.keys is None else shard.keys[part]
                    asked[one.features.remote(images, keys)] = shard, start, one
                (done,), _ = ray.wait(list(asked), num_returns=1)
                shard, start, one = asked.pop(done)
                free.append(one)
                parts = found.setdefault(shard.name, {})
                parts[start] = _checked(ray.get(done))
                if len(parts) * SHARD_IMAGES >= len(shard.source.paths):
                    _put(shard, [parts[start] for start in sorted(found.pop(shard.name))])
                    yield shard

    return compute


def _checked(features: Any) -> Any:
    """Return an actor's features, unless it says what differs."""
    if isinstance(features, list):
        raise ResourceError(
            f"a node differs in {', '.join(features)}, so its features would be other ones; use "
            "machines of one kind, with the same number of threads"
        )
    return features


def _put(shard: Shard, parts: Sequence[Any]) -> None:
    """Write a shard into the cache."""
    source = shard.source
    assert source.cache is not None
    assert source.feature_key is not None
    about = source.feature_key.about(source.images) if shard.keys is None else None
    source.cache.put(shard.name, source.shape, source.extractor.dtype, iter(parts), about)
