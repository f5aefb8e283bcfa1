"""SOAP: against its formulas written out in float64, Adam where nothing is turned, and the theorem that makes it worth its time."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close
from theory import soap
from theory.soap import Soap

BETAS, GRAM, EVERY = (0.95, 0.99), 0.95, 10


def optimiser(*weights: torch.Tensor, rate: float = 0.01) -> tuple[Soap, list[torch.nn.Parameter]]:
    parameters = [torch.nn.Parameter(w.clone()) for w in weights]
    return Soap([{"params": parameters, "lr": torch.tensor(rate)}]), parameters


def stepped(method: Soap, number: int) -> None:
    method.prepare(number)
    method.step()


def by_formula(weight: np.ndarray, gradients: dict[int, np.ndarray], rate: float) -> np.ndarray:
    """SOAP in float64 as its paper has it: moments of the gradient itself are turned anew at every step."""
    w, (m, n) = weight.copy(), weight.shape
    left, right, ql, qr = np.zeros((m, m)), np.zeros((n, n)), np.eye(m), np.eye(n)
    first, second = np.zeros((m, n)), np.zeros((m, n))
    for t, g in gradients.items():
        if t == 1 or (t and t % EVERY == 0):
            for gram, axis in ((left, 0), (right, 1)):
                q = (ql, qr)[axis]
                order = np.argsort(-np.einsum("ij,ik,kj->j", q, gram, q))
                second = np.take(second, order, axis)
                q = np.linalg.qr((gram + 1e-5 * np.trace(gram) * np.eye(len(gram))) @ q[:, order])[0]
                ql, qr = (q, qr) if axis == 0 else (ql, q)
        first = BETAS[0] * first + (1 - BETAS[0]) * g
        second = BETAS[1] * second + (1 - BETAS[1]) * (ql.T @ g @ qr) ** 2
        step = (ql.T @ first @ qr) / (1 - BETAS[0] ** (t + 1)) / (np.sqrt(second / (1 - BETAS[1] ** (t + 1))) + 1e-8)
        w -= rate * ql @ step @ qr.T
        left, right = GRAM * left + (1 - GRAM) * g @ g.T, GRAM * right + (1 - GRAM) * g.T @ g
    return w


@pytest.mark.parametrize(
    ("shape", "skipped"), [((4, 4), None), ((4, 1, 2, 2), None), ((3, 4), 1), ((5, 2, 3, 1), 1), ((6,), 1), ((1, 7), 1), ((4, 1), 1)]
)
def test_steps_are_the_formulas(shape, skipped):
    """To rounding. The Gram matrix of a single gradient leaves directions open where that is not square: there step 1 is left out, and the
    first turn comes after enough of them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    numbers = [n for n in range(45) if n != skipped]
    gradients = {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n in numbers}
    method, (p,) = optimiser(weight)
    method.state[p] = {name: x.double() for name, x in method.state[p].items()}
    for n, g in gradients.items():
        p.grad = g.clone()
        stepped(method, n)
    rows = (len(weight), -1) if weight.dim() > 1 else (1, -1)
    expected = by_formula(weight.reshape(rows).numpy(), {n: g.reshape(rows).numpy() for n, g in gradients.items()}, 0.01)
    assert_close(p.detach(), torch.from_numpy(expected).reshape(shape), atol=1e-6)  # rates are float32


def test_without_turning_it_is_adam(monkeypatch):
    monkeypatch.setattr(soap, "LONGEST", 0)
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    method, (p,) = optimiser(weight)
    q = torch.nn.Parameter(weight.clone())
    adam = torch.optim.Adam([q], lr=0.01, betas=BETAS)
    for number in range(25):
        g = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
        p.grad, q.grad = g.clone(), g.clone()
        stepped(method, number)
        adam.step()
    assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_coordinates_become_eigenvectors_of_the_gram_matrices():
    generator = torch.Generator().manual_seed(2)
    mixing = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0] * torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    method, (p,) = optimiser(torch.zeros(5, 300))
    for number in range(301):
        p.grad = mixing @ torch.randn(5, 300, generator=generator)
        stepped(method, number)
    basis = method.state[p]["left_basis"]
    assert_close(basis.mT @ basis, torch.eye(5), atol=1e-5)
    assert_close((basis.mT @ mixing / mixing.norm(dim=0)).abs(), torch.eye(5), atol=0.1)  # in the order of their size


def regression(method: str, turned: bool) -> float:
    """Excess ``E |W x - W^* x|^2`` after 400 steps on batches of 8; the 24 components of ``x``, turned or not, have sizes from 1 to .01."""
    generator = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0] if turned else torch.eye(24)
    sizes = torch.logspace(0, -2, 24)
    goal = torch.randn(24, 24, generator=generator) @ axes.T
    parameter = torch.nn.Parameter(torch.zeros(24, 24))
    groups = [{"params": [parameter], "lr": torch.tensor(0.05)}]
    adam, turning = torch.optim.Adam([parameter], lr=0.05, betas=BETAS), Soap(groups)
    for number in range(400):
        x = torch.randn(8, 24, generator=generator) * sizes @ axes.T
        parameter.grad = 2 * ((parameter.detach() - goal) @ x.T @ x) / 8
        rate = 0.05 * (1 - number / 400)
        if method == "adam":
            adam.param_groups[0]["lr"] = rate
            adam.step()
        else:
            groups[0]["lr"].fill_(rate)
            stepped(turning, number)
    return float((((parameter.detach() - goal) @ axes) * sizes).square().sum())


def test_a_valley_across_the_axes_is_gone_down_like_one_along_them():
    """Adam's way depends on the axes; that of SOAP hardly does, once it has found those of the valley."""
    adam, turning = ([regression(method, turned) for turned in (False, True)] for method in ("adam", "soap"))
    assert adam[1] > 20 * adam[0]
    assert turning[1] < 2 * turning[0]
    assert turning[1] < adam[1]


def test_a_stack_of_matrices_is_so_many_matrices():
    weights = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(4))
    (together, (stack,)), alone = optimiser(weights), [optimiser(w) for w in weights]
    for number in range(25):
        g = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(number))
        stack.grad = g.clone()
        stepped(together, number)
        for (method, (p,)), part in zip(alone, g, strict=True):
            p.grad = part.clone()
            stepped(method, number)
    assert_close(stack.detach(), torch.stack([p.detach() for _, (p,) in alone]), atol=1e-5)


def test_state_has_the_shapes_that_are_told_and_long_sides_none():
    method, (a, b, c) = optimiser(torch.zeros(3, 2, 5, 5), torch.zeros(4), torch.zeros(2, soap.LONGEST + 1))
    for p in (a, b, c):
        assert {k: tuple(x.shape) for k, x in method.state[p].items()} == Soap.shapes(p)
    assert Soap.shapes(a)["right_basis"] == (50, 50)
    assert "left" not in Soap.shapes(b)
    assert set(Soap.shapes(c)) == {"exp_avg", "exp_avg_sq", "left", "left_basis"}
