"""All logits at once, by direct differences: for small problems, debugging and derivatives.

Keeps every intermediate, so ``torch.autograd`` runs through it. Refuses what would not fit.
"""

import torch

from theory.engines.listed.source import KeySource
from theory.engines.state import State
from theory.errors import InputError
from theory.types import Coefficients, Queries


def dense_sum(queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
    """The state of all queries after all keys.

    Args:
        queries: What the model sees, with shape ``(G, Q, d)``.
        alpha, sigma: Coefficients of each query, with shape ``(Q,)``, float64.
        source: The keys.
        memory: Bytes that may be used.

    Raises:
        InputError: If the differences of all pairs do not fit in ``memory``.
    """
    needed = queries.shape[1] * source.numbers * queries.element_size()
    if needed > memory:
        raise InputError(
            f"a dense posterior of {needed / 2**20:.0f} MB",
            f"at most memory={memory} bytes ({memory / 2**20:.0f} MB)",
            "use engine='stream', which is exact too, or raise memory",
        )
    keys, values, log_weights, concentration = source.read(0, source.items)
    alpha, sigma = alpha.to(queries), sigma.to(queries)
    distance = (queries[:, :, None] - alpha[:, None, None] * keys[:, None]).square().sum(-1)
    logits = (log_weights[:, None] - distance / (2 * sigma[:, None] ** 2)).double()
    top = logits.detach().amax(-1)
    weights = torch.exp(logits - top[..., None])
    squares = weights.square() if concentration is None else weights.square() * concentration[:, None]
    return State(top, weights.sum(-1), squares.sum(-1), weights @ values.double())
