r"""The stationarity problem at one noise level, projected on a basis.

Every function of the family is ``f(Phi) = offset + sum_j theta_j B_j(Phi)``, with the basis ``B``
whitened on the noisy images at hand. The same images serve every evaluation (common random
numbers), so that the loss is a smooth function of ``theta`` whose exact gradient is the first
variation tested against the basis: ``E[sum_p B_j(Phi_p) df_p]``.

Two exact identities take most of the noise out. The target is the posterior mean rather than the
clean image, which shifts the loss by a constant. And since ``E[T - ELS | Phi] = 0``, the part of
``T - ELS`` that correlates with the basis on the images at hand is sampling error: it is projected
out of the target (`Sample.calibrated`). At ``lambda = 0`` the solution is then ELS itself, on any sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.stationarity.equations import Head, Output, Roles, forward, gauss_newton, loss, variation
from theory.stationarity.families import Family
from theory.types import Float

CUTOFF = 1e-5  # a direction of the basis with a smaller second moment is dropped: too rare to learn from
CHUNK = {"cpu": 2**19, "cuda": 2**25}  # numbers of attention in flight: a CPU's caches, a GPU's parallelism


def whitening(features: Float[Tensor, "rows F"], blocks: list[int]) -> tuple[Tensor, Tensor, list[int]]:
    """A matrix ``W`` such that the columns of ``features @ W`` are orthonormal on average over the rows.

    Args:
        features: Raw features.
        blocks: How many of the raw features belong to each basis, ascending; the bases are nested.

    Returns:
        ``W`` with shape ``(F, columns)`` and the second moments of the features, in float64, and how
        many columns span each basis.
    """
    moments = sum(part.double().T @ part.double() for part in features.split(2**16)) / len(features)
    columns = moments.new_zeros(len(moments), 0)
    sizes, start = [], 0
    for stop in blocks:
        new = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)[:, start:stop]
        for _ in range(2):  # twice: once leaves rounding errors of the size of the projection
            new = new - columns @ (columns.T @ moments @ new)
        values, vectors = torch.linalg.eigh(new.T @ moments @ new)
        kept = (values > CUTOFF).flip(0)
        new = (new @ vectors).flip(1)[:, kept] / values.flip(0)[kept].sqrt()
        columns = torch.cat([columns, new], 1)
        sizes.append(columns.shape[1])
        start = stop
    return columns, moments, sizes


@dataclass(frozen=True)
class Sample:
    """Noisy images as the solver sees them; pixels are in the order of the classes.

    Attributes:
        basis: Whitened features of each class, with shape ``(n, pixels, F)``.
        target: ``T`` with shape ``(n, P, C)``.
        els: The ELS solution in the same prediction type, with shape ``(n, P, C)``.
    """

    basis: list[Tensor]
    target: Tensor
    els: Tensor

    @property
    def counts(self) -> list[int]:
        return [b.shape[1] for b in self.basis]

    def calibrated(self, sizes: list[int]) -> "Sample":
        """The same sample, its target freed of what is known to be sampling error in the first functions of the basis."""
        gap = self.target - self.els
        parts = []
        for basis, size, part in zip(self.basis, sizes, gap.split(self.counts, 1), strict=True):
            flat, rows = basis[..., :size].flatten(0, 1), part.flatten(0, 1)
            gram = flat.T.double() @ flat.double()  # not n times the identity: the basis is whitened on more images
            share = (torch.linalg.pinv(gram, hermitian=True) @ (flat.T.double() @ rows.double())).to(rows)
            parts.append((flat @ share).unflatten(0, part.shape[:2]))
        return Sample(self.basis, self.target - torch.cat(parts, 1), self.els)

    def part(self, rows: slice) -> "Sample":
        return Sample([b[rows] for b in self.basis], self.target[rows], self.els[rows])


class Galerkin:
    """Loss, gradient and Gauss-Newton operator of a family on a sample, as functions of one vector ``theta``.

    Args:
        family: The family.
        head: Strength, inverse temperature and hardness of the attention.
        sample: The noisy images.
        sizes: Basis functions used of each class, from the first.
        embedding: Numbers ``d`` in a query or key.
        ridge: Weight of ``||theta||^2``.

    The function in the role of ``h`` starts from the ELS solution, the others from zero.
    """

    def __init__(self, family: Family, head: Head, sample: Sample, sizes: list[int], embedding: int, ridge: float = 0.0) -> None:
        self.family, self.head, self.sample, self.sizes = family, head, sample, sizes
        self.embedding, self.ridge = embedding, ridge
        self.widths = [family.width(f, sample.target.shape[-1], embedding) for f in family.functions]
        self.lengths = [s * sum(self.widths) for s in sizes]

    def on(self, sample: Sample, sizes: list[int] | None = None) -> "Galerkin":
        """The same problem on other images, without the ridge."""
        return Galerkin(self.family, self.head, sample, sizes or self.sizes, self.embedding)

    def matrices(self, theta: Float[Tensor, " parameters"]) -> list[Tensor]:
        """Coefficients of each class with shape ``(F, total width)``, functions side by side."""
        return [part.reshape(size, -1) for part, size in zip(theta.split(self.lengths), self.sizes, strict=True)]

    def values_mask(self) -> Float[Tensor, " parameters"]:
        """1 for coefficients of functions that are local parts or values, 0 for those of queries and keys alone."""
        ties = self.family.ties
        row = torch.cat([torch.full((w,), float(f in (ties.h, ties.v))) for f, w in zip(self.family.functions, self.widths, strict=True)])
        return torch.cat([row.repeat(size) for size in self.sizes])

    def roles(self, theta: Tensor, rows: slice = slice(None)) -> Roles:
        """Values of the roles on some images."""
        return self._roles(self.matrices(theta), rows, offset=True)

    def _roles(self, matrices: list[Tensor], rows: slice, offset: bool) -> Roles:
        parts = [b[rows, :, :s] @ m for b, s, m in zip(self.sample.basis, self.sizes, matrices, strict=True)]
        values = dict(zip(self.family.functions, torch.cat(parts, 1).split(self.widths, -1), strict=True))
        if offset:
            values[self.family.ties.h] = values[self.family.ties.h] + self.sample.els[rows]
        return self.family.roles(values)

    def _chunks(self) -> Iterator[slice]:
        n, pixels, _ = self.sample.target.shape
        size = max(1, CHUNK.get(self.sample.target.device.type, CHUNK["cuda"]) // pixels**2)
        return (slice(i, min(i + size, n)) for i in range(0, n, size))

    def _test(self, roles: Roles, rows: slice, totals: list[Tensor]) -> None:
        """Add the inner products of the terms of each function with the basis."""
        terms = self.family.tied(roles)
        stacked = torch.cat([terms[f] for f in self.family.functions], -1)
        for total, basis, size, part in zip(totals, self.sample.basis, self.sizes, stacked.split(self.sample.counts, 1), strict=True):
            total.addmm_(basis[rows, :, :size].flatten(0, 1).T, part.flatten(0, 1))

    def evaluate(self, theta: Tensor) -> tuple[float, Tensor]:
        """Mean loss with its ridge, and half its gradient."""
        matrices = self.matrices(theta)
        totals, total = [torch.zeros_like(m) for m in matrices], 0.0
        for rows in self._chunks():
            roles = self._roles(matrices, rows, offset=True)
            output = forward(roles, self.head)
            residual = output.out - self.sample.target[rows]
            total += float(residual.square().sum())
            self._test(variation(roles, output, residual, self.head), rows, totals)
        n = len(self.sample.target)
        return total / n + self.ridge * float(theta.square().sum()), flattened(totals) / n + self.ridge * theta

    def losses(self, theta: Tensor) -> Float[Tensor, " n"]:
        """Loss of each image, without the ridge."""
        return torch.cat([loss(forward(self.roles(theta, rows), self.head).out, self.sample.target[rows]) for rows in self._chunks()])

    def tested(self, theta: Tensor, term: Callable[[Roles, Output, Tensor], Roles]) -> list[Tensor]:
        """Any other first variation, tested against the basis: one matrix for each class."""
        matrices = self.matrices(theta)
        totals = [torch.zeros_like(m) for m in matrices]
        for rows in self._chunks():
            roles = self._roles(matrices, rows, offset=True)
            output = forward(roles, self.head)
            self._test(term(roles, output, output.out - self.sample.target[rows]), rows, totals)
        return [t / len(self.sample.target) for t in totals]

    def curvature(self, theta: Tensor, change: Tensor) -> Tensor:
        """The Gauss-Newton operator, with its ridge, on a change of the coefficients."""
        matrices, changes = self.matrices(theta), self.matrices(change)
        totals = [torch.zeros_like(m) for m in matrices]
        for rows in self._chunks():
            roles = self._roles(matrices, rows, offset=True)
            moved = self._roles(changes, rows, offset=False)
            self._test(gauss_newton(roles, forward(roles, self.head), moved, self.head), rows, totals)
        return flattened(totals) / len(self.sample.target) + self.ridge * change


def flattened(matrices: list[Tensor]) -> Float[Tensor, " parameters"]:
    """Coefficients of all classes as one vector."""
    return torch.cat([m.flatten() for m in matrices])


def padded(matrices: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The same functions in a larger of the nested bases."""
    return [torch.cat([m, m.new_zeros(s - len(m), m.shape[1])]) for m, s in zip(matrices, sizes, strict=True)]
