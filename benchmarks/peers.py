"""Other ways to the same posterior mean: what a user would write, or call, without this package.

Each takes queries ``(Q, d)``, keys ``(K, d)``, values ``(K, v)``, ``alpha`` and ``sigma``, all float32, and
returns the means ``(Q, v)``.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def plain(queries: Tensor, keys: Tensor, values: Tensor, alpha: float, sigma: float) -> Tensor:
    """The formula as written: differences, squares, sum, softmax."""
    rows = max(1, 2**27 // keys.numel())  # differences of 512 MB at a time
    distances = [(q[:, None] - alpha * keys).square().sum(-1) for q in queries.split(rows)]
    return torch.softmax(-torch.cat(distances) / (2 * sigma**2), 1) @ values


def matmul(queries: Tensor, keys: Tensor, values: Tensor, alpha: float, sigma: float) -> Tensor:
    """The expanded square and one matrix product, which loses digits at low noise."""
    distance = queries.square().sum(1, keepdim=True) - 2 * alpha * (queries @ keys.T) + alpha**2 * keys.square().sum(1)
    return torch.softmax(-distance / (2 * sigma**2), 1) @ values


def attention(queries: Tensor, keys: Tensor, values: Tensor, alpha: float, sigma: float) -> Tensor:
    """Torch's fused attention, the squared norms as one more column; it takes values as wide as keys."""
    norms = keys.square().sum(1, keepdim=True) * (-(alpha**2) / (2 * sigma**2))
    q = torch.cat([queries * (alpha / sigma**2), queries.new_ones(len(queries), 1)], 1)
    k = torch.cat([keys, norms], 1)
    v = torch.nn.functional.pad(values, (0, k.shape[1] - values.shape[1]))
    return scaled_dot_product_attention(q[None, None], k[None, None], v[None, None], scale=1.0)[0, 0, :, : values.shape[1]]


def keops(queries: Tensor, keys: Tensor, values: Tensor, alpha: float, sigma: float) -> Tensor:
    """PyKeOps' symbolic softmax: a compiled loop over pairs, no matrix."""
    from pykeops.torch import LazyTensor

    scale = 1 / (math.sqrt(2) * sigma)
    q, k = LazyTensor((queries * scale)[:, None]), LazyTensor((keys * (alpha * scale))[None])
    return (-((q - k) ** 2).sum(-1)).sumsoftmaxweight(LazyTensor(values[None]), axis=1)


def faiss_top(queries: Tensor, keys: Tensor, values: Tensor, alpha: float, sigma: float, count: int = 100) -> Tensor:
    """Only the 100 nearest keys, found by FAISS' exact search: an approximation without a bound."""
    import faiss

    index = faiss.IndexFlatL2(keys.shape[1])
    index.add((alpha * keys).numpy())
    distance, nearest = (torch.from_numpy(a) for a in index.search(queries.numpy(), min(count, len(keys))))
    weights = torch.softmax(-distance / (2 * sigma**2), 1)
    return (weights[..., None] * values[nearest]).sum(1)


PEERS = {"plain": plain, "matmul": matmul, "attention": attention, "keops": keops, "faiss": faiss_top}
