r"""Posterior means over a finite set of candidates: the sum every closed-form score is made of.

A query ``q`` (what the model sees of the noisy image) is compared with keys ``k_j`` (clean
candidates, weight ``w_j``) that carry values ``v_j``:

.. math:: \ell_j = -\frac{\|q - \alpha_t k_j\|^2}{2 \sigma_t^2} + \log w_j, \qquad
          E[v | q] = \frac{\sum_j e^{\ell_j} v_j}{\sum_j e^{\ell_j}} .

The sum is a monoid (`state`), apart from how it is summed: `dense` keeps every logit and can be
differentiated, `stream` runs through the keys in pieces within a memory budget. Machines only
choose queries, keys, values and weights (`source`).
"""

from theory.errors import InputError, choices
from theory.posterior.dense import dense_sum
from theory.posterior.source import Keys, KeySource, stored
from theory.posterior.state import State
from theory.posterior.stream import stream_sum

ENGINES = {"stream": stream_sum, "dense": dense_sum}


def summation(name: str):
    """The summation of that name: ``stream`` (exact, within a budget) or ``dense`` (differentiable)."""
    if name not in ENGINES:
        raise InputError(f"engine {name!r}", choices(ENGINES), "choose one of these")
    return ENGINES[name]


__all__ = ["ENGINES", "KeySource", "Keys", "State", "dense_sum", "stored", "stream_sum", "summation"]
