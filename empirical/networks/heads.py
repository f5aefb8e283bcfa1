r"""What stands on the trunk: a readout, or one attention layer and a readout.

With ``z`` the trunk's features at each pixel, and ``softmax`` over all pixels ``y``:

- ``none``: ``out = R z``.
- ``literal``: ``out = u + softmax(u u^T) u`` with ``u = E z`` in ``R^C``: the formula of arXiv 2506.17324 as written.
- ``identity``: ``out = R (u + softmax(beta u u^T) u)`` with ``u = E z`` in ``R^d``: query and key matrices are the identity.
- ``top1``: the same with all attention on the largest ``u_x . u_y``; in training, a straight-through sample of the
  softmax (Gumbel, arXiv 1611.01144), so that there is something to learn from.
- ``patch``: as ``none``, but trained to denoise all pixels of the patch it sees, those outside the image being 0.
- ``attention``: ``out = H z + softmax(beta (Q z)(K z)^T) V z``, one full head. Keys start equal to queries.

``beta = 1 / sqrt(d)`` is where training starts from; weights can undo it, so that it constrains nothing.

Over all noise levels at once training sees a long plateau at the loss of the CNN before attention is any use: what a CNN needs to know
for its own pixel is not what one pixel can tell another. At one level where attention is soft the plateau is short: ``attention`` begins
there (`empirical.training.batches`). Started from the trunk of ``patch``, which knows all of its patch, ``identity`` leaves it soon.
``attention`` can also start as the function of a trained ``identity``, but then ends at a higher loss. Queries and keys start long, and
under Adam learn faster than the rest (`quick`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from empirical.networks.blocks import pixels

SIDE = 5  # pixels along a patch
SHARP = 3.0  # size of the weights of queries and keys at the start, relative to that of other layers


class Readout(nn.Module):
    """No attention."""

    def __init__(self, hidden: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.readout = nn.Linear(hidden, channels)

    def forward(self, z: Tensor) -> Tensor:
        return self.readout(z)


class Patch(nn.Module):
    """No attention; in training the whole patch, in use its centre."""

    def __init__(self, hidden: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.channels = channels
        self.readout = nn.Linear(hidden, channels * SIDE**2)

    def forward(self, z: Tensor) -> Tensor:
        out = self.readout(z)
        return out if self.training else out.unflatten(-1, (self.channels, SIDE**2))[..., SIDE**2 // 2]


class Literal(nn.Module):
    """Colours attend to colours."""

    def __init__(self, hidden: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.embed = nn.Linear(hidden, channels)

    def forward(self, z: Tensor) -> Tensor:
        u = self.embed(z)
        return u + torch.softmax(u @ u.mT, -1) @ u


class Identity(nn.Module):
    """Embeddings attend to embeddings."""

    def __init__(self, hidden: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.beta = embedding**-0.5
        self.embed = nn.Linear(hidden, embedding)
        self.readout = nn.Linear(embedding, channels)
        nn.init.normal_(self.embed.weight, std=hidden**-0.5)

    def attention(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, -1)

    def forward(self, z: Tensor) -> Tensor:
        u = self.embed(z)
        return self.readout(u + self.attention(self.beta * u @ u.mT) @ u)


class Top1(Identity):
    """One pixel attends to one."""

    def attention(self, logits: Tensor) -> Tensor:
        if not self.training:
            return _hard(logits)
        noisy = logits - torch.empty_like(logits).exponential_().log()
        soft = torch.softmax(noisy, -1)
        return _hard(noisy) + soft - soft.detach()


class Full(nn.Module):
    """One head with matrices of its own."""

    quick = ("query", "key")

    def __init__(self, hidden: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.beta = embedding**-0.5
        self.local, self.value = nn.Linear(hidden, channels), nn.Linear(hidden, channels)
        self.query, self.key = nn.Linear(hidden, embedding), nn.Linear(hidden, embedding)
        nn.init.normal_(self.query.weight, std=SHARP * hidden**-0.5)
        self.key.load_state_dict(self.query.state_dict())

    def forward(self, z: Tensor) -> Tensor:
        parts = (self.query, self.key, self.local, self.value)  # one product for all four: most of the time goes into reading z
        weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        query, key, local, value = linear(z, weight, bias).split([len(p.weight) for p in parts], -1)
        return local + torch.softmax(self.beta * query @ key.mT, -1) @ value

    def attention(self, z: Tensor) -> Tensor:
        """What each pixel (row) reads of each (column), with shape ``(B, P, P)``; rows add up to 1."""
        return torch.softmax(self.beta * self.query(z) @ self.key(z).mT, -1)

    def of_identity(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights with which this head is an `Identity` head: ``Q = K = E`` and ``H = V = R E``."""
        embed, embed_bias = weights["head.embed.weight"], weights["head.embed.bias"]
        readout, bias = weights["head.readout.weight"], weights["head.readout.bias"]
        value, value_bias = readout @ embed, readout @ embed_bias
        return {
            **{f"{name}.weight": embed for name in ("query", "key")},
            **{f"{name}.bias": embed_bias for name in ("query", "key")},
            **{f"{name}.weight": value for name in ("local", "value")},
            "value.bias": value_bias,
            "local.bias": value_bias + bias,
        }


class SpatialAttention(nn.Module):
    """Residual self-attention over all pixels of a feature map, as UNets have it at their coarsest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(pixels(x)).chunk(3, -1)
        out = self.project(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + out.mT.reshape(x.shape)


def _hard(logits: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
