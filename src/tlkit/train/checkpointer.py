"""Keeping what a run needs to go on after its last finished epoch, and what its best one left.

It is on the disk after the epochs that end a checkpoint's interval or a stage, and in memory
otherwise, where it costs nothing until the next epoch changes it. An epoch is not left to memory
unless the next one is expected to end within the interval too, nor if it is large: so large models
are written after every epoch, and never held twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tlkit.config.experiment import Fit
from tlkit.system.errors import WeightsError
from tlkit.system.keras import keras
from tlkit.train.best import best_of
from tlkit.train.callback import Epoch
from tlkit.train.checkpoint import OPTIMIZER, WEIGHTS, Checkpoint, Checkpoints, State
from tlkit.train.plan import Plan
from tlkit.train.step import Probabilities
from tlkit.weights.tensors import Tensors, Variables, numbered_weights, sha256, snapshot

HELD_BYTES = 2**28  # what may be held twice; experiment 3's head with Adam's state is 321 MB


class Checkpointer:
    """What a run has reached.

    Args:
        model: The model, with its first weights.
        plan: Layers that it never trains are not kept: they are the same at any time.
        fit: Which epoch is the best, and how often a checkpoint is written.
        checkpoints: Where they are.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        fit: Fit,
        checkpoints: Checkpoints,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        trained = {
            f"{number:03d}"
            for number, _ in plan.layers
            if any(planned.stage.lr_multipliers[number - 1] for planned in plan.stages)
        }
        variables = numbered_weights(model, plan.layers)
        self.variables = {n: v for n, v in variables.items() if n.partition(".")[0] in trained}
        frozen = snapshot({n: v for n, v in variables.items() if n not in self.variables})
        self.frozen_sha256 = sha256(frozen)
        self.fit, self.checkpoints, self.clock = fit, checkpoints, clock
        self.history: tuple[Epoch, ...] = ()
        self.on_val: Probabilities = np.empty((0, 0), np.float32)
        self.best_on_val = self.on_val
        self._best_weights: Tensors | None = None  # until they are on the disk
        self._held: State | None = None
        self._committed_s = self._epoch_s = clock()

    @property
    def best(self) -> Epoch:
        """Return the best epoch so far."""
        return best_of(self.history, self.fit.monitor)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint says, and put its weights into the model.

        Raises:
            WeightsError: If they do not fit, or the frozen layers have other weights.
        """
        if checkpoint.frozen_sha256 != self.frozen_sha256:
            raise WeightsError(
                f"{checkpoint.path}: the layers that are never trained have other weights now; "
                "bring back the weights that the run began with"
            )
        checkpoint.put(WEIGHTS, self.variables)
        self.history = checkpoint.history
        self.on_val, self.best_on_val = checkpoint.on_val()

    def resume_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Put the last checkpoint's values into the optimizer of the stage that goes on."""
        assert self.checkpoints.last is not None
        self.checkpoints.last.put(OPTIMIZER, optimizer_variables(optimizer))

    def keep(
        self,
        epoch: Epoch,
        on_val: Probabilities,
        optimizer: keras.optimizers.Optimizer,
        over: Callable[[tuple[Epoch, ...]], bool],
    ) -> None:
        """Take over what an epoch left.

        Args:
            epoch: The epoch.
            on_val: The probabilities on the validation split after it.
            optimizer: The stage's optimizer.
            over: Tells whether the stage is over after so many of the run's epochs.
        """
        self.history, self.on_val = (*self.history, epoch), on_val
        weights = snapshot(self.variables)
        if self.best is epoch:
            self.best_on_val, self._best_weights = on_val, weights
        stage_over = over(self.history)
        self._held = State(
            history=self.history,
            weights=weights,
            optimizer={} if stage_over else snapshot(optimizer_variables(optimizer)),
            on_val=on_val,
            best=self.best.epoch,
            best_weights=None if self.best is epoch else self._best_weights,
            best_on_val=self.best_on_val,
            frozen_sha256=self.frozen_sha256,
        )
        if stage_over or self._due():
            self.commit()

    def commit(self) -> None:
        """Write what is only in memory, if anything is.

        Raises:
            ResourceError: If it cannot be written.
        """
        if self._held is not None:
            self.checkpoints.commit(self._held)
            self._held = self._best_weights = None
            self._committed_s = self.clock()

    def put_best(self) -> None:
        """Put the best epoch's weights into the model, once the last stage is over."""
        assert self.checkpoints.last is not None
        self.checkpoints.last.put(self.checkpoints.last.best_file, self.variables)

    def put_last(self) -> None:
        """Put the last epoch's weights into the model, once the last stage is over."""
        assert self.checkpoints.last is not None
        self.checkpoints.last.put(WEIGHTS, self.variables)

    def _due(self) -> bool:
        """Tell whether the next epoch, as long as this one, would end after the interval.

        Or whether what would be held until then is too large.
        """
        now = self.clock()
        last, self._epoch_s = self._epoch_s, now
        late = now + (now - last) - self._committed_s >= self.fit.checkpoint_every_s
        return late or (self._held is not None and self._held.size_bytes > HELD_BYTES)


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> Variables:
    """Return an optimizer's variables by their place in it; Keras's names differ by process."""
    return {f"{place:04d}": variable for place, variable in enumerate(optimizer.variables)}
