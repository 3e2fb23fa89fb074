"""The record of test-time augmentation. Light at import."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class FlipGain:
    """What averaging with the horizontal mirror image does on validation.

    Attributes:
        kept: Whether the averages are used, because their log loss is lower.
        log_loss: The log loss of the images alone.
        averaged_log_loss: That of the averages.
    """

    kept: bool
    log_loss: float
    averaged_log_loss: float
