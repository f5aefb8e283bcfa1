"""Least squares for local parts and values, by conjugate gradients on the Gauss-Newton operator."""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from theory.stationarity.galerkin import Galerkin


def least_squares(problem: Galerkin, theta: list[Tensor], rtol: float = 1e-3, iterations: int = 40, ridge: float = 0.0) -> list[Tensor]:
    """Solve ``(J^T J + ridge) change = -gradient`` for local parts and values: one Gauss-Newton step.

    With a hard head, and queries and keys of their own, the loss is quadratic in these and this is its minimum,
    up to a relative residual of ``rtol`` or that many iterations of conjugate gradients.
    """
    mask = problem.values_mask().to(theta[0])
    sizes = [t.numel() for t in theta]

    def vector(parts: list[Tensor]) -> np.ndarray:
        return torch.cat([(p * mask).flatten() for p in parts]).cpu().numpy()

    def parts(x: np.ndarray) -> list[Tensor]:
        split = torch.from_numpy(x).to(theta[0]).split(sizes)
        return [p.reshape(t.shape) * mask for p, t in zip(split, theta, strict=True)]

    def product(x: np.ndarray) -> np.ndarray:
        return vector(problem.curvature(theta, parts(x))) + ridge * x

    operator = LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)
    change, _ = cg(operator, -vector(problem.gradient(theta)), rtol=rtol, maxiter=iterations)
    return [t + c for t, c in zip(theta, parts(change), strict=True)]
