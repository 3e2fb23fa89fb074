"""The best epoch: which it is, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Sequence

from tlkit.train.callback import Epoch


def best_of(epochs: Sequence[Epoch], by: str) -> Epoch:
    """Return the epoch with the least loss or the highest accuracy, the first of equals.

    Args:
        epochs: At least one.
        by: Which: `val_loss` or `val_accuracy`.
    """
    sign = -1 if by.endswith("accuracy") else 1
    return min(epochs, key=lambda epoch: sign * float(getattr(epoch, by)))


def should_stop(epochs: Sequence[Epoch], by: str, patience: int | None) -> bool:
    """Tell whether the last `patience` epochs have brought nothing better; never if it is None."""
    if patience is None or not epochs:
        return False
    return len(epochs) - 1 - epochs.index(best_of(epochs, by)) >= patience
