"""`Checkpointer`: the progress of a run, in memory and on disk.

It writes at the end of each stage and when the next epoch would overrun the checkpoint interval;
otherwise it holds the last epoch in memory, unless that is large. Large models are therefore
written after every epoch and never held twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tlkit.config.experiment import Fit
from tlkit.system.errors import WeightsError
from tlkit.system.keras import keras
from tlkit.train.callback import Epoch, best_of
from tlkit.train.checkpoint import OPTIMIZER, WEIGHTS, Checkpoint, Checkpoints, State
from tlkit.train.plan import Plan
from tlkit.train.step import Probabilities
from tlkit.weights.tensors import Tensors, Variables, numbered_weights, sha256, snapshot

HELD_BYTES = 2**28  # at most this is held; VGG-16's two dense layers with Adam's state: 321 MB


class Checkpointer:
    """The progress of a run: its epochs, weights and optimizer, and those of the best epoch.

    Layers that the plan never trains are not saved, only hashed.
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
        steps = (planned for planned in plan.stages if not planned.l2)
        self._initial = snapshot(self.variables) if any(each.refit for each in steps) else None
        self.history: tuple[Epoch, ...] = ()
        self.on_val: Probabilities = np.empty((0, 0), np.float32)
        self.best_on_val = self.on_val
        self._best_weights: Tensors | None = None  # until they are on disk
        self._held: State | None = None
        self._committed_s = self._epoch_s = clock()

    @property
    def best(self) -> Epoch:
        """Return the best epoch so far."""
        return best_of(self.history, self.fit.monitor)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: take its history and load its weights into the model."""
        if checkpoint.frozen_sha256 != self.frozen_sha256:
            raise WeightsError(
                f"{checkpoint.path}: the weights of the frozen layers have changed; "
                "restore the weights that the run started with"
            )
        checkpoint.load(WEIGHTS, self.variables)
        self.history = checkpoint.history
        self.on_val, self.best_on_val = checkpoint.on_val()

    def resume_optimizer(self, state: Variables) -> None:
        """Load the last checkpoint's optimizer state, if any, for a stage that continues."""
        assert self.checkpoints.last is not None
        if state:
            self.checkpoints.last.load(OPTIMIZER, state)

    def keep(
        self,
        epoch: Epoch,
        on_val: Probabilities,
        state: Variables,
        is_over: Callable[[tuple[Epoch, ...]], bool],
    ) -> None:
        """Keep the state after an epoch, on disk if it is due.

        `state` are the optimizer's variables; `is_over` tells whether the stage is over after
        these epochs of the run.
        """
        self.history, self.on_val = (*self.history, epoch), on_val
        weights = snapshot(self.variables)
        if self.best is epoch:
            self.best_on_val, self._best_weights = on_val, weights
        stage_over = is_over(self.history)
        self._held = State(
            history=self.history,
            weights=weights,
            optimizer={} if stage_over else snapshot(state),
            on_val=on_val,
            best=self.best.epoch,
            best_weights=None if self.best is epoch else self._best_weights,
            best_on_val=self.best_on_val,
            frozen_sha256=self.frozen_sha256,
        )
        if stage_over or self._is_due():
            self.commit()

    def commit(self) -> None:
        """Write the state that is only in memory, if any."""
        if self._held is not None:
            self.checkpoints.commit(self._held)
            self._held = self._best_weights = None
            self._committed_s = self.clock()

    def load_initial(self) -> None:
        """Load the weights that the model had at first, which a run that fits again keeps."""
        assert self._initial is not None
        for name, variable in self.variables.items():
            variable.assign(self._initial[name])

    def load_best(self) -> None:
        """Load the best epoch's weights into the model, once the last stage is over."""
        assert self.checkpoints.last is not None
        self.checkpoints.last.load(self.checkpoints.last.best_file, self.variables)

    def load_last(self) -> None:
        """Load the last epoch's weights into the model, once the last stage is over."""
        assert self.checkpoints.last is not None
        self.checkpoints.last.load(WEIGHTS, self.variables)

    def _is_due(self) -> bool:
        """Tell whether the next epoch would overrun the interval, or too much would be held."""
        now = self.clock()
        last, self._epoch_s = self._epoch_s, now
        late = now + (now - last) - self._committed_s >= self.fit.checkpoint_every_s
        return late or (self._held is not None and self._held.size_bytes > HELD_BYTES)
