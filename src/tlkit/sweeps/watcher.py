"""Being told how a sweep goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlkit.sweeps.outcomes import Outcome
    from tlkit.sweeps.trials import Trials


class SweepWatcher:
    """Somebody who is told how a sweep goes and does nothing about it; override what matters."""

    def planned(self, trials: Trials, folder: Path) -> None:
        """Everything is checked and the first run is about to begin."""

    def run_done(self, number: int, count: int, outcome: Outcome, seconds: float) -> None:
        """A run has ended.

        Args:
            number: Its place in the sweep, from 1.
            count: How many runs the sweep has.
            outcome: What became of it.
            seconds: How long it took; 0 if it had been finished before.
        """
