"""Multinomial logistic regression on a stage's features, solved to its optimum by L-BFGS.

It minimizes the mean weighted cross-entropy plus l2/2 · ‖W‖², W without the intercepts, in float64.
The sum of the weights is what the mean divides by, so a weight of 2 is the same as a copy of the
image, and the same `l2` suits any number of images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# The largest element of the scaled gradient at which a solution counts as reached; the tests find
# the probabilities within 1e-6 of scikit-learn's then.
TOLERANCE = 1e-8
ITERATIONS = 5000
# Of L-BFGS's memory. For 10,300 values an iteration of SciPy's takes 17 ms with 10, 44 ms with 20.
CORRECTIONS = 10


class LogisticRegression:
    """The features and labels of a regression, ready to be solved at several strengths.

    Args:
        features: `(images, width)`.
        labels: `(images,)`, the class numbers.
        weights: `(images,)`, how much each image counts.
        classes: The number of classes.
    """

    def __init__(
        self,
        features: npt.NDArray[Any],
        labels: npt.NDArray[np.int32],
        weights: npt.NDArray[Any],
        classes: int,
    ) -> None:
        x = np.asarray(features, np.float64)
        # The optimum is a combination of the images' features: solve for it along their principal
        # axes. There the curvature is known, up to the probabilities, and steps can be scaled by
        # it: without, ill-conditioned features need two to five times as many.
        with one_thread():
            left, self.spread, self.axes = np.linalg.svd(x, full_matrices=False)
        self.x, self.labels, self.classes = left * self.spread, labels, classes
        self.shares = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)

    def solve(
        self,
        l2: float,
        start: Floats | None = None,
        on_iteration: Callable[[], object] = bool,
        tolerance: float = TOLERANCE,
    ) -> Floats:
        """Return weights and, in the last row, intercepts, `(width + 1, classes)`."""
        from scipy.optimize import minimize

        first = np.zeros((len(self.spread) + 1, self.classes))
        if start is not None:
            first = np.vstack([self.axes @ start[:-1], start[-1:]])
        # The curvature along an axis: its mean square, times p (1 - p) as it is at the start.
        p = np.exp(self._log_probabilities(first))
        doubt = max(float(self.shares @ (p * (1 - p)).mean(axis=1)), 1e-6)
        curvature = np.append(doubt * self.spread**2 / len(self.x) + l2, doubt)
        scale = 1 / np.sqrt(curvature)[:, None]

        def scaled(values: Floats) -> tuple[float, Floats]:
            loss, gradient = self._loss_and_gradient(scale * values.reshape(first.shape), l2)
            return loss, (scale * gradient).ravel()

        with one_thread():
            result = minimize(
                scaled,
                (first / scale).ravel(),
                jac=True,
                method="L-BFGS-B",
                callback=lambda _: on_iteration(),
                options={
                    "maxiter": ITERATIONS,
                    "maxfun": 2 * ITERATIONS,
                    "maxcor": CORRECTIONS,
                    "gtol": tolerance,
                    "ftol": 0.0,
                },
            )
            solution: Floats = scale * result.x.reshape(first.shape)
            return np.vstack([self.axes.T @ solution[:-1], solution[-1:]])

    def _loss_and_gradient(self, solution: Floats, l2: float) -> tuple[float, Floats]:
        kernel, rows = solution[:-1], np.arange(len(self.x))
        logs = self._log_probabilities(solution)
        p, losses = np.exp(logs), -logs[rows, self.labels]
        p[rows, self.labels] -= 1
        p *= self.shares[:, None]
        gradient = np.vstack([self.x.T @ p + l2 * kernel, p.sum(axis=0)])
        loss = self.shares @ losses + l2 / 2 * np.sum(kernel**2)
        return float(loss), gradient

    def _log_probabilities(self, solution: Floats) -> Floats:
        logits: Floats = self.x @ solution[:-1] + solution[-1]
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits


def one_thread() -> Any:
    """Return a context in which NumPy and SciPy use one thread.

    The matrices are narrow: handing them to several threads takes longer than the product, twenty
    times as long on a busy machine. The solution then does not depend on their number either.
    """
    return _threads().limit(limits=1, user_api="blas")


@cache
def _threads() -> Any:
    import scipy.optimize  # noqa: F401  # it has a BLAS of its own, which must be there
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
