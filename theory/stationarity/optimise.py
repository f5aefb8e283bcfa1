"""Minimising the Galerkin loss: quasi-Newton for everything, conjugate gradients where it is quadratic."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from theory.stationarity.galerkin import Galerkin

MEMORY = 20  # pairs of steps and gradients L-BFGS keeps
ROUND = 10  # iterations between two checks of progress


def quasi_newton(
    problem: Galerkin,
    theta: Tensor,
    iterations: int,
    tolerance: float,
    watched: Galerkin | None = None,
    report: Callable[[float], None] = lambda loss: None,
    patience: int = 1,
) -> tuple[Tensor, list[float], bool]:
    """L-BFGS with a strong-Wolfe line search, stopped early where the loss on other images rises.

    Args:
        problem: What to minimise.
        theta: Start.
        iterations: Most iterations.
        tolerance: Progress is what lowers the lowest loss (on the watched images, if there are any) by as much.
        watched: The same problem on other images.
        report: Called with the loss after each evaluation.
        patience: Stop after so many times ten iterations without progress.

    Returns:
        The best point after any ten iterations (judged on the watched images, if there are any), the loss
        at the start and after each ten iterations, and whether it stood still or rose in the end.
    """
    x = theta.double().clone().requires_grad_(True)
    losses = []

    def closure() -> float:
        value, gradient = problem.evaluate(x.detach().to(theta))
        x.grad = 2 * gradient.double()
        losses.append(value)
        report(value)
        return value

    def judged(at: Tensor) -> float:
        return min(losses[-ROUND:], default=problem.evaluate(at)[0]) if watched is None else float(watched.losses(at).double().mean())

    optimiser = torch.optim.LBFGS([x], tolerance_grad=0, tolerance_change=0, history_size=MEMORY, line_search_fn="strong_wolfe")
    best, history, idle = theta, [judged(theta)], 0
    for start in range(0, iterations, ROUND):
        optimiser.param_groups[0] |= {"max_iter": min(ROUND, iterations - start), "max_eval": 3 * ROUND}
        optimiser.step(closure)
        at = x.detach().to(theta)
        history.append(judged(at))
        idle = 0 if min(history[:-1]) - history[-1] >= tolerance else idle + 1  # also where it is not a number
        if history[-1] < min(history[:-1]):
            best = at
        if idle == patience:
            return best, history, iterations - start >= ROUND  # fewer than ten iterations prove nothing
    return best, history, False


def least_squares(problem: Galerkin, theta: Tensor, rtol: float = 1e-3, iterations: int = 40) -> Tensor:
    """Solve ``J^T J change = -gradient`` for local parts and values: one Gauss-Newton step.

    With a hard head, and queries and keys of their own, the loss is quadratic in these and this is its minimum,
    up to a relative residual of ``rtol`` or that many iterations of conjugate gradients.
    """
    free = problem.values_mask().double().cpu().numpy()
    gradient = free * problem.evaluate(theta)[1].double().cpu().numpy()

    def product(change: np.ndarray) -> np.ndarray:
        return free * problem.curvature(theta, torch.from_numpy(free * change).to(theta)).double().cpu().numpy()

    operator = LinearOperator((len(gradient), len(gradient)), matvec=product, dtype=np.float64)
    change, _ = cg(operator, -gradient, rtol=rtol, maxiter=iterations)
    return theta + torch.from_numpy(change).to(theta)
