"""The first variation and its operators against autograd, loops, finite differences and an exactly solvable toy.

Everything expected here is computed without the equations: by loops over pixels, by `reference`
(the forward pass in one einsum) differentiated by torch, or by Newton's method on the toy's loss.
"""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import hessian, jvp
from torch.autograd.functional import jacobian as all_derivatives

from tests.helpers import assert_close, noise
from theory.stationarity.equations import (
    Head,
    Roles,
    first_order,
    forward,
    gauss_newton,
    jacobian,
    loss,
    loss_slope,
    printed,
    variation,
)
from theory.stationarity.families import FAMILIES, SOFT, family

EXACT = 1e-10
NAMES = list(FAMILIES)


def reference(h, q, k, v, head: Head, alpha=None) -> torch.Tensor:
    """The output, differentiable; with the attention ``alpha`` held fixed where it is given."""
    if alpha is None:
        logits = head.beta * torch.einsum("nxd,nyd->nxy", q, k)
        weights = torch.exp(logits - logits.detach().amax(-1, keepdim=True))
        alpha = weights / weights.sum(-1, keepdim=True)
    return h + head.strength * torch.einsum("nxy,nyc->nxc", alpha, v)


def argmax_attention(q, k) -> torch.Tensor:
    """One-hot attention by loops: the first of the largest."""
    alpha = torch.zeros(len(q), q.shape[1], q.shape[1], dtype=q.dtype)
    for n in range(len(q)):
        for x in range(q.shape[1]):
            logits = [sum(a * b for a, b in zip(q[n, x].tolist(), key, strict=True)) for key in k[n].tolist()]
            alpha[n, x, logits.index(max(logits))] = 1
    return alpha


def random_roles(n: int, pixels: int, channels: int, width: int, seed: int) -> Roles:
    return Roles(*(noise((n, pixels, w), seed + i) for i, w in enumerate((channels, width, width, channels))))


def random_values(name: str, n: int, pixels: int, channels: int, width: int, seed: int) -> dict[str, torch.Tensor]:
    """Values of the functions of a family."""
    f = family(name)
    return {g: noise((n, pixels, f.width(g, channels, width)), seed + i) for i, g in enumerate(f.functions)}


def inner(a: Roles, b: Roles) -> torch.Tensor:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))


def flat(roles: Roles) -> torch.Tensor:
    return torch.cat([x.flatten() for x in roles])


shapes = {"n": st.integers(1, 3), "pixels": st.integers(1, 6), "channels": st.integers(1, 3), "width": st.integers(1, 4)}
numbers = {"strength": st.floats(-2, 2), "beta": st.floats(-2, 2), "seed": st.integers(0, 10**6)}
random = given(**shapes, **numbers)
few = settings(max_examples=25, deadline=None)


# ---------------------------------------------------------------------- forward and loss


@random
@few
def test_forward_and_loss_equal_loops(n, pixels, channels, width, strength, beta, seed):
    roles, head = random_roles(n, pixels, channels, width, seed), Head(strength, beta)
    target = noise((n, pixels, channels), seed + 9)
    output, total = forward(roles, head), torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        for x in range(pixels):
            weights = [math.exp(beta * float(roles.q[i, x] @ roles.k[i, y])) for y in range(pixels)]
            alpha = [w / sum(weights) for w in weights]
            mu = sum(a * roles.v[i, y] for y, a in enumerate(alpha))
            out = roles.h[i, x] + strength * mu
            assert_close(output.alpha[i, x], alpha, atol=EXACT)
            assert_close(output.mu[i, x], mu, atol=EXACT)
            assert_close(output.out[i, x], out, atol=EXACT)
            total[i] += sum((float(a) - float(b)) ** 2 for a, b in zip(out, target[i, x], strict=True))
    assert_close(loss(output.out, target), total, rtol=1e-12, atol=EXACT)


def test_forward_is_differentiable_and_changes_no_input():
    """Autograd through `forward` gives the gradient of the reference; values that need no gradient stay as they were."""
    values = {g: x.requires_grad_() for g, x in random_values("full", 2, 4, 2, 3, 0).items()}
    head, target = Head(0.7, 1.3), noise((2, 4, 2), 9)
    roles = family("full").roles(values)
    ours = torch.autograd.grad(loss(forward(roles, head).out, target).sum(), list(values.values()))
    expected = torch.autograd.grad((reference(*roles, head) - target).square().sum(), list(values.values()))
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b, atol=EXACT)

    plain, change = random_roles(2, 4, 2, 3, 0), random_roles(2, 4, 2, 3, 50)
    output = forward(plain, head)
    residual = output.out - target
    copies = [x.clone() for x in (*plain, *change, *output, residual)]
    variation(plain, output, residual, head)
    jacobian(plain, output, change, head)
    gauss_newton(plain, output, change, head)
    printed(plain.h, output, residual, head)
    first_order(plain.h, residual)
    loss_slope(plain.h, residual)
    for before, after in zip(copies, (*plain, *change, *output, residual), strict=True):
        assert torch.equal(before, after)


# ---------------------------------------------------------------------- the first variation


@pytest.mark.parametrize("name", [f.name for f in SOFT])
@random
@few
def test_variation_is_half_the_gradient(name, n, pixels, channels, width, strength, beta, seed):
    """With ties, the terms of a function are summed over its roles by `Family.tied`."""
    f, head = family(name), Head(strength, beta)
    values = {g: x.requires_grad_() for g, x in random_values(name, n, pixels, channels, width, seed).items()}
    target = noise((n, pixels, channels), seed + 9)
    out = reference(*f.roles(values), head)
    gradient = torch.autograd.grad((out - target).square().sum(), list(values.values()), materialize_grads=True)

    roles = f.roles({g: x.detach() for g, x in values.items()})
    output = forward(roles, head)
    terms = f.tied(variation(roles, output, output.out - target, head))
    assert list(terms) == list(values)
    for term, half in zip(terms.values(), gradient, strict=True):
        # Relative where gradients are large: the largest random logits are of order 50.
        assert_close(term, half / 2, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(("name", "strength"), [("literal", 0.8), ("identity", -0.6), ("full", 0.8)])
def test_variation_equals_central_differences(name, strength):
    """Step 1e-5: truncation of order 1e-10 of the third derivative (below 1e3), rounding of 1e-16 L / 1e-5, both below 1e-7."""
    f, head, step = family(name), Head(strength, 1.2), 1e-5
    values, target = random_values(name, 2, 4, 2, 2, 3), noise((2, 4, 2), 9)

    def total(changed: dict) -> float:
        return float((reference(*f.roles(changed), head) - target).square().sum())

    roles = f.roles(values)
    output = forward(roles, head)
    terms = f.tied(variation(roles, output, output.out - target, head))
    for g, x in values.items():
        for i in range(x.numel()):
            change = torch.zeros(x.numel(), dtype=torch.float64)
            change[i] = step
            change = change.reshape(x.shape)
            difference = (total({**values, g: x + change}) - total({**values, g: x - change})) / (2 * step)
            assert abs(float(terms[g].flatten()[i]) - difference / 2) < 1e-7


def literal_by_loops(z, output, residual, strength: float, beta: float, with_own: bool, value_of) -> torch.Tensor:
    r"""``r_p + lambda [beta C_p r_p + sum_x alpha_xp (I + beta z_x (value_of(p, x) - mu_x)^T) r_x]``, ``C_p r_p`` only if asked."""
    n, pixels, channels = z.shape
    result = torch.zeros_like(z)
    for i in range(n):
        for p in range(pixels):
            bracket = torch.zeros(channels, dtype=z.dtype)
            if with_own:
                matrix = sum(output.alpha[i, p, y] * torch.outer(z[i, y] - output.mu[i, p], z[i, y]) for y in range(pixels))
                bracket += beta * matrix @ residual[i, p]
            for x in range(pixels):
                matrix = torch.eye(channels, dtype=z.dtype) + beta * torch.outer(z[i, x], z[i, value_of(p, x)] - output.mu[i, x])
                bracket += output.alpha[i, x, p] * matrix @ residual[i, x]
            result[i, p] = residual[i, p] + strength * bracket
    return result


def literal_problem(n, pixels, channels, strength, beta, seed):
    z = noise((n, pixels, channels), seed)
    head = Head(strength, beta)
    output = forward(Roles(z, z, z, z), head)
    return z, head, output, output.out - noise((n, pixels, channels), seed + 1)


@given(**{name: shapes[name] for name in ("n", "pixels", "channels")}, **numbers)
@few
def test_tied_literal_variation_equals_the_closed_form(n, pixels, channels, strength, beta, seed):
    z, head, output, residual = literal_problem(n, pixels, channels, strength, beta, seed)
    terms = family("literal").tied(variation(Roles(z, z, z, z), output, residual, head))
    expected = literal_by_loops(z, output, residual, strength, beta, True, lambda p, x: p)
    assert list(terms) == ["z"]
    assert_close(terms["z"], expected, atol=EXACT, rtol=EXACT)


@given(**{name: shapes[name] for name in ("n", "pixels", "channels")}, **numbers)
@few
def test_printed_variation_lacks_exactly_two_pieces(n, pixels, channels, strength, beta, seed):
    """It is its own formula, and the exact one less ``beta C_p r_p`` and with ``z_x`` for ``z_p``."""
    z, head, output, residual = literal_problem(n, pixels, channels, strength, beta, seed)
    ours = printed(z, output, residual, head)
    assert_close(ours, literal_by_loops(z, output, residual, strength, beta, False, lambda p, x: x), atol=EXACT, rtol=EXACT)

    missing = torch.zeros_like(z)
    for i in range(n):
        for p in range(pixels):
            for y in range(pixels):
                missing[i, p] += output.alpha[i, p, y] * (z[i, y] @ residual[i, p]) * (z[i, y] - output.mu[i, p])  # C is symmetric
            for x in range(pixels):
                missing[i, p] += output.alpha[i, x, p] * z[i, x] * ((z[i, p] - z[i, x]) @ residual[i, x])
    exact = family("literal").tied(variation(Roles(z, z, z, z), output, residual, head))["z"]
    assert_close(exact - ours, strength * beta * missing, atol=EXACT, rtol=EXACT)


def test_printed_variation_is_not_the_exact_one():
    z, head, output, residual = literal_problem(2, 5, 2, 1.0, 1.0, 0)
    exact = family("literal").tied(variation(Roles(z, z, z, z), output, residual, head))["z"]
    assert float((printed(z, output, residual, head) - exact).abs().max()) > 0.1


# ---------------------------------------------------------------------- the Jacobian


@random
@few
def test_jacobian_is_the_forward_derivative(n, pixels, channels, width, strength, beta, seed):
    roles, change = (random_roles(n, pixels, channels, width, s) for s in (seed, seed + 50))
    head = Head(strength, beta)
    _, expected = jvp(lambda h, q, k, v: reference(h, q, k, v, head), tuple(roles), tuple(change))
    assert_close(jacobian(roles, forward(roles, head), change, head), expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("hard", [False, True])
@random
@few
def test_variation_is_the_transpose_of_the_jacobian(hard, n, pixels, channels, width, strength, beta, seed):
    """``<J a, b> = <a, J^T b>`` for any change ``a`` and residual ``b``."""
    roles, a = (random_roles(n, pixels, channels, width, s) for s in (seed, seed + 50))
    head, b = Head(strength, beta, hard), noise((n, pixels, channels), seed + 9)
    output = forward(roles, head)
    left = (jacobian(roles, output, a, head) * b).sum()
    right = inner(a, variation(roles, output, b, head))
    assert_close(left, right, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_gauss_newton_is_symmetric_and_positive(name):
    """Tied too: a change of a function changes all of its roles, and the terms add."""
    f = family(name)
    head = Head(0.9, 1.1, f.hard)
    values, a, b = (random_values(name, 2, 5, 2, 3, seed) for seed in (0, 50, 100))
    roles = f.roles(values)
    output = forward(roles, head)

    def product(x: dict, y: dict) -> float:
        tied = f.tied(gauss_newton(roles, output, f.roles(y), head))
        return float(sum((x[g] * tied[g]).sum() for g in f.functions))

    assert_close(product(a, b), product(b, a), atol=EXACT)
    assert_close(product(a, a), jacobian(roles, output, f.roles(a), head).square().sum(), rtol=1e-12)
    assert product(a, a) > 0


@pytest.mark.parametrize("hard", [False, True])
def test_gauss_newton_equals_the_explicit_matrix(hard):
    """``J^T J`` from the Jacobian torch finds, column by column; no eigenvalue below zero."""
    roles, head = random_roles(1, 3, 2, 2, 0), Head(-0.7, 1.3, hard)
    alpha = argmax_attention(roles.q, roles.k) if hard else None
    blocks = all_derivatives(lambda h, q, k, v: reference(h, q, k, v, head, alpha).flatten(), tuple(roles))
    matrix = torch.cat([block.flatten(1) for block in blocks], 1)
    expected = matrix.T @ matrix

    output, columns, sizes = forward(roles, head), [], [x.numel() for x in roles]
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        change = Roles(*(part.reshape(x.shape) for part, x in zip(unit.split(sizes), roles, strict=True)))
        columns.append(flat(gauss_newton(roles, output, change, head)))
    ours = torch.stack(columns, 1)
    assert_close(ours, expected, atol=EXACT)
    assert float(torch.linalg.eigvalsh(ours).min()) > -EXACT


# ---------------------------------------------------------------------- the hard head


@random
@few
def test_hard_attention_is_the_first_largest(n, pixels, channels, width, strength, beta, seed):
    """Small whole numbers: products are exact and ties are common. ``beta`` plays no part, not even its sign."""
    roles = random_roles(n, pixels, channels, width, seed)
    roles = roles._replace(q=roles.q.round(), k=roles.k.round())
    head, alpha = Head(strength, beta, hard=True), argmax_attention(roles.q, roles.k)
    output = forward(roles, head)
    assert torch.equal(output.alpha, alpha)
    assert_close(output.out, reference(*roles, head, alpha), atol=EXACT)


def test_hard_attention_takes_the_first_of_equals():
    roles = Roles(noise((1, 3, 1)), torch.ones(1, 3, 1).double(), torch.tensor([[[0.0], [2.0], [2.0]]]).double(), noise((1, 3, 1), 1))
    assert forward(roles, Head(hard=True)).alpha[0].tolist() == [[0, 1, 0]] * 3


@pytest.mark.parametrize("name", [name for name in NAMES if family(name).hard])
@random
@few
def test_hard_variation_holds_the_attention_fixed(name, n, pixels, channels, width, strength, beta, seed):
    f, head = family(name), Head(strength, beta, hard=True)
    values = {g: x.requires_grad_() for g, x in random_values(name, n, pixels, channels, width, seed).items()}
    target, roles = noise((n, pixels, channels), seed + 9), f.roles(values)
    alpha = argmax_attention(roles.q.detach(), roles.k.detach())
    out = reference(*roles, head, alpha)
    gradient = torch.autograd.grad((out - target).square().sum(), list(values.values()), allow_unused=True, materialize_grads=True)

    roles = Roles(*(x.detach() for x in roles))
    output = forward(roles, head)
    terms = variation(roles, output, output.out - target, head)
    assert torch.equal(terms.q, torch.zeros_like(roles.q)) and torch.equal(terms.k, torch.zeros_like(roles.k))
    for term, half in zip(f.tied(terms).values(), gradient, strict=True):
        assert_close(term, half / 2, atol=EXACT)


# ---------------------------------------------------------------------- symmetries and precision


@pytest.mark.parametrize("hard", [False, True])
def test_permuting_pixels_permutes_everything(hard):
    roles, change, head = random_roles(3, 6, 2, 3, 0), random_roles(3, 6, 2, 3, 50), Head(0.9, 1.2, hard)
    residual, order = noise((3, 6, 2), 9), torch.tensor([3, 0, 5, 1, 4, 2])

    def everything(mix) -> list[torch.Tensor]:
        r, c, b = Roles(*map(mix, roles)), Roles(*map(mix, change)), mix(residual)
        output = forward(r, head)
        return [
            output.mu,
            output.out,
            jacobian(r, output, c, head),
            printed(r.h, output, b, head),
            first_order(r.h, b, 1.2),
            *variation(r, output, b, head),
            *gauss_newton(r, output, c, head),
        ]

    for plain, permuted in zip(everything(lambda x: x), everything(lambda x: x[:, order]), strict=True):
        assert_close(permuted, plain[:, order], atol=1e-12)
    z = roles.h
    assert_close(loss_slope(z[:, order], residual[:, order]), loss_slope(z, residual), atol=1e-12)
    assert_close(forward(Roles(*(x[:, order] for x in roles)), head).alpha, forward(roles, head).alpha[:, order][..., order], atol=1e-12)


@pytest.mark.parametrize("hard", [False, True])
def test_images_do_not_mix(hard):
    """A batch equals its images one at a time."""
    roles, residual, head = random_roles(3, 5, 2, 3, 0), noise((3, 5, 2), 9), Head(0.9, 1.2, hard)
    whole = variation(roles, forward(roles, head), residual, head)
    for i in range(3):
        one = Roles(*(x[i : i + 1] for x in roles))
        for a, b in zip(variation(one, forward(one, head), residual[i : i + 1], head), whole, strict=True):
            assert_close(a, b[i : i + 1], atol=1e-12)


def test_float32_agrees_with_float64():
    """1e-5 of the largest number: about 100 roundings of 6e-8, logits of order 10 included. The dtype is kept."""
    roles, change, residual = random_roles(4, 30, 3, 6, 0), random_roles(4, 30, 3, 6, 50), noise((4, 30, 3), 9)
    head = Head(0.9, 1.2)

    def everything(dtype) -> list[torch.Tensor]:
        r, c, b = Roles(*(x.to(dtype) for x in roles)), Roles(*(x.to(dtype) for x in change)), residual.to(dtype)
        output = forward(r, head)
        z = r.h
        return [
            *output,
            loss(output.out, b),
            jacobian(r, output, c, head),
            *variation(r, output, b, head),
            *gauss_newton(r, output, c, head),
            printed(z, forward(Roles(z, z, z, z), head), b, head),
            first_order(z, b),
            loss_slope(z, b),
        ]

    for single, double in zip(everything(torch.float32), everything(torch.float64), strict=True):
        assert single.dtype == torch.float32
        assert_close(single, double, rtol=1e-5)


# ---------------------------------------------------------------------- first order in lambda, on a toy solved exactly

STATES, PIXELS, CHANNELS, JOINT = 4, 3, 2, 14
STRENGTHS = (0.04, 0.02, 0.01)


class Toy:
    """A patch is one of a few symbols, so that a function of it is a table and expectations are sums.

    ``symbols[j, p]`` is what pixel ``p`` sees in joint state ``j``, of probability ``weights[j]`` and target ``target[j]``.
    """

    def __init__(self, seed: int, beta: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.beta = beta
        self.symbols = torch.randint(STATES, (JOINT, PIXELS), generator=generator)
        self.weights = torch.rand(JOINT, generator=generator, dtype=torch.float64) + 0.1
        self.weights /= self.weights.sum()
        self.target = noise((STATES, CHANNELS), seed + 2)[self.symbols] + noise((JOINT, PIXELS, CHANNELS), seed + 1)
        self.els = self.given(self.target)

    def given(self, values: torch.Tensor) -> torch.Tensor:
        """``E[values_p | Phi_p]``: a row for each symbol, pixels counting evenly, by loops."""
        table = torch.zeros(STATES, CHANNELS, dtype=torch.float64)
        mass = torch.zeros(STATES, 1, dtype=torch.float64)
        for j in range(JOINT):
            for p in range(PIXELS):
                table[self.symbols[j, p]] += self.weights[j] * values[j, p]
                mass[self.symbols[j, p]] += self.weights[j]
        return table / mass

    def loss(self, table: torch.Tensor, strength: float) -> torch.Tensor:
        z = table[self.symbols]
        each = (reference(z, z, z, z, Head(strength, self.beta)) - self.target).square().sum((1, 2))
        return (self.weights * each).sum()

    def solve(self, strength: float) -> torch.Tensor:
        """The stationary table that continues ELS, by Newton's method."""

        def at(table):
            return self.loss(table, strength)

        table = self.els.clone()
        for _ in range(8):
            slope = all_derivatives(at, table).flatten()
            curvature = hessian(at, table).reshape(len(slope), -1)
            table = table - torch.linalg.solve(curvature, slope).reshape(table.shape)
        assert float(all_derivatives(at, table).abs().max()) < 1e-14
        return table


def slopes(errors) -> list[float]:
    """Observed order of convergence between neighbouring strengths, each half the one before."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.fixture(params=[(0, 1.0), (7, 1.0), (9, 1.7)], ids=str)
def toy(request) -> Toy:
    """Toys (seed, beta) whose least loss does have a second-order term: where it happens to vanish no slope can be seen."""
    return Toy(*request.param)


def test_toy_starts_at_els(toy):
    assert_close(toy.solve(0.0), toy.els, atol=1e-12)


def test_first_order_is_the_derivative_of_the_solution(toy):
    """``g(lambda) - g_ELS - lambda g_1`` is of second order: slope 2; and ``g_1`` itself is not zero."""
    z = toy.els[toy.symbols]
    g_1 = toy.given(first_order(z, z - toy.target, toy.beta))
    solutions = [toy.solve(strength) for strength in STRENGTHS]
    errors = [float((g - toy.els - s * g_1).norm()) for g, s in zip(solutions, STRENGTHS, strict=True)]
    relative = [float(((g - toy.els) / s - g_1).norm() / g_1.norm()) for g, s in zip(solutions, STRENGTHS, strict=True)]
    assert all(abs(slope - 2) < 0.1 for slope in slopes(errors)), (slopes(errors), relative)
    assert all(abs(slope - 1) < 0.1 for slope in slopes(relative)), (slopes(relative), relative)
    assert float(g_1.norm()) > 0.1 and relative[-1] < 0.1


def test_loss_slope_is_the_derivative_of_the_least_loss(toy):
    z = toy.els[toy.symbols]
    expected = (toy.weights * loss_slope(z, z - toy.target, toy.beta)).sum()
    start = toy.loss(toy.els, 0.0)
    found = [(toy.loss(toy.solve(s), s) - start) / s for s in STRENGTHS]
    errors = [float((slope - expected).abs()) for slope in found]
    assert all(abs(slope - 1) < 0.1 for slope in slopes(errors)), (slopes(errors), errors)
    assert errors[-1] < 0.1 * float(expected.abs())


def test_exact_condition_holds_at_the_solution_and_the_printed_one_does_not(toy):
    """``E[variation_p | Phi_p] = 0`` for every symbol, at any strength; what the print lacks is no small thing."""
    for strength in (0.04, 0.3):
        head, z = Head(strength, toy.beta), toy.solve(strength)[toy.symbols]
        roles = Roles(z, z, z, z)
        output = forward(roles, head)
        residual = output.out - toy.target
        exact = toy.given(family("literal").tied(variation(roles, output, residual, head))["z"])
        assert float(exact.abs().max()) < 1e-13
        assert float(toy.given(printed(z, output, residual, head)).abs().max()) > 0.03 * strength
