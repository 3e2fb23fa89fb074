"""About how long a run takes on this machine, from its plan alone. Nothing is timed."""

from __future__ import annotations

import math
import os

from tlkit.model.layers import Layer
from tlkit.train.plan import Plan, PlannedStage

# Measured on two cores (docs/performance.md): VGG-16 at 224 px, 15.3 G multiply-adds and 14 M
# outputs, takes 0.145 s per image; networks of depthwise convolutions are held up by their outputs.
MULTIPLY_ADDS_PER_S = 53e9  # per core
OUTPUTS_PER_S = 0.4e9  # per core: values that layers write
WINOGRAD_GAIN = 0.57  # of the time, for frozen 3 × 3 convolutions
BACKWARD = 2.0  # forward passes that one backward pass takes
DECODE_S = 0.01  # per image: reading and resizing a photograph
START_S = 15.0  # TensorFlow, intervals, the report's pictures


def multiply_adds(layer: Layer) -> float:
    """Return a layer's multiplications per image: each weight is used once per output position."""
    return math.prod(layer.output_shape[:-1]) * float(layer.params)


def estimated_seconds(plan: Plan, cores: int | None = None) -> float:
    """Return about how long a run takes without a GPU and without features in the cache.

    Args:
        plan: The plan.
        cores: The number of processor cores; unset: this machine's.
    """
    cores = cores or available_cores()
    images = {split: sum(counts.values()) for split, counts in plan.counts.items()}
    others = sum(images.values()) - images["train"]
    seconds = START_S + 2 * DECODE_S * sum(images.values()) / cores
    done: set[tuple[int, int]] = set()
    for planned in plan.stages:
        seconds += _stage_seconds(plan, planned, images["train"], others, done) / cores
    return seconds


def _stage_seconds(
    plan: Plan, planned: PlannedStage, train: int, others: int, done: set[tuple[int, int]]
) -> float:
    """Return a stage's seconds on one core; views of prefixes that are done cost nothing."""
    below = _forward_s(plan, 1, planned.cut)
    if plan.winograd:
        below *= WINOGRAD_GAIN
    above = _forward_s(plan, planned.cut + 1, len(plan.layers))
    new = {(planned.cut, view) for view in planned.views} - done
    passes = len(new) * train + (others if new else 0)
    if not plan.cache:
        passes = max(passes, planned.stage.epochs * train + others)
    done |= new
    epochs = planned.stage.epochs * (train * (1 + BACKWARD) + others)
    return below * passes + above * epochs


def _forward_s(plan: Plan, first: int, last: int) -> float:
    """Return the seconds of one image's pass through layers, on one core."""
    layers = [layer for number, layer in plan.layers if first <= number <= last]
    outputs = sum(math.prod(layer.output_shape) for layer in layers)
    return sum(map(multiply_adds, layers)) / MULTIPLY_ADDS_PER_S + outputs / OUTPUTS_PER_S


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    cores = available_cores()
    machine = f"{cores} core{'s' if cores > 1 else ''}"
    return f"takes about {duration_text(estimated_seconds(plan, cores))} on {machine}"
