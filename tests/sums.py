"""Small posterior problems of listed candidates, and their answers in extended precision."""

import numpy as np
import torch

from tests.helpers import noise
from theory.engines.listed.source import Keys, KeySource


def source_of(keys, values, log_weights, concentration=None) -> KeySource:
    """Keys held in memory, one row an item."""
    held = [x for x in (keys, values, log_weights, concentration) if x is not None]
    return KeySource(lambda a, b: Keys(*(x[:, a:b] for x in held)), keys.shape[1], len(keys), 1, keys.shape[2], values.shape[2])


def exact_logits(queries, keys, log_weights, alpha, sigma) -> np.ndarray:
    """Logits ``(G, Q, K)`` in extended precision; of 1e9 they still have correct differences."""
    q, k, w = (x.cpu().numpy().astype(np.longdouble) for x in (queries, keys, log_weights))
    distance = ((q[:, :, None] - np.longdouble(alpha) * k[:, None]) ** 2).sum(-1)
    return w[:, None] - distance / (2 * np.longdouble(sigma) ** 2)


def exact(queries, keys, values, log_weights, alpha, sigma) -> torch.Tensor:
    """Posterior means in extended precision."""
    logits, v = exact_logits(queries, keys, log_weights, alpha, sigma), values.cpu().numpy().astype(np.longdouble)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return torch.from_numpy((weights @ v / weights.sum(-1, keepdims=True)).astype(np.float64))


def exact_sizes(queries, keys, log_weights, alpha, sigma) -> tuple[torch.Tensor, torch.Tensor]:
    """``log sum_j exp(l_j)`` and effective numbers of keys, in extended precision."""
    logits = exact_logits(queries, keys, log_weights, alpha, sigma)
    top = logits.max(-1)
    weights = np.exp(logits - top[..., None])
    both = top + np.log(weights.sum(-1)), weights.sum(-1) ** 2 / (weights**2).sum(-1)
    return tuple(torch.from_numpy(x.astype(np.float64)) for x in both)


def problem(groups=2, queries=7, keys=40, dim=5, value_dim=3, seed=0, dtype=torch.float64):
    k = noise((groups, keys, dim), seed).to(dtype)
    q = k[:, torch.arange(queries) % keys].double() + 0.3 * noise((groups, queries, dim), seed + 1)
    return q, k, noise((groups, keys, value_dim), seed + 2).to(dtype), torch.log(torch.rand(groups, keys).to(dtype) + 0.01)


def coefficients(alpha, sigma, queries):
    return torch.full((queries,), alpha, dtype=torch.float64), torch.full((queries,), sigma, dtype=torch.float64)
