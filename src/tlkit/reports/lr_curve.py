"""Pictures of results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

BLUE, GREY, ORANGE = "#3b6fb6", "#b8bec8", "#c8642c"


def rate_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: npt.NDArray[np.float64],
    suggestion: float | None,
) -> Figure:
    """Return the losses over the learning rate, with the suggested rate marked."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=GREY, label="one batch")
    axes.plot(rates, smoothed, color=BLUE, label="smoothed")
    if suggestion is not None:
        label = f"suggestion {suggestion:.2g}"
        axes.axvline(suggestion, color=ORANGE, linestyle="--", label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("weighted training loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
