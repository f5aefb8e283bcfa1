r"""Optimal linear filters of windows, from the mean and covariance of images.

The covariance of a window is decomposed once, ``V diag(lambda) V^T``; then the kernel at any noise level is

.. math:: W = \mathrm{Cov}(x_0(p), \Phi^0)\, V \frac{\alpha_t}{\alpha_t^2 \lambda + \sigma_t^2} V^T .
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fft import irfft2, rfft2

from theory.patches import Size, border_blocks, patch_rows
from theory.types import Int

PIECE = 2**22  # numbers of images transformed at a time


@dataclass(frozen=True)
class Kernels:
    """``Q`` kernels for windows of ``d`` numbers, each shared by ``P`` pixels; all that is real in float64.

    Attributes:
        pixels: Which pixels, counted row by row, ``(Q, P)``.
        places: Which numbers of an image the window of each pixel holds, ``(Q, P, d)``.
        mean: Of a clean window, ``(Q, d)``.
        centre: Of the clean pixel, ``(Q, C)``.
        values: Eigenvalues of the covariance of a clean window, ``(Q, d)``.
        vectors: Its eigenvectors, ``(Q, d, d)``.
        cross: Covariance of the clean pixel with the window, along the eigenvectors, ``(Q, C, d)``.
    """

    pixels: Int[Tensor, "Q P"]
    places: Int[Tensor, "Q P d"]
    mean: Tensor
    centre: Tensor
    values: Tensor
    vectors: Tensor
    cross: Tensor

    @classmethod
    def of(cls, pixels: Tensor, places: Tensor, own: Tensor, mean: Tensor, covariance: Tensor) -> "Kernels":
        """From the mean ``(D,)`` and covariance ``(D, D)`` of whole images; ``own`` ``(Q, C)`` tells where in a window its pixel is."""
        held = mean[places]
        middle = held.mean(1)
        away = held - middle[:, None]
        matrices = torch.einsum("qpi,qpj->qij", away, away)
        for p in places.unbind(1):
            matrices += covariance[p[:, :, None], p[:, None]]
        matrices /= places.shape[1]
        values, vectors = torch.linalg.eigh(matrices)
        cross = matrices.gather(1, own[:, :, None].expand(-1, -1, matrices.shape[2])) @ vectors
        return cls(pixels, places, middle, middle.gather(1, own), values.clamp(min=0), vectors, cross)

    def to(self, device: torch.device) -> "Kernels":
        """The same elsewhere."""
        return type(self)(*(value.to(device) for value in vars(self).values()))

    def filtered(self, flat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Denoised pixels ``(B, C, Q P)`` of flattened noisy images ``(B, D)`` at one noise level."""
        kernel = (self.cross * (alpha / (alpha**2 * self.values + sigma**2))[:, None]) @ self.vectors.mT
        bias = self.centre - alpha * torch.einsum("qcd,qd->qc", kernel, self.mean)
        out = torch.einsum("bqpd,qcd->bcqp", flat[:, self.places], kernel) + bias.T[:, :, None]
        return out.flatten(2)


def windows(shape: tuple[int, int, int], size: Size, border: str, shared: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pixels, the numbers their windows hold, and where in a window its own pixel is; arguments of `Kernels.of`.

    Args:
        shape: Channels, height and width of an image.
        size: Height and width of the window.
        border: ``"zeros"``: windows are cut off, class by class; or ``"circular"``: they wrap, and hold no pixel twice.
        shared: Whether the pixels of a class share a kernel.
    """
    channels, height, width = shape
    index = torch.arange(channels * height * width).reshape(1, *shape)
    if border == "circular":
        rows, cols = (torch.arange(n)[:, None] + residues(n, k) for n, k in zip((height, width), size, strict=True))
        places = index[0][:, (rows % height)[:, None, :, None], (cols % width)[None, :, None]]
        found = [(index[0, 0].flatten(), places.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1))]
    else:
        blocks = border_blocks(height, width, size)
        found = [(index[0, 0, slice(*b.rows), slice(*b.cols)].flatten(), patch_rows(index.double(), b).long()) for b in blocks]
    for pixels, places in found:
        pixels, places = (pixels[None], places[None]) if shared else (pixels[:, None], places[:, None])
        mine = pixels[:, :1] + height * width * torch.arange(channels)
        yield pixels, places, (places[:, 0, None] == mine[:, :, None]).int().argmax(2)


def residues(length: int, window: int) -> Int[Tensor, " n"]:
    """Offsets of a window along an axis that wraps, each position once."""
    return torch.arange(-(window // 2), window // 2 + 1).remainder(length).unique()


@dataclass(frozen=True)
class Stationary:
    """The kernel of images that wrap: one for all pixels.

    Attributes:
        mean: Of each channel, ``(C, 1, 1)``.
        shape: Height and width of an image.
        offsets: Rows and columns the window reaches; None for all.
        values: Eigenvalues of the covariance of a window, ``(d,)``; for the whole image of the power spectrum, ``(H, F, C)``.
        vectors: Eigenvectors, ``(d, d)``; for the whole image ``(H, F, C, C)``, complex.
        cross: As in `Kernels`, ``(C, d)``; None for the whole image.
    """

    mean: Tensor
    shape: Size
    offsets: tuple[Tensor, Tensor] | None
    values: Tensor
    vectors: Tensor
    cross: Tensor | None

    @classmethod
    def of(cls, images: Tensor, weights: Tensor, size: Size | None) -> "Stationary":
        """From weighted images ``(N, C, H, W)`` and the window; None for all that wraps."""
        shape = tuple(images.shape[-2:])
        mean, power = _moments(images, weights / weights.sum())
        if size is None:
            values, vectors = torch.linalg.eigh(power.permute(2, 3, 0, 1))
            return cls(mean, shape, None, values.clamp(min=0), vectors, None)
        correlation = irfft2(power.conj(), shape)  # of a pixel with the one so many rows and columns further, (C, C, H, W)
        rows, cols = (residues(n, k) for n, k in zip(shape, size, strict=True))
        y, x = (o.flatten() for o in torch.meshgrid(rows, cols, indexing="ij"))
        window = correlation[:, :, (y[None] - y[:, None]) % shape[0], (x[None] - x[:, None]) % shape[1]]
        values, vectors = torch.linalg.eigh(window.permute(0, 2, 1, 3).flatten(2).flatten(0, 1))
        return cls(mean, shape, (y, x), values.clamp(min=0), vectors, correlation[:, :, y, x].flatten(1) @ vectors)

    def to(self, device: torch.device) -> "Stationary":
        """The same elsewhere."""
        return type(self)(*(value.to(device) if isinstance(value, Tensor) else value for value in vars(self).values()))

    def filtered(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Denoised images, from noisy ones ``(B, C, H, W)`` at one noise level."""
        spectrum = rfft2(x - alpha * self.mean)
        return irfft2(torch.einsum("cdhf,bdhf->bchf", self._response(alpha, sigma), spectrum), self.shape) + self.mean

    def _response(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What each frequency is multiplied with, ``(C, C, H, F)``."""
        shrunk = alpha / (alpha**2 * self.values + sigma**2)
        if self.cross is None:
            return ((self.vectors * (shrunk * self.values)[..., None, :]) @ self.vectors.mH).permute(2, 3, 0, 1)
        channels = len(self.cross)
        plane = self.cross.new_zeros(channels, channels, *self.shape)
        plane[:, :, self.offsets[0], self.offsets[1]] = ((self.cross * shrunk) @ self.vectors.T).reshape(channels, channels, -1)
        return rfft2(plane).conj()


def _moments(images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel ``(C, 1, 1)``, and the power spectrum ``(C, C, H, F)`` around it."""
    step = max(1, PIECE // images[0].numel())
    parts = [(images[i : i + step], weights[i : i + step]) for i in range(0, len(images), step)]
    mean = sum(torch.einsum("n,nchw->c", w, part.double()) for part, w in parts)[:, None, None] / images[0, 0].numel()
    power = 0
    for part, w in parts:
        spectra = rfft2(part.double() - mean)
        power = power + torch.einsum("nchf,ndhf->cdhf", w[:, None, None, None] * spectra, spectra.conj())
    return mean, power / images[0, 0].numel()
