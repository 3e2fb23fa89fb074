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
# The largest element of the gradient at which a solution counts as reached; the probabilities are
# then within 1e-6 of the optimum's, also on pooled VGG-16 features.
TOLERANCE = 1e-8
ITERATIONS = 5000
CORRECTIONS = 20  # of L-BFGS's memory; SciPy's default is ten


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
        self.rotation: Floats | None = None
        if x.shape[1] > len(x):
            # The optimum is a combination of the images' features: solve for it in their span.
            with one_thread():
                self.rotation, triangle = np.linalg.qr(x.T)
            x = np.ascontiguousarray(triangle.T)
        self.x, self.labels, self.classes = x, labels, classes
        self.shares = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)

    def solve(
        self,
        l2: float,
        start: Floats | None = None,
        on_iteration: Callable[[], object] = bool,
        tolerance: float = TOLERANCE,
    ) -> Floats:
        """Return weights and, in the last row, intercepts, `(width + 1, classes)`.

        Args:
            l2: The strength of the penalty.
            start: Weights and intercepts to start from; None: zeros.
            on_iteration: Called after each iteration; what it raises ends the search.
            tolerance: The largest element of the gradient that is taken for zero.
        """
        from scipy.optimize import minimize

        width = self.x.shape[1]
        first = np.zeros((width + 1, self.classes))
        if start is not None:
            kernel = start[:-1] if self.rotation is None else self.rotation.T @ start[:-1]
            first = np.vstack([kernel, start[-1:]])
        with one_thread():
            result = minimize(
                lambda values: self._loss_and_gradient(values.reshape(first.shape), l2),
                first.ravel(),
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
        solution: Floats = result.x.reshape(first.shape)
        if self.rotation is None:
            return solution
        return np.vstack([self.rotation @ solution[:-1], solution[-1:]])

    def _loss_and_gradient(self, solution: Floats, l2: float) -> tuple[float, Floats]:
        kernel, rows = solution[:-1], np.arange(len(self.x))
        logits = self.x @ kernel + solution[-1]
        logits -= logits.max(axis=1, keepdims=True)
        powers = np.exp(logits)
        sums = powers.sum(axis=1)
        losses = np.log(sums) - logits[rows, self.labels]
        slopes = powers / sums[:, None]
        slopes[rows, self.labels] -= 1
        slopes *= self.shares[:, None]
        gradient = np.vstack([self.x.T @ slopes + l2 * kernel, slopes.sum(axis=0)])
        loss = self.shares @ losses + l2 / 2 * np.sum(kernel**2)
        return float(loss), gradient.ravel()


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
