"""Brute force for the machines beside IS, ES, LS and ELS: their definitions as loops in float64 NumPy. Imports nothing from the package."""

import math

import numpy as np

from tests import reference


def moments(rows, weights):
    """Weighted mean and covariance of rows."""
    weights = np.asarray(weights) / np.sum(weights)
    mean = sum(w * row for w, row in zip(weights, rows, strict=True))
    return mean, sum(w * np.outer(row - mean, row - mean) for w, row in zip(weights, rows, strict=True))


def truncated(matrix, rank):
    """The matrix with its largest eigenvalues alone."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T


def normal(x, mean, matrix, alpha, sigma):
    """Posterior mean and log density of a noisy vector under a Gaussian, by solving with the whole matrix."""
    total = alpha**2 * matrix + sigma**2 * np.eye(len(x))
    solved = np.linalg.solve(total, x - alpha * mean)
    density = -0.5 * ((x - alpha * mean) @ solved + np.linalg.slogdet(total)[1] + len(x) * math.log(2 * math.pi))
    return mean + alpha * matrix @ solved, density


def gaussian(x, images, weights, alpha, sigma, rank=None):
    mean, matrix = moments([k.ravel() for k in images], weights)
    matrix = matrix if rank is None else truncated(matrix, rank)
    mean, density = normal(x.ravel(), mean, matrix, alpha, sigma)
    return mean.reshape(x.shape), density, None


def mixture(x, images, weights, alpha, sigma, parts):
    """One Gaussian for each part; ``parts`` holds a number for every image."""
    means, logits = [], []
    for part in np.unique(parts):
        chosen = parts == part
        mean, matrix = moments([k.ravel() for k in images[chosen]], weights[chosen])
        mean, density = normal(x.ravel(), mean, matrix, alpha, sigma)
        means.append(mean)
        logits.append(density + math.log(weights[chosen].sum() / weights.sum()))
    top = max(logits)
    shares = np.exp(np.array(logits) - top)
    mean = (shares[:, None] * np.array(means)).sum(0) / shares.sum()
    return mean.reshape(x.shape), top + math.log(shares.sum()), None


def nearest(x, images, weights, alpha, sigma, count):
    """The ideal posterior of the nearest, and the share of weight of all others."""
    distances = np.array([((x - alpha * k) ** 2).sum() for k in images])
    keep = np.argsort(distances, kind="stable")[:count]
    shares = weights * np.exp(-(distances - distances.min()) / (2 * sigma**2))
    skipped = 1 - shares[keep].sum() / shares.sum()
    return (*reference.ideal(x, images[keep], weights[keep], alpha, sigma), skipped)


def smoothed(x, images, weights, alpha, sigma, smoothing, copies, seed):
    """Means of the ideal posterior at pairs of copies."""
    eta = np.random.default_rng(seed).standard_normal((copies // 2, *x.shape))
    found = [reference.ideal(x + sign * smoothing * e, images, weights, alpha, sigma) for e in eta for sign in (1, -1)]
    return tuple(sum(values) / copies for values in zip(*found, strict=True))


def linear(x, seen, alpha, sigma):
    """Affine functions of windows, by the normal equations of noisy windows with a constant.

    Args:
        seen: For every pixel of ``x``, the places its window holds, and a list of (clean window, clean pixel, weight) that its function
            is fitted to.
    """
    channels, height, width = x.shape
    out = np.empty(x.shape)
    for i in range(height):
        for j in range(width):
            places, pairs = seen(i, j)
            size = channels * len(places)
            square, right = np.zeros((size + 1, size + 1)), np.zeros((size + 1, channels))
            for window, pixel, weight in pairs:
                row = np.concatenate([[1.0], alpha * window])
                square += weight * np.outer(row, row)
                right += weight * np.outer(row, pixel)
            square[1:, 1:] += sigma**2 * np.eye(size) * sum(weight for *_, weight in pairs)
            query = np.concatenate([[1.0], *([x[c, y, z] for y, z in places] for c in range(channels))])
            out[:, i, j] = np.linalg.solve(square, right).T @ query
    return out, None, None


def wiener(x, images, weights, alpha, sigma, size=None, border="circular", equivariant=True):
    channels, height, width = x.shape
    everywhere = [(y, z) for y in range(height) for z in range(width)]

    def offsets(i, j):
        if border == "zeros":
            return reference.inside(i, j, height, width, size)
        kh, kw = size or (height, width)
        rows = range(-(kh // 2), kh // 2 + 1) if kh < height else range(height)
        cols = range(-(kw // 2), kw // 2 + 1) if kw < width else range(width)
        return tuple((y, z) for y in rows for z in cols)

    def places(i, j, around):
        return [((i + y) % height, (j + z) % width) for y, z in around]

    def seen(i, j):
        around = offsets(i, j)
        alike = [(y, z) for y, z in everywhere if offsets(y, z) == around] if equivariant else [(i, j)]
        pairs = [
            (np.concatenate([[k[c, a, b] for a, b in places(y, z, around)] for c in range(channels)]), k[:, y, z], w)
            for k, w in zip(images, weights, strict=True)
            for y, z in alike
        ]
        return places(i, j, around), pairs

    return linear(x, seen, alpha, sigma)


def pca_sets(images, weights, alpha, sigma, threshold):
    """Which coordinates ``j`` count for the output ``m``: ``sets[m, j]``."""
    _, matrix = moments([k.ravel() for k in images], weights)
    size = len(matrix)
    gain = alpha**2 * matrix @ np.linalg.inv(alpha**2 * matrix + sigma**2 * np.eye(size))
    ratio = np.empty((size, size))
    for j in range(size):
        ratio[j] = np.abs(gain[j] / (gain[j, j] if gain[j, j] >= 1e-6 else 1.0))
    return np.array([[ratio[j, m] >= threshold * ratio.max() for j in range(size)] for m in range(size)])


def pca_local(x, images, weights, alpha, sigma, threshold=0.02):
    sets, q, rows = pca_sets(images, weights, alpha, sigma, threshold), x.ravel(), [k.ravel() for k in images]
    found = [
        reference.posterior(q[s], [(row[s], [row[m]], w) for row, w in zip(rows, weights, strict=True)], alpha, sigma)
        for m, s in enumerate(sets)
    ]
    return tuple(np.array([np.squeeze(f[i]) for f in found]).reshape(x.shape) for i in range(3))


def squares(height, width, size):
    """Pixels of all squares inside an image."""
    kh, kw = min(size[0], height), min(size[1], width)
    return [[(i + a, j + b) for a in range(kh) for b in range(kw)] for i in range(height - kh + 1) for j in range(width - kw + 1)]


def flexible(heat, share):
    """Pixels of every pixel: the smallest sensitivities are left out as long as they add up to less than ``1 - share``."""
    height, width = heat.shape[:2]
    sets = []
    for i in range(height):
        for j in range(width):
            order = sorted(range(height * width), key=lambda p: heat[i, j].ravel()[p])
            left, keep = 0.0, {(i, j)}
            for p in order:
                left += heat[i, j].ravel()[p] / heat[i, j].sum()
                if left >= 1 - share:
                    keep.add((p // width, p % width))
            sets.append(sorted(keep))
    return sets


def sensitivity(images, weights, alpha, sigma):
    """Of the Wiener filter, summed over channels."""
    _, channels, height, width = images.shape
    _, matrix = moments([k.ravel() for k in images], weights)
    gain = np.abs(alpha**2 * matrix @ np.linalg.inv(alpha**2 * matrix + sigma**2 * np.eye(len(matrix))))
    return gain.reshape(channels, height, width, channels, height, width).sum((0, 3))


def patch_set(x, images, weights, alpha, sigma, sets):
    """Posterior means of sets of pixels, averaged over those that hold a pixel."""
    total, held = np.zeros(x.shape), np.zeros(x.shape[1:])
    for pixels in sets:
        rows, cols = (list(axis) for axis in zip(*pixels, strict=True))
        candidates = [(k[:, rows, cols].ravel(), k[:, rows, cols].ravel(), w) for k, w in zip(images, weights, strict=True)]
        mean, *_ = reference.posterior(x[:, rows, cols].ravel(), candidates, alpha, sigma)
        total[:, rows, cols] += mean.reshape(len(x), -1)
        held[rows, cols] += 1
    return total / held, None, None
