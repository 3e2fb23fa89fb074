"""Runs on two logical processors, which stand in for two GPUs; prints what they did as JSON."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorflow as tf

# Before anything computes, which starting tlkit's Keras does.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from attrs import evolve  # noqa: E402  # see above
from tests.fakes import RESULTS  # noqa: E402  # see above

import tlkit  # noqa: E402  # see above
import tlkit.train.plan  # noqa: E402  # see above
import tlkit.train.winograd  # noqa: E402  # see above
from tlkit.model.layers import LayerRange  # noqa: E402  # see above
from tlkit.parts.augmentations import Affine  # noqa: E402  # see above
from tlkit.parts.freezes import HeadOnly, TrainAll, TrainRange  # noqa: E402  # see above
from tlkit.parts.heads import Pooled  # noqa: E402  # see above
from tlkit.parts.optimizers import SGD  # noqa: E402  # see above
from tlkit.parts.shapes import Shapes  # noqa: E402  # see above
from tlkit.system.keras import keras  # noqa: E402  # see above
from tlkit.train.stage import StageTrainer  # noqa: E402  # see above


def network() -> Any:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    for number in range(3):
        x = keras.layers.Conv2D(8, 3, kernel_regularizer="l2", name=f"conv{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
    return keras.Model(inputs, x)


def experiment(folder: Path, **fit: Any) -> tlkit.Experiment:
    """Nine images in batches of four: the last step has one, fewer than there are devices."""
    return tlkit.Experiment(
        data=Shapes(train=9, val=3, test=3, image_px=16),
        backbone=tlkit.FromModel(model=network(), preprocess="unit"),
        head=Pooled(units=(8,)),
        freeze=TrainAll(),
        augmentation=Affine(rotation_deg=10),
        optimizer=SGD(learning_rate=0.1, clip_norm=1.0),
        fit=tlkit.Fit(**{"epochs": 3, "batch_size": 4, "checkpoint_every_s": 0, **fit}),
    )


class StopAfter(tlkit.Callback):
    """Asks for a stop at the end of the first epoch."""

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        raise KeyboardInterrupt


def weights(run: tlkit.Run) -> list[float]:
    return [float(x) for w in run.model.get_weights() for x in w.reshape(-1)]


def measure(name: str, chosen: tlkit.Experiment, top: Path) -> dict[str, Any]:
    run = tlkit.run(chosen, top / name)
    return {
        "devices": [planned.devices for planned in run.plan.stages],
        "losses": [[epoch.loss, epoch.loss_unweighted, epoch.val_loss] for epoch in run.history],
        "accuracy": [epoch.accuracy for epoch in run.history],
        "weights": weights(run),
    }


def resumed(chosen: tlkit.Experiment, top: Path, whole: Path) -> list[str]:
    """Return the files in which a run that was stopped and resumed differs from a whole one."""
    with suppress(KeyboardInterrupt):
        tlkit.run(chosen, top / "stopped", callback=StopAfter())
    tlkit.resume(top / "stopped", backbone=chosen.backbone)
    return [n for n in RESULTS if (top / "stopped" / n).read_bytes() != (whole / n).read_bytes()]


def steps_taken(chosen: tlkit.Experiment, top: Path) -> dict[str, int]:
    """Return how many kinds of step were traced, and how many devices hold each weight."""
    kept: list[StageTrainer] = []
    whole = StageTrainer.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        whole(self, *arguments, **named)
        kept.append(self)

    StageTrainer.__init__ = noted  # type: ignore[method-assign]
    tlkit.run(chosen, top / "noted")
    StageTrainer.__init__ = whole  # type: ignore[method-assign]
    step: Any = kept[0].step
    copies = [[copy.numpy() for copy in v.value.values] for _, v in step.weights]
    return {
        "copies": min(map(len, copies)),
        "equal": all((a == b).all() for a, b in copies),
    }


def main(top: Path) -> None:
    for module in (tlkit.train.plan, tlkit.train.winograd):
        vars(module)["MIN_CHANNELS"] = 8 * 8
    both = {"devices": 2}
    cases: dict[str, dict[str, Any]] = {
        "whole": {},
        "average": {"ema": 0.9},
        "half": {"mixed_precision": "float16"},
        "tiles": {"winograd": True},
    }
    found: dict[str, Any] = {}
    for name, fit in cases.items():
        for devices in (1, 2):
            chosen = experiment(top, devices=devices, **fit)
            found[f"{name} {devices}"] = measure(f"{name}-{devices}", chosen, top)
    for devices in (1, 2):
        upper = evolve(
            experiment(top, devices=devices), freeze=TrainRange(train=LayerRange.parse("7-"))
        )
        found[f"upper {devices}"] = measure(f"upper-{devices}", upper, top)
        head = evolve(experiment(top, devices=devices), freeze=HeadOnly())
        found[f"head {devices}"] = measure(f"head-{devices}", head, top)
    found["copies"] = steps_taken(experiment(top, **both), top)
    again = experiment(top, ema=0.9, **both)
    found["resumed"] = resumed(again, top, top / "average-2")
    try:
        tlkit.run(experiment(top, devices=3), top / "three")
    except tlkit.ResourceError as error:
        found["refused"] = str(error) if not (top / "three").exists() else "too late"
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
