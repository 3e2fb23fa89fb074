"""`SweepCallback`: how a sweep reports its progress."""

from __future__ import annotations

from pathlib import Path

from tlkit.sweeps.summary import Outcome
from tlkit.sweeps.trials import Trials
from tlkit.system.renames import renamed_methods


@renamed_methods(planned="on_plan", run_done="on_run_end")
class SweepCallback:
    """Callback base class for sweeps; every method does nothing."""

    def on_plan(self, trials: Trials, folder: Path) -> None:
        """Handle the checked plan, before the first run."""

    def on_run_end(self, number: int, count: int, outcome: Outcome, seconds: float) -> None:
        """Handle the end of a run.

        Args:
            number: The run's number in the sweep, from 1.
            count: The number of runs in the sweep.
            outcome: The run's outcome.
            seconds: How long it took; 0 if it was finished before.
        """
