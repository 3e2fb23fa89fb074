"""Filling the feature cache, shard by shard, by any number of processes that see it.

A shard is a range of the images, sorted by their hashes, and an entry of the cache like any other.
So the cache itself says what is done: whoever is stopped leaves whole shards, runs find their
images in them, and computing one twice gives the same entry. Leases only keep processes from
computing the same one at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from attrs import evolve, frozen

from tlkit.config.experiment import Experiment
from tlkit.runner.prepare import prepare_run
from tlkit.system.cache import META
from tlkit.system.errors import ConfigError, Problem, ResourceError
from tlkit.system.lease import WORKING, Leases
from tlkit.system.signals import stop_if_asked
from tlkit.train.callback import Callback
from tlkit.train.features import Source
from tlkit.train.stage import StageTrainer

SHARD_IMAGES = 256
LEASES = "filling"  # the folder of the leases in the cache's
POLL_S = 0.5


# Computes shards into the cache and yields those that it has computed.
Compute = Callable[[StageTrainer, list[Source]], Iterator[Source]]


@frozen
class Filled:
    """What a process has done to fill the cache.

    Attributes:
        images: The number of images whose features are in the cache now.
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
    """Compute the features of an experiment's images that are neither augmented nor cached.

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
        _source(of_val, images[start : start + shard_images], paths)
        for start in range(0, len(images), shard_images)
    ]
    shards = [shard for shard in shards if not known.keys() >= {*shard.images}]
    compute = compute or _taken
    return Filled(len(images), sum(len(shard.images) for shard in compute(stage, shards)))


def _source(like: Source, images: list[str], paths: dict[str, str]) -> Source:
    return evolve(
        like, images=tuple(images), paths=tuple(paths[i] for i in images), split="features"
    )


def _taken(stage: StageTrainer, shards: list[Source]) -> Iterator[Source]:
    """Yield the shards that this process has computed; end when all are there."""
    cache = stage.sources["val"].cache
    assert cache is not None
    cache.folder.mkdir(parents=True, exist_ok=True)
    leases, left = Leases(cache.folder / LEASES), {s.entry_name(None): s for s in shards}
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
                    for _ in shard.batches(len(shard.images)):  # puts them into the cache
                        pass
                finally:
                    leases.remove(lease)
                del left[name]
                yield shard
            if len(left) == before:
                time.sleep(POLL_S)
