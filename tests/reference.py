"""Brute force: the papers' formulas as loops in float64 NumPy. Imports nothing from the package."""

import math

import numpy as np


def coefficients(t: float) -> tuple[float, float]:
    """The cosine schedule of arXiv 2412.20292."""
    alpha = math.cos(math.pi / 2 * t / 1.008)
    return alpha, math.sqrt(1 - alpha**2)


def posterior(query, candidates, alpha: float, sigma: float):
    """Mean, log evidence and effective sample size from a list of (key, value, weight)."""
    logits = [
        math.log(weight) - sum((q - alpha * k) ** 2 for q, k in zip(query, key, strict=True)) / (2 * sigma**2)
        for key, _, weight in candidates
        if weight > 0
    ]
    values = np.array([value for _, value, weight in candidates if weight > 0], dtype=np.float64)
    top = max(logits)
    weights = np.array([math.exp(logit - top) for logit in logits])
    mean = (weights[:, None] * values).sum(0) / weights.sum()
    log_evidence = top + math.log(weights.sum()) - len(query) / 2 * math.log(2 * math.pi * sigma**2)
    return mean, log_evidence, weights.sum() ** 2 / (weights**2).sum()


def inside(y: int, x: int, height: int, width: int, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Window offsets that fall inside the image: what tells one border class from another."""
    rows, cols = (range(-(k // 2), k // 2 + 1) for k in size)
    return tuple((i, j) for i in rows for j in cols if 0 <= y + i < height and 0 <= x + j < width)


def _patch(image, y, x, offsets):
    """Patch with wrapping, channel by channel."""
    _, height, width = image.shape
    return [image[c, (y + i) % height, (x + j) % width] for c in range(len(image)) for i, j in offsets]


def _all_offsets(size):
    return tuple((i, j) for i in range(-(size[0] // 2), size[0] // 2 + 1) for j in range(-(size[1] // 2), size[1] // 2 + 1))


def ideal(x, images, weights, alpha, sigma):
    mean, evidence, ess = posterior(x.ravel(), [(k.ravel(), k.ravel(), w) for k, w in zip(images, weights, strict=True)], alpha, sigma)
    return mean.reshape(x.shape), evidence, ess


def equivariant(x, images, weights, alpha, sigma):
    _, height, width = x.shape
    shifted = [
        (np.roll(k, (i, j), (1, 2)), w / (height * width))
        for k, w in zip(images, weights, strict=True)
        for i in range(height)
        for j in range(width)
    ]
    return ideal(x, [k for k, _ in shifted], [w for _, w in shifted], alpha, sigma)


def local(x, images, weights, alpha, sigma, size, border):
    def candidates(y, x_, offsets):
        return [(_patch(k, y, x_, offsets), k[:, y, x_], w) for k, w in zip(images, weights, strict=True)]

    return _per_pixel(x, size, border, candidates, alpha, sigma)


def equivariant_local(x, images, weights, alpha, sigma, size, border, patches="all"):
    _, height, width = x.shape

    def allowed(y, x_, offsets):
        if patches == "interior" or border == "zeros":
            wanted = offsets if border == "zeros" else _all_offsets(size)
            return inside(y, x_, height, width, size) == wanted
        return True

    def candidates(y, x_, offsets):
        places = [(i, j) for i in range(height) for j in range(width) if allowed(i, j, offsets)]
        return [(_patch(k, i, j, offsets), k[:, i, j], w / len(places)) for k, w in zip(images, weights, strict=True) for i, j in places]

    return _per_pixel(x, size, border, candidates, alpha, sigma)


def _per_pixel(x, size, border, candidates, alpha, sigma):
    _, height, width = x.shape
    mean, evidence, ess = np.empty(x.shape), np.empty((height, width)), np.empty((height, width))
    for i in range(height):
        for j in range(width):
            offsets = inside(i, j, height, width, size) if border == "zeros" else _all_offsets(size)
            found = posterior(_patch(x, i, j, offsets), candidates(i, j, offsets), alpha, sigma)
            mean[:, i, j], evidence[i, j], ess[i, j] = found
    return mean, evidence, ess
