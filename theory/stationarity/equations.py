r"""The attention loss, its exact first variation, and the operators built on it.

A local network followed by one attention head computes, from functions ``h, q, k, v`` of the patch
``Phi_x`` around each pixel ``x`` (arXiv 2506.17324),

.. math:: \mathrm{out}_x = h_x + \lambda \mu_x, \qquad \mu_x = \sum_y \alpha_{xy} v_y, \qquad
          \alpha_{xy} = \mathrm{softmax}_y(\beta\, q_x \cdot k_y),

and pays ``L = E sum_x ||r_x||^2`` with ``r_x = out_x - T_x``. This file is that formula and its
derivatives, on values: arrays of ``h`` and ``v`` with shape ``(n, P, C)`` and of ``q`` and ``k``
with shape ``(n, P, d)``, for ``n`` noisy images of ``P`` pixels, or of several groups of them. Nothing here knows where the
values come from; everything is linear in the number of images, in float32 or float64, on any device.

The stationarity condition of a function ``f`` of the patch is
``E[sum_p delta(Phi_p - Phi) df_p] = 0`` for every patch ``Phi`` of every border class, where
``df_p`` is half the derivative of the loss by the value of ``f`` at pixel ``p``, given by
`variation`; where one function plays several roles, its terms add.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "*lead n P C"]
Embedding = Float[Tensor, "*lead n P d"]
Attention = Float[Tensor, "*lead n P P"]


class Roles(NamedTuple):
    """What each pixel contributes: local part ``h``, query ``q``, key ``k`` and value ``v``."""

    h: Values
    q: Embedding
    k: Embedding
    v: Values


class Head(NamedTuple):
    """Strength ``lambda``, inverse temperature ``beta``, and whether attention is the hard argmax.

    ``through`` gives the argmax the derivative of the softmax (straight-through, arXiv 1308.3432): a direction to
    descend in where the true derivative by queries and keys is 0. It changes no value.
    """

    strength: float = 1.0
    beta: float = 1.0
    hard: bool = False
    through: bool = False


class Output(NamedTuple):
    """The forward pass: attention ``alpha``, context ``mu = alpha v`` and ``out = h + lambda mu``."""

    alpha: Attention
    mu: Values
    out: Values


def forward(roles: Roles, head: Head) -> Output:
    """``out_x = h_x + lambda sum_y alpha_xy v_y``.

    A hard head puts all attention on the largest ``q_x . k_y`` (the first of equals), whatever ``beta``.
    """
    logits = roles.q @ roles.k.mT
    if head.hard:
        alpha = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        if head.through:
            soft = torch.softmax(logits * head.beta, -1)
            alpha = alpha + (soft - soft.detach())
    else:
        alpha = torch.softmax(logits.mul_(head.beta) if not logits.requires_grad else logits * head.beta, -1)
    mu = alpha @ roles.v
    return Output(alpha, mu, torch.add(roles.h, mu, alpha=head.strength))


def loss(out: Values, target: Values) -> Float[Tensor, "*lead n"]:
    """``sum_x ||out_x - T_x||^2`` of each image."""
    return (out - target).square().sum((-2, -1))


def value_term(output: Output, residual: Values) -> Values:
    r"""``sum_x alpha_xp r_x``: the value of pixel ``p`` is read by every pixel that attends to it."""
    return output.alpha.mT @ residual


def pull(roles: Roles, output: Output, residual: Values) -> Attention:
    r"""``s_xy = alpha_xy (v_y - mu_x) . r_x``: half the derivative of the loss by the logit ``(x, y)``, over lambda."""
    along = residual @ roles.v.mT
    along -= (residual * output.mu).sum(-1, keepdim=True)
    return along.mul_(output.alpha)


def query_term(roles: Roles, pulls: Attention) -> Embedding:
    r"""``sum_y s_py k_y``. With all functions equal to ``z`` it is ``C_p r_p``, ``C_p = sum_y alpha_py (z_y - mu_p) z_y^T``
    (the transpose acts on ``r``; ``C`` is symmetric)."""
    return pulls @ roles.k


def key_term(roles: Roles, pulls: Attention) -> Embedding:
    r"""``sum_x s_xp q_x``, that is ``sum_x alpha_xp q_x (v_p - mu_x)^T r_x``."""
    return pulls.mT @ roles.q


def variation(roles: Roles, output: Output, residual: Values, head: Head) -> Roles:
    r"""Half the derivative of ``sum_x ||r_x||^2`` by each value: the exact first variation.

    .. math:: dh_p = r_p, \quad dv_p = \lambda \sum_x \alpha_{xp} r_x, \quad
              dq_p = \lambda\beta \sum_y s_{py} k_y, \quad dk_p = \lambda\beta \sum_x s_{xp} q_x .

    Tied to one function ``z`` these add to
    ``r_p + lambda [beta C_p r_p + sum_x alpha_xp (I + beta z_x (z_p - mu_x)^T) r_x]``. A hard head
    is piecewise constant in queries and keys: their terms vanish.
    """
    dv = value_term(output, residual) * head.strength
    if head.hard:
        return Roles(residual, torch.zeros_like(roles.q), torch.zeros_like(roles.k), dv)
    pulls = pull(roles, output, residual).mul_(head.strength * head.beta)
    return Roles(residual, query_term(roles, pulls), key_term(roles, pulls), dv)


def jacobian(roles: Roles, output: Output, change: Roles, head: Head) -> Values:
    r"""Derivative of ``out`` along a change of the roles (JVP).

    .. math:: \delta out_x = \delta h_x + \lambda \sum_y \alpha_{xy} \big[\delta v_y
              + \beta (\delta q_x \cdot k_y + q_x \cdot \delta k_y)(v_y - \mu_x)\big]
    """
    context = output.alpha @ change.v
    if not head.hard:
        logits = change.q @ roles.k.mT + roles.q @ change.k.mT
        logits -= (output.alpha * logits).sum(-1, keepdim=True)  # then sum_y alpha (.) mu_x vanishes
        context += head.beta * ((output.alpha * logits) @ roles.v)
    return change.h + head.strength * context


def gauss_newton(roles: Roles, output: Output, change: Roles, head: Head) -> Roles:
    """``J^T J`` along a change of the roles: half the Hessian of the loss without the residual's curvature.

    The transpose ``J^T`` is `variation` itself, which is linear in the residual.
    """
    return variation(roles, output, jacobian(roles, output, change, head), head)


def printed(z: Values, output: Output, residual: Values, head: Head) -> Values:
    r"""The first variation as printed in arXiv 2506.17324, in its dimension-consistent reading.

    .. math:: r_p + \lambda \sum_x \alpha_{xp} \big(I + \beta z_x (z_x - \mu_x)^T\big) r_x

    The print reads ``[..]^T delta_x`` and ``[..]^T sum_y alpha_xy (I + (z_x - mu_x) delta_y)``: a
    vector is added to a matrix there. Read with the missing factor ``z_x`` and with ``delta_y`` on
    both terms it still lacks ``beta C_p r_p``, the change of the attention paid by pixel ``p``
    itself, and has ``z_x - mu_x`` where the exact condition has ``z_p - mu_x``.
    """
    inner = (residual * (z - output.mu)).sum(-1, keepdim=True)
    return residual + head.strength * (output.alpha.mT @ (residual + head.beta * z * inner))


def first_order(z: Values, residual: Values, beta: float = 1.0) -> Values:
    r"""Integrand of the first-order term in lambda, for the tied function ``z = g_ELS``.

    .. math:: g = g_{ELS} + \lambda g_1 + O(\lambda^2), \quad g_1(\Phi) = -E\Big[\mu_p + \beta C_p r_p
              + \sum_x \alpha_{xp}\big(I + \beta z_x (z_p - \mu_x)^T\big) r_x \,\Big|\, \Phi_p = \Phi\Big]

    with ``r = g_ELS - T``. This returns the bracket with its sign; averaging it over images drawn
    given ``Phi_p`` (`theory.stationarity.conditional`) gives ``g_1``.
    """
    roles, head = Roles(z, z, z, z), Head(1.0, beta)
    output = forward(roles, head)
    terms = variation(roles, output, residual, head)
    return -(output.mu + terms.q + terms.k + terms.v)


def loss_slope(z: Values, residual: Values, beta: float = 1.0) -> Float[Tensor, " n"]:
    r"""``2 sum_x r_x . mu_x`` of each image; its mean is ``dL*/dlambda`` at ``lambda = 0``.

    By the envelope theorem the change of ``z`` does not enter at first order.
    """
    mu = forward(Roles(z, z, z, z), Head(1.0, beta)).mu
    return 2 * (residual * mu).flatten(1).sum(1)
