"""Multinomial logistic regression, solved exactly: scikit-learn's problem, in a third of its steps and on any device.

L-BFGS takes many steps on features whose directions differ much in scale. Here it works in coordinates in which the
curvature is about the same in every direction: at the uniform prediction the Hessian is the matrix of second moments
over the number of classes, plus the penalty; its factor is at hand before the first step. (Böhning, Annals of the
Institute of Statistical Mathematics, 1992, has the bound of this form.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

_MEMORY = 10
"""Steps that L-BFGS remembers: scikit-learn's own."""
_TOLERANCE = 1e-4
"""Of the largest entry of the mean gradient in the features' coordinates: scikit-learn's own."""
_ROWS_AT_ONCE = 65536
"""Bounds the memory of logits."""
_MOST_DIMS = 4096
"""Above this a factor of the moments costs more than the steps it saves."""


@dataclass(frozen=True)
class Solution:
    """A fitted regression."""

    weights: np.ndarray
    """float64, (D + 1, C); the last row is the intercept."""
    iterations: int
    converged: bool

    def log_probabilities(self, points_ND: np.ndarray) -> np.ndarray:
        """float32 (N, D) -> float32 (N, C)."""
        weights = self.weights.astype(np.float32)
        logits = torch.from_numpy(points_ND @ weights[:-1] + weights[-1])
        return torch.log_softmax(logits, dim=1).numpy()


class LogisticProblem:
    """Examples and their labels, ready to be solved for several penalties.

    Args:
        points_ND: float32, standardised.
        labels_N: class indices, each of 0 to C - 1 at least once.
        device: where the sums over examples are computed.
    """

    def __init__(self, points_ND: np.ndarray, labels_N: np.ndarray, *, device: torch.device) -> None:
        self.points_ND = torch.from_numpy(np.ascontiguousarray(points_ND, dtype=np.float32)).to(device)
        self.labels_N = torch.from_numpy(np.asarray(labels_N, dtype=np.int64)).to(device)
        self.num_classes = int(labels_N.max()) + 1
        self._moments_DD = self._moments() if points_ND.shape[1] <= _MOST_DIMS else None

    def solve(self, penalty: float, *, max_iterations: int, start: Solution | None = None) -> Solution:
        """Minimise the sum of cross-entropies plus |weights|^2 / (2 penalty); intercepts are not penalised.

        Args:
            penalty: C of scikit-learn, the inverse strength of the regularisation.
            max_iterations: of L-BFGS.
            start: of another penalty or of other examples, to go on from.
        """
        num_points, size, num_classes = len(self.points_ND), self.points_ND.shape[1] + 1, self.num_classes
        # Of two classes scikit-learn has one vector of weights, which here is split between both.
        decay = (2 if num_classes == 2 else 1) / (penalty * num_points)
        factor = self._factor(decay)
        steepest = np.inf

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal steepest
            weights = torch.from_numpy(flat.reshape(size, num_classes)).to(self.points_ND.device)
            weights = torch.linalg.solve_triangular(factor.T, weights, upper=True)
            value, gradient = self._mean_loss(weights)
            value += 0.5 * decay * float((weights[:-1] ** 2).sum())
            gradient[:-1] += decay * weights[:-1]
            steepest = float(gradient.abs().max())
            return value, torch.linalg.solve_triangular(factor, gradient, upper=False).cpu().numpy().ravel()

        def stop_at_the_optimum(_: np.ndarray) -> None:
            if steepest <= _TOLERANCE:
                raise StopIteration

        first = np.zeros((size, num_classes)) if start is None else factor.T.cpu().numpy() @ start.weights
        options = {"maxiter": max_iterations, "maxcor": _MEMORY, "gtol": 0.0, "ftol": 64 * np.finfo(float).eps}
        found = minimize(
            loss, first.ravel(), jac=True, method="L-BFGS-B", callback=stop_at_the_optimum, options=options
        )
        scaled = torch.from_numpy(found.x.reshape(size, num_classes)).to(factor.device)
        weights = torch.linalg.solve_triangular(factor.T, scaled, upper=True).cpu().numpy()
        return Solution(weights, int(found.nit), bool(found.success or steepest <= _TOLERANCE))

    def _parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.points_ND.split(_ROWS_AT_ONCE), self.labels_N.split(_ROWS_AT_ONCE), strict=True)

    def _moments(self) -> torch.Tensor:
        """Mean outer product of the examples, float64 (D, D)."""
        size = self.points_ND.shape[1]
        moments_DD = torch.zeros(size, size, dtype=torch.float64, device=self.points_ND.device)
        for points_ND, _ in self._parts():
            moments_DD += points_ND.T @ points_ND
        return moments_DD / len(self.points_ND)

    def _factor(self, decay: float) -> torch.Tensor:
        """L of the curvature L L^T, float64 (D + 1, D + 1): of weights, and of the intercept, which is apart."""
        size, scale = self.points_ND.shape[1] + 1, 1 / self.num_classes
        diagonal = torch.full((size,), scale, dtype=torch.float64, device=self.points_ND.device)
        if self._moments_DD is None:
            diagonal[:-1] += decay
            return torch.diag(diagonal.sqrt())
        curvature = torch.diag(diagonal)
        curvature[:-1, :-1] = scale * self._moments_DD
        # Sums in single precision fall short of positive by about as much, more on some processors.
        ridge = 1e-9 + scale * float(torch.finfo(torch.float32).eps * self._moments_DD.trace())
        curvature.diagonal()[:-1] += decay + ridge
        while (found := torch.linalg.cholesky_ex(curvature)).info and math.isfinite(ridge):
            curvature.diagonal()[:-1] += ridge
            ridge *= 2
        return found.L

    def _mean_loss(self, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Mean cross-entropy, and its gradient, float64 (D + 1, C)."""
        narrow, num_points = weights.float(), len(self.points_ND)
        value, gradient = 0.0, torch.zeros_like(weights)
        for points_ND, labels_N in self._parts():
            log_probabilities_NC = torch.log_softmax(torch.addmm(narrow[-1], points_ND, narrow[:-1]), dim=1)
            rows = torch.arange(len(labels_N), device=labels_N.device)
            value -= float(log_probabilities_NC[rows, labels_N].sum(dtype=torch.float64))
            residuals_NC = log_probabilities_NC.exp_()
            residuals_NC[rows, labels_N] -= 1
            gradient[:-1] += points_ND.T @ residuals_NC
            gradient[-1] += residuals_NC.sum(dim=0)
        return value / num_points, gradient / num_points
