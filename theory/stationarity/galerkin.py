r"""The stationarity conditions projected on a basis: their residual.

Every function of a family is ``f(Phi) = sum_j theta_j B_j(Phi)``, with the basis ``B`` whitened on the noisy
images at hand. The derivative of the loss along ``theta`` is the exact first variation tested against the
basis, ``E[sum_p B_j(Phi_p) df_p]``: zero for all ``j`` is the stationarity condition, projected.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from theory.stationarity.equations import Output, Roles, forward, variation
from theory.stationarity.learned import Draws, Model, Point
from theory.types import Float

CUTOFF = 1e-6  # a direction of the basis with a smaller second moment, relative to the features', is dropped
CHUNK = {"cpu": 2**19, "cuda": 2**25}  # numbers of attention in flight: a CPU's caches, a GPU's parallelism


def whitening(moments: Float[Tensor, "F F"], blocks: list[int]) -> tuple[Tensor, list[int]]:
    """A matrix ``W`` such that functions with these second moments become orthonormal.

    Args:
        moments: ``E[B_i B_j]``, in float64.
        blocks: How many of the functions belong to each basis, ascending; the bases are nested.

    Returns:
        ``W`` with shape ``(F, columns)``, and how many columns span each basis.
    """
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
    return columns, sizes


class Galerkin:
    """The gradient around a point, as a function of the coefficients of whitened functions.

    Args:
        model: The family.
        point: Its features are the basis; its coefficients are where `theta` starts.
        draws: Noisy images.
        heldout: Further functions of the coordinates, for which coefficients are 0 at the start.
    """

    def __init__(self, model: Model, point: Point, draws: Draws, heldout: Callable[[Tensor], Tensor] | None = None) -> None:
        self.model, self.net, self.draws, self.heldout = model, point.net, draws, heldout
        self._whiten(point)

    def basis(self, draws: Draws) -> Float[Tensor, "n P R"]:
        """The functions before whitening: 1, ELS, features and held-out ones."""
        own = self.model.basis(self.net, draws)
        return own if self.heldout is None else torch.cat([own, self.heldout(draws.u)], -1)

    @torch.no_grad()
    def _whiten(self, point: Point) -> None:
        solved = point.coefficients.shape[1]
        moments = [0.0] * len(point.coefficients)
        for part in self.draws.parts():
            for c, rows in enumerate(self.basis(part).split(self.model.counts, 1)):
                rows = rows.flatten(0, 1).double()
                moments[c] = moments[c] + rows.T @ rows
        self.matrices, self.inside, self.theta = [], [], []
        for second, count, coefficients in zip(moments, self.model.counts, point.coefficients.double(), strict=True):
            second = second / (len(self.draws.target) * count)
            matrix, (inside, _) = whitening(second, [solved, len(second)])
            self.matrices.append(matrix)
            self.inside.append(inside)
            self.theta.append((matrix.T @ second)[:, :solved] @ coefficients)

    def point(self, theta: list[Tensor]) -> Point:
        """The point with these coefficients; those of held-out functions must be 0."""
        solved = 1 + self.model.channels + self.net.width
        return Point(self.net, torch.stack([(m @ t)[:solved] for m, t in zip(self.matrices, theta, strict=True)]).to(self.net.first))

    def _pieces(self, draws: Draws | None = None) -> Iterator[Draws]:
        draws = draws or self.draws
        n, pixels, _ = draws.target.shape
        size = max(1, CHUNK.get(draws.target.device.type, CHUNK["cuda"]) // pixels**2)
        return (draws.part(slice(i, i + size)) for i in range(0, n, size))

    def _whitened(self, draws: Draws) -> list[Tensor]:
        parts = self.basis(draws).split(self.model.counts, 1)
        return [part @ m.to(part) for part, m in zip(parts, self.matrices, strict=True)]

    def _roles(self, white: list[Tensor], theta: list[Tensor]) -> Roles:
        out = torch.cat([w @ t.to(w) for w, t in zip(white, theta, strict=True)], 1)
        return self.model.family.roles(dict(zip(self.model.family.functions, out.split(self.model.widths, -1), strict=True)))

    @torch.no_grad()
    def tested(self, theta: list[Tensor], term: Callable[[Roles, Output, Tensor], Roles], draws: Draws | None = None) -> list[Tensor]:
        """A first variation, or anything like it, tested against the whitened functions: one matrix for each class."""
        totals = [torch.zeros_like(t) for t in theta]
        for part in self._pieces(draws):
            white = self._whitened(part)
            roles = self._roles(white, theta)
            output = forward(roles, self.model.head)
            self._add(totals, term(roles, output, output.out - part.target), white)
        return [t / len((draws or self.draws).target) for t in totals]

    def _add(self, totals: list[Tensor], roles: Roles, white: list[Tensor]) -> None:
        terms = self.model.family.tied(roles)
        stacked = torch.cat([terms[f] for f in self.model.family.functions], -1)
        for total, w, part in zip(totals, white, stacked.split([w.shape[1] for w in white], 1), strict=True):
            total += (w.flatten(0, 1).T @ part.flatten(0, 1)).to(total)

    def gradient(self, theta: list[Tensor], draws: Draws | None = None) -> list[Tensor]:
        """Half the derivative of the mean loss: the projected stationarity condition."""
        return self.tested(theta, lambda roles, output, residual: variation(roles, output, residual, self.model.head), draws)
