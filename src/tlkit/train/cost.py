"""About how long a run takes on this machine, from its plan alone. Nothing is timed."""

from __future__ import annotations

import math

from attrs import frozen

from tlkit.model.layers import Layer
from tlkit.system.parallel import available_cores
from tlkit.train.plan import Plan, PlannedStage, tileable

# Measured: VGG-16 at 224 px, 15.3 G multiply-adds and 14 M outputs, takes 155 to 170 ms of
# processor time per image; networks of depthwise convolutions are held up by their outputs.
MULTIPLY_ADDS_PER_S = 100e9  # per core
OUTPUTS_PER_S = 0.4e9  # per core: values that layers write
WINOGRAD_GAIN = 0.55  # of the multiplications' time, for convolutions by tiles
# Of the time: VGG-16 takes 0.2 in bfloat16 and 0.1 in int8, ResNet-50 0.5 and 0.2, MobileNetV2 1.3
# and 0.35.
GAINS = {"bfloat16": 0.35, "int8": 0.25}
BACKWARD = 2.0  # forward passes that one backward pass takes
# Reading, checking, decoding and resizing an image: faces of 1.8 kB take 0.5 ms of processor time,
# X-rays of 14 kB 1.6, photographs of 24 kB 3.2. If the size is unknown, it is that of a photograph.
IMAGE_S, BYTE_S, PHOTO_BYTES = 2e-4, 1.2e-7, 80e3
# The solver, which uses one core: 636 images of 2,528 features take 0.7 s to decompose and 2.2 ms
# per iteration, 2,609 take 9.8 s and 20 ms; twelve strengths took 1,200 to 1,400 iterations.
DECOMPOSED_PER_S = 1.6e9  # images × width × the lesser of the two
ITERATION_S, ITERATED_PER_S = 1e-3, 3.4e8  # images × the lesser of the two
ITERATIONS = 110  # per strength
START_S = 8.0  # TensorFlow, intervals, the report's pictures


def multiply_adds(layer: Layer) -> float:
    """Return a layer's multiplications per image: each weight is used once per output position."""
    return math.prod(layer.output_shape[:-1]) * float(layer.params)


@frozen(kw_only=True)
class StageWork:
    """What a stage computes, in seconds on one core; what cannot be shared counts for each core.

    Attributes:
        start: What comes before its first epoch.
        prefix: One image's way through the frozen layers.
        passes: The number of images that go through them in its first epoch.
        later_passes: The same for each epoch after it, as long as its views are new.
        new_views: The number of epochs with views that no earlier epoch has seen.
        epoch: The rest of an epoch.
        epochs: The number of epochs.
    """

    start: float
    prefix: float
    passes: int
    later_passes: int
    new_views: int
    epoch: float
    epochs: int

    def left(self, done: int) -> float:
        """Return the seconds of the epochs after the first `done`."""
        first = 0.0 if done else self.start + self.prefix * self.passes
        later = self.later_passes * max(0, self.new_views - max(1, done))
        return first + self.prefix * later + self.epoch * max(0, self.epochs - done)


def stage_works(plan: Plan, cores: int) -> list[StageWork]:
    """Return what each stage computes; views of prefixes that are done cost nothing."""
    done: set[tuple[int, int]] = set()
    return [_stage_work(plan, planned, done, cores) for planned in plan.stages]


def estimated_seconds(plan: Plan, cores: int | None = None) -> float:
    """Return about how long a run takes without a GPU and without features in the cache."""
    cores = cores or available_cores()
    images = sum(sum(counts.values()) for counts in plan.counts.values())
    work = sum(stage.left(0) for stage in stage_works(plan, cores))
    if plan.tta:
        mirrored = images - sum(plan.counts["train"].values())
        work += mirrored * _forward_s(plan, 1, len(plan.layers), plan.winograd)
    refits = [len(p.views) * images for p in plan.stages if p.refit and p.l2]
    refit_s = sum(sum(_solver_s(plan, count)) for count in refits[:1])
    work += _repeated_s(plan, cores)
    decode_s = IMAGE_S + BYTE_S * (PHOTO_BYTES if plan.file_bytes is None else plan.file_bytes)
    return START_S + (decode_s * images + work) / cores + refit_s


def _repeated_s(plan: Plan, cores: int) -> float:
    """Return the most that stages trained step by step take if they are repeated with val."""
    works = zip(plan.stages, stage_works(plan, cores), strict=True)
    again = sum(work.left(0) for planned, work in works if planned.refit and not planned.l2)
    train, val = (sum(plan.counts[split].values()) for split in ("train", "val"))
    return again * (train + val) / train


def _solver_s(plan: Plan, images: int) -> tuple[float, float]:
    """Return the seconds in which the solver decomposes so many features, and solves a strength."""
    width = plan.layers.layers[-1].params // len(plan.classes) - 1
    lesser = min(images, width)
    iteration_s = ITERATION_S + images * lesser / ITERATED_PER_S
    return images * width * lesser / DECOMPOSED_PER_S, ITERATIONS * iteration_s


def _stage_work(
    plan: Plan, planned: PlannedStage, done: set[tuple[int, int]], cores: int
) -> StageWork:
    images = {split: sum(counts.values()) for split, counts in plan.counts.items()}
    train, others = images["train"], sum(images.values()) - images["train"]
    below = _forward_s(plan, 1, planned.cut, plan.winograd)
    below *= GAINS.get(plan.frozen_dtype, 1)
    above = _forward_s(plan, planned.cut + 1, len(plan.layers), planned.winograd)
    new = {(planned.cut, view) for view in planned.views} - done
    done |= new
    epochs = planned.stage.epochs
    start, epoch = 0.0, above * (train * (1 + BACKWARD) + others)
    if planned.l2:  # an epoch solves and evaluates
        start, solve = _solver_s(plan, len(planned.views) * train)
        start, epoch = cores * start, cores * solve + above * (train + others)
    return StageWork(
        start=start,
        prefix=below,
        passes=train + others if new or not plan.cache else 0,
        later_passes=train,
        # Without the cache, every epoch sends the training images through the frozen layers.
        new_views=len(new) if plan.cache else max(len(new), epochs),
        epoch=epoch,
        epochs=epochs,
    )


def _forward_s(plan: Plan, first: int, last: int, winograd: bool) -> float:
    """Return the seconds of one image's pass through layers, on one core."""
    layers = [layer for number, layer in plan.layers if first <= number <= last]
    outputs = sum(math.prod(layer.output_shape) for layer in layers)
    work = sum(
        multiply_adds(layer) * (WINOGRAD_GAIN if winograd and tileable(layer) else 1)
        for layer in layers
    )
    return work / MULTIPLY_ADDS_PER_S + outputs / OUTPUTS_PER_S


def duration_text(seconds: float) -> str:
    """Return a duration as one would say it.

    >>> [duration_text(seconds) for seconds in (21, 70, 400, 5000, 9e4)]
    ['20 seconds', '1 minute', '7 minutes', '1.5 hours', '25 hours']
    """
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} seconds"
    if seconds < 3300:
        minutes = max(1, round(seconds / 60))
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    hours = round(seconds / 1800) / 2
    return f"{hours:g} hour{'s' if hours > 1 else ''}"


def cost_text(plan: Plan) -> str:
    """Return about how long the run takes, for people."""
    return takes_text(estimated_seconds(plan))


def takes_text(seconds: float) -> str:
    """Return that something takes about so long on this machine."""
    cores = available_cores()
    return f"takes about {duration_text(seconds)} on {cores} core{'s' if cores > 1 else ''}"
