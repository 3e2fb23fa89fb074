"""Filling the feature cache, shard by shard, by any number of processes that see it.

A shard is a range of the images, sorted by their hashes, or one augmented version of all training
images, and an entry of the cache like any other. So the cache itself says what is done: a process
that is stopped leaves whole shards, runs find their images in them, and computing one twice gives
the same entry. Leases only keep processes from computing the same one at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.runner.prepare import prepare_run
from tlkit.system.cache import META
from tlkit.system.errors import ConfigError, Problem, ResourceError
from tlkit.system.lease import WORKING, Leases
from tlkit.system.signals import stop_if_asked
from tlkit.train.callback import Callback
from tlkit.train.feature_key import AugmentationKeys
from tlkit.train.features import Source
from tlkit.train.stage import StageTrainer

SHARD_IMAGES = 256
LEASES = "filling"  # the folder of the leases in the cache's
POLL_S = 0.5


@frozen(eq=False)
class Shard:
    """Images whose features are one entry of the cache.

    Attributes:
        source: The images.
        keys: Their augmentation keys; None: they are not augmented.
    """

    source: Source
    keys: AugmentationKeys | None = None

    @property
    def name(self) -> str:
        """Return the entry's name."""
        return self.source.entry_name(self.keys)


# Computes shards into the cache and yields those that it has computed.
Compute = Callable[[StageTrainer, list[Shard]], Iterator[Shard]]


@frozen
class Filled:
    """What a process has done to fill the cache.

    Attributes:
        images: The number of images whose features are in the cache now, each augmented version
            counted.
        computed: How many of them it has computed.
    """

    images: int
    computed: int


def fill(
    experiment: Experiment,
    callback: Callback,
    shard_images: int = SHARD_IMAGES,
    compute: Compute | None = None,
) -> Filled:
    """Compute the features of the images of an experiment's first stage that are not cached.

    Returns when all are in the cache, whoever computed them; `compute` takes the place of this
    process.

    Raises:
        ConfigError: If the experiment has no features to keep.
        ResourceError: If they are larger than the cache may be.
    """
    prepared = prepare_run(experiment, None, (), callback)
    stage = StageTrainer(prepared, 1, callback)
    of_val = stage.sources["val"]
    if prepared.cache is None or of_val.feature_key is None:
        message = "nothing to compute ahead: no layer is frozen, or fit.cache is false"
        raise ConfigError([Problem("", message)])
    if of_val.cache is None:
        raise ResourceError(
            f"{prepared.cache.folder}: the features are more than the cache may take, "
            f"{prepared.cache.limit() >> 20} MB; free disk space, or use fewer images"
        )
    augmented = stage.experiment.augmentation.changes
    splits = [s for name, s in stage.sources.items() if not (name == "train" and augmented)]
    paths = {image: path for s in splits for image, path in zip(s.images, s.paths, strict=True)}
    images = sorted(paths)
    known = of_val.feature_key.cached_rows(of_val.cache, images)
    shards = [
        Shard(_source(of_val, images[start : start + shard_images], paths))
        for start in range(0, len(images), shard_images)
    ]
    left = [shard for shard in shards if not known.keys() >= {*shard.source.images}]
    if augmented:
        of_train = stage.sources["train"]
        shards += (views := [Shard(of_train, stage.keys(view)) for view in stage.planned.views])
        left += [shard for shard in views if of_val.cache.get(shard.name) is None]
    computed = (compute or _taken)(stage, left)
    return Filled(_count(shards), _count(computed))


def _count(shards: Iterable[Shard]) -> int:
    return sum(len(shard.source.images) for shard in shards)


def _source(like: Source, images: list[str], paths: dict[str, str]) -> Source:
    return evolve(
        like, images=tuple(images), paths=tuple(paths[i] for i in images), split="features"
    )


def _taken(stage: StageTrainer, shards: list[Shard]) -> Iterator[Shard]:
    """Yield the shards that this process has computed; end when all are there."""
    cache = stage.sources["val"].cache
    assert cache is not None
    cache.folder.mkdir(parents=True, exist_ok=True)
    leases, left = Leases(cache.folder / LEASES), {shard.name: shard for shard in shards}
    with leases.beating():
        while left:
            newest, before = leases.newest(), len(left)
            for name, shard in list(left.items()):
                stop_if_asked()
                last = newest.get(name)
                if (cache.folder / name / META).exists():
                    del left[name]
                    continue
                if last and last.status == WORKING and not leases.is_dead(last):
                    continue
                lease = leases.claim(name, last.number + 1 if last else 0)
                if lease is None:
                    continue
                try:
                    next(shard.source.batches(1, keys=shard.keys))  # puts all into the cache
                    if shard.source.cache is None:  # the disk is full, as a note has said
                        raise ResourceError(f"{cache.folder}: features cannot be written")
                finally:
                    leases.remove(lease)
                del left[name]
                yield shard
            if len(left) == before:
                time.sleep(POLL_S)
